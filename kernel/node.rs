// SPDX-License-Identifier: GPL-2.0-only

//! Nodes, their users, and the notices to their owners and holders.
//!
//! # Facets
//!
//! A facet is a [`Node`] of its own with a badge, based on the node that it is a facet of: handles,
//! users and death are those of any node, and so a badge is known apart, and revoked, without
//! further means. What is sent to it arrives as sent to its base. It is dead if its base is.
//!
//! # Who keeps whom
//!
//! A peer's table of ids keeps its nodes and its handles. A handle keeps its node; a node keeps its
//! owner; so there are cycles of references, and what breaks them is that a peer that is closed
//! empties its table and its queue. Nothing relies on a destructor to find out that something is
//! unused: users of a node are counted by themselves.
//!
//! # Users
//!
//! `Node::users` counts the strong handles that exist, plus each strong [`Use`]: a send that has
//! looked the node up, or a message that carries a node home to its owner. When it drops to 0 the
//! owner is told, but only if the node was really passed on since it was told last: a send that
//! fails is no use. It is raised from 0 only under the owner's lock, by the owner or by who makes
//! a weak handle strong, so that with the lock held 0 is final. A facet with users is itself one user
//! of its base.
//!
//! # Notices
//!
//! The notice of a node's death is the handle itself, linked into its holder's queue; that a node is
//! unused is told by the node itself, in its owner's queue. So a notice needs no memory.

use crate::abi;
use crate::bridge::{Counted, Stat};
use crate::errno::ehostunreach;
use crate::handle::{Grade, Handle, HandleList};
use crate::item::{Commit, Deliver, Entry, Item, Ready, Tag};
use crate::memfd::Buffer;
use crate::peer::{Inner, Peer};
use crate::trace;
use core::mem;
use kernel::list::{List, ListArc};
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Full, ordering::Relaxed, Atomic};
use kernel::sync::{new_spinlock, Arc, SpinLock};

/// Beside `BUS1_NODE_*`: see [`Node::new_hidden`].
const HIDDEN: u64 = 1 << 63;

pub(crate) type NodeRef = Arc<Item<Node>>;

/// Who is to be told of the death of a node.
pub(crate) struct Holders {
    /// Set when the node dies: the list is then the destroyer's alone.
    pub(crate) closed: bool,
    pub(crate) list: HandleList,
}

#[pin_data]
pub(crate) struct Node {
    pub(crate) owner: Arc<Peer>,
    pub(crate) cookie: u64,
    /// Of a facet, or 0.
    pub(crate) badge: u64,
    /// If it is a facet.
    pub(crate) base: Option<NodeRef>,
    /// If it is a buffer: no message is sent to it, or to a facet of it.
    pub(crate) buffer: Option<KBox<Buffer>>,
    /// Messages to it are stamped with their sender.
    pub(crate) wants_creds: bool,
    /// Its owner's threads serve calls to it at their own priority.
    pub(crate) no_inherit: bool,
    /// It carries one message.
    pub(crate) is_once: bool,
    /// Neither of both, nor its base, and no buffer.
    pub(crate) is_plain: bool,
    /// It has carried that, or is about to. Under the owner's lock.
    spent: Atomic<bool>,
    /// It is counted as a user of its base. Likewise.
    holds_base: Atomic<bool>,
    /// Set once, when the node gets into the owner's table.
    pub(crate) id: Atomic<u64>,
    /// See the head of this file.
    users: Atomic<i64>,
    /// Set under the owner's lock; no message is linked after that.
    dead: Atomic<bool>,
    /// See [`is_condemned`](Self::is_condemned). Under the owner's lock.
    condemned: Atomic<bool>,
    /// The owner has passed the node on, and was not told since that it is unused. Under the
    /// owner's lock.
    in_use: Atomic<bool>,
    /// How often `in_use` was set. Likewise.
    seq: Atomic<u64>,
    /// What `seq` was when the owner was last told. Likewise.
    told: Atomic<u64>,
    /// Nests in the lock of any one peer.
    #[pin]
    pub(crate) holders: SpinLock<Holders>,
    _counted: Option<Counted>,
}

// SAFETY: The one type of that tag.
unsafe impl Deliver for Node {
    const TAG: Tag = Tag::Node;
}

impl Node {
    /// With `BUS1_NODE_*` flags.
    pub(crate) fn new(owner: Arc<Peer>, cookie: u64, flags: u64) -> Result<NodeRef> {
        Self::alloc(owner, cookie, 0, None, None, flags, false)
    }

    /// What no user sees: it is in no table, and not counted.
    pub(crate) fn new_hidden(owner: Arc<Peer>) -> Result<NodeRef> {
        Self::alloc(owner, 0, 0, None, None, HIDDEN, false)
    }

    pub(crate) fn new_buffer(
        owner: Arc<Peer>,
        cookie: u64,
        buffer: KBox<Buffer>,
    ) -> Result<NodeRef> {
        Self::alloc(owner, cookie, 0, None, Some(buffer), 0, false)
    }

    pub(crate) fn new_facet(base: NodeRef, badge: u64, is_once: bool) -> Result<NodeRef> {
        let owner = base.owner.clone();
        Self::alloc(owner, base.cookie, badge, Some(base), None, 0, is_once)
    }

    fn alloc(
        owner: Arc<Peer>,
        cookie: u64,
        badge: u64,
        base: Option<NodeRef>,
        buffer: Option<KBox<Buffer>>,
        flags: u64,
        is_once: bool,
    ) -> Result<NodeRef> {
        let wants_creds = flags & u64::from(abi::BUS1_NODE_CREDS) != 0;
        let no_inherit = flags & u64::from(abi::BUS1_NODE_NO_INHERIT) != 0;
        let is_special = base.as_ref().map_or(wants_creds || buffer.is_some(), |b| {
            b.wants_creds || b.buffer.is_some()
        });
        let is_plain = !is_once && !is_special;
        let is_counted = flags & HIDDEN == 0;
        Arc::pin_init(
            Item::new(try_pin_init!(Self {
                owner,
                cookie,
                badge,
                base,
                buffer,
                wants_creds,
                no_inherit,
                is_once,
                is_plain,
                spent: Atomic::new(false),
                holds_base: Atomic::new(false),
                id: Atomic::new(0),
                users: Atomic::new(0),
                dead: Atomic::new(false),
                condemned: Atomic::new(false),
                in_use: Atomic::new(false),
                seq: Atomic::new(0),
                told: Atomic::new(0),
                holders <- new_spinlock!(Holders { closed: false, list: List::new() }, "bus1_holders"),
                _counted: is_counted.then(|| Counted::new(Stat::Nodes)),
            }? Error)),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Of the notice that the node is unused.
    pub(crate) fn ready(&self) -> Ready {
        if self.is_dead() {
            Ready::Never
        } else if self.users.load(Relaxed) == 0 {
            Ready::Yes
        } else {
            // Someone tries to pass it on: then the notice is withdrawn, or else it stands.
            Ready::NotYet
        }
    }

    /// The node that this is a facet of, or itself.
    #[inline]
    pub(crate) fn root(&self) -> &Self {
        match &self.base {
            Some(base) => base,
            None => self,
        }
    }

    /// Nobody can send to it any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_dead() || (self.is_once && self.spent.load(Relaxed))
    }

    /// Nothing is delivered through it any more.
    #[inline]
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed) || self.base.as_ref().is_some_and(|b| b.dead.load(Relaxed))
    }

    /// It is about to be destroyed, if all goes well: seen only in the section that decides it.
    pub(crate) fn is_condemned(&self, _owner: &mut Inner) -> bool {
        self.condemned.load(Relaxed)
    }

    pub(crate) fn set_condemned(&self, _owner: &mut Inner, condemned: bool) {
        self.condemned.store(condemned, Relaxed);
    }

    /// A message can not be linked to it.
    #[inline]
    pub(crate) fn refuses(&self, _owner: &mut Inner) -> bool {
        self.is_gone()
    }

    /// A one-shot facet carries its message, or that is taken back.
    pub(crate) fn set_spent(&self, _owner: &mut Inner, spent: bool) {
        self.spent.store(spent, Relaxed);
    }

    /// Nothing is to be noted when it is passed on. Asked by who has a strong use, so that it stays
    /// so. Of a facet its base may have been told of while its own notice was in a receiver's hand.
    #[inline]
    pub(crate) fn is_in_use(&self) -> bool {
        let base = self.base.as_ref();
        self.in_use.load(Relaxed) && base.is_none_or(|b| b.in_use.load(Relaxed))
    }

    /// It gets a user. Only with the owner's lock held can that be the first one.
    #[inline]
    pub(crate) fn add_user(&self) {
        if self.users.fetch_add(1, Relaxed) == 0 {
            self.hold_base();
        }
    }

    fn hold_base(&self) {
        if let Some(base) = &self.base {
            if !self.holds_base.load(Relaxed) && !self.dead.load(Relaxed) {
                self.holds_base.store(true, Relaxed);
                base.users.add(1, Relaxed);
            }
        }
    }

    /// It is no user of its base any more. True if the base has none then.
    fn leave_base(&self, _owner: &mut Inner) -> bool {
        let Some(base) = &self.base else {
            return false;
        };
        if !self.holds_base.load(Relaxed) {
            return false;
        }
        self.holds_base.store(false, Relaxed);
        base.users.fetch_sub(1, Full) == 1
    }

    /// Of the notice that is received.
    pub(crate) fn seq(&self) -> u64 {
        self.told.load(Relaxed)
    }

    /// With the owner's lock held: nothing can use the node from now on, if this is true.
    pub(crate) fn is_unused(&self, _owner: &mut Inner) -> bool {
        self.users.load(Relaxed) == 0
    }
}

/// Marks a node dead, for good.
pub(crate) fn mark_dead(node: &Node, owner: &mut Inner) {
    node.dead.store(true, Relaxed);
    if let Some(buffer) = &node.buffer {
        buffer.end(owner);
    }
}

/// After a facet was marked dead for good: its base may be unused. True if the owner is to be woken.
pub(crate) fn detach(facet: &Node, owner: &mut Inner, commit: Option<&Arc<Commit>>) -> bool {
    match &facet.base {
        Some(base) if facet.leave_base(owner) => tell_unused(base, owner, commit),
        _ => false,
    }
}

/// Tells all holders of a dead node. With a commit flag, they are collected in `told`, to be
/// [settled](settle_told) after it is set; without, each notice stands for itself.
///
/// Preemptible, and linear in the number of holders.
pub(crate) fn tell_holders(node: &NodeRef, commit: Option<&Arc<Commit>>, told: &mut HandleList) {
    let list = {
        let mut holders = node.holders.lock();
        holders.closed = true;
        mem::replace(&mut holders.list, List::new())
    };
    tell(list, commit, told);
}

/// The one holder of a node that dies, or none; nothing happens if there are more.
pub(crate) fn take_holder(node: &NodeRef) -> Option<HandleList> {
    let mut holders = node.holders.lock();
    if holders.list.iter().nth(1).is_some() {
        return None;
    }
    holders.closed = true;
    Some(mem::replace(&mut holders.list, List::new()))
}

/// Tells those that were taken from a node's list: see [`tell_holders`].
pub(crate) fn tell(mut list: HandleList, commit: Option<&Arc<Commit>>, told: &mut HandleList) {
    while let Some(handle) = list.pop_front() {
        {
            let mut inner = handle.peer.inner.lock();
            Handle::tell(handle.as_arc(), &mut inner, commit);
        }
        if commit.is_some() {
            told.push_back(handle);
        } else {
            handle.peer.wake();
        }
        crate::bridge::resched();
    }
}

/// After the commit flag was set.
pub(crate) fn settle_told(told: &mut HandleList, commit: &Arc<Commit>) {
    while let Some(handle) = told.pop_front() {
        let item = &**handle.as_arc();
        handle.peer.inner.lock().queue.settle(item, commit);
        handle.peer.wake();
        crate::bridge::resched();
    }
}

/// A use of a node by a send or a message: see the head of this file. One for a weak handle is no
/// user. Not to be dropped under a lock.
pub(crate) struct Use {
    node: NodeRef,
    weak: bool,
}

impl Use {
    /// By the owner, with its lock held, or by who has a strong handle, with the lock of its peer
    /// held: see [`Inner::grant`].
    #[inline]
    pub(crate) fn new(node: NodeRef) -> Self {
        node.add_user();
        Self { node, weak: false }
    }

    pub(crate) fn weak(node: NodeRef) -> Self {
        Self { node, weak: true }
    }

    pub(crate) fn clone_use(&self) -> Self {
        if !self.weak {
            self.node.add_user();
        }
        Self {
            node: self.node.clone(),
            weak: self.weak,
        }
    }

    /// Becomes a user. EHOSTUNREACH if the node is dead. No lock may be held.
    fn strengthen(&mut self) -> Result {
        if !self.weak {
            return Ok(());
        }
        let node = &self.node;
        let owner = node.owner.inner.lock();
        if owner.closed || node.is_gone() {
            return Err(ehostunreach());
        }
        node.add_user();
        self.weak = false;
        Ok(())
    }

    pub(crate) fn node(&self) -> &NodeRef {
        &self.node
    }
}

impl Drop for Use {
    #[inline]
    fn drop(&mut self) {
        // Full: see `put_user`.
        if !self.weak && self.node.users.fetch_sub(1, Full) == 1 {
            if let Some(notice) = no_users(&self.node, None) {
                notice.wake();
            }
        }
    }
}

/// What is passed on to another peer. Not to be dropped under a lock.
pub(crate) struct Grant {
    pub(crate) user: Use,
    pub(crate) grade: Grade,
}

impl Grant {
    pub(crate) fn node(&self) -> &NodeRef {
        &self.user.node
    }

    /// Makes it weak. No lock may be held.
    pub(crate) fn weaken(&mut self) {
        self.user = Use::weak(self.node().clone());
        self.grade = self.grade.weak();
    }

    /// After it was passed on: the owner's books. No lock may be held.
    pub(crate) fn note_passed(&self) {
        let node = self.node();
        if !self.user.weak {
            let overtaken = note_passed(node, &mut node.owner.inner.lock());
            drop(overtaken);
        }
    }

    /// Makes it strong: to be [noted](Self::note_passed) when it was passed on. EHOSTUNREACH if it was
    /// weak and its node is dead.
    pub(crate) fn strengthen(&mut self) -> Result {
        self.user.strengthen()?;
        self.grade = self.grade.strong();
        Ok(())
    }
}

/// The owner's peer was told and is to be woken; with a commit flag, after it is set and
/// [settled](Self::settle).
pub(crate) struct Told(NodeRef);

impl Told {
    /// The base may have been told by someone else, with another flag.
    pub(crate) fn settle(&self, commit: &Arc<Commit>) {
        let mut owner = self.0.owner.inner.lock();
        owner.queue.settle(&*self.0, commit);
        if let Some(base) = &self.0.base {
            owner.queue.settle(&**base, commit);
        }
    }

    pub(crate) fn wake(&self) {
        self.0.owner.wake();
    }
}

/// Takes one user away; tells the owner if it was the last, and if the base has none then. No
/// lock may be held.
pub(crate) fn put_user(node: &NodeRef, commit: Option<&Arc<Commit>>) -> Option<Told> {
    // Full: what the user did before comes before what the owner does on seeing 0.
    if node.users.fetch_sub(1, Full) != 1 {
        return None;
    }
    no_users(node, commit)
}

/// The last user was just taken away.
fn no_users(node: &NodeRef, commit: Option<&Arc<Commit>>) -> Option<Told> {
    let mut owner = node.owner.inner.lock();
    let mut tells = tell_unused(node, &mut owner, commit);
    if node.users.load(Relaxed) == 0 {
        tells |= detach(node, &mut owner, commit);
    }
    drop(owner);
    tells.then(|| Told(node.clone()))
}

/// Links the notice that a node is unused, if it is, and the owner was not told since it last passed
/// the node on. True if the owner is to be woken: also where the notice stood already and a send
/// that did not come to pass had hidden it.
pub(crate) fn tell_unused(node: &NodeRef, owner: &mut Inner, commit: Option<&Arc<Commit>>) -> bool {
    if owner.closed || node.users.load(Relaxed) != 0 || node.refuses(owner) {
        return false;
    }
    if !node.in_use.load(Relaxed) {
        return true;
    }
    // Else it is in a receiver's hand, who asks again when it is done.
    if let Ok(entry) = ListArc::try_from_arc(node.clone()) {
        node.in_use.store(false, Relaxed);
        node.told.store(node.seq.load(Relaxed), Relaxed);
        push_notice(owner, entry as Entry, commit);
    }
    true
}

/// Notices have the lowest priority.
pub(crate) fn push_notice(peer: &mut Inner, mut notice: Entry, commit: Option<&Arc<Commit>>) {
    trace::noticed(&mut notice, commit);
    peer.queue.push_notice(notice, commit);
}

/// The owner has passed the node on: withdraws the notices, of the node and its base, that were not
/// yet received.
pub(crate) fn note_passed(node: &NodeRef, owner: &mut Inner) -> (Option<Entry>, Option<Entry>) {
    let mut note = |node: &NodeRef| {
        if node.in_use.load(Relaxed) {
            return None;
        }
        node.in_use.store(true, Relaxed);
        node.seq.store(node.seq.load(Relaxed) + 1, Relaxed);
        let overtaken = owner.queue.remove(&**node)?;
        trace::dropped(&overtaken, abi::BUS1_WHY_WITHDRAWN);
        Some(overtaken)
    };
    (note(node), node.base.as_ref().and_then(note))
}

/// Whether a notice in a receiver's hand has been overtaken by a new use.
pub(crate) fn is_overtaken(node: &Node, _owner: &mut Inner) -> bool {
    node.told.load(Relaxed) != node.seq.load(Relaxed)
}
