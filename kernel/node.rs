// SPDX-License-Identifier: GPL-2.0-only

//! Nodes, handles, and the notices between their owners and holders.
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
//! A [`Handle`] exists in its peer's table from the moment that a message (or transfer) with it is
//! on its way to the peer, until it has neither counts nor messages. User space can name it only
//! while it has counts; when it has given all of them back while more is on its way, the handle
//! goes on under a new id.
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
use crate::peer::{Inner, Peer};
use crate::queue::{Commit, Deliver, Entry, Item, Ready, Tag};
use core::mem::{self, MaybeUninit};
use kernel::list::{
    impl_list_arc_safe, impl_list_item, AtomicTracker, List, ListArc, ListLinks, TryNewListArc,
};
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Full, ordering::Relaxed, Atomic};
use kernel::sync::{new_spinlock, Arc, SpinLock, UniqueArc};

pub(crate) type NodeRef = Arc<Item<Node>>;
pub(crate) type HandleRef = Arc<Item<Handle>>;
pub(crate) type HandleList = List<Item<Handle>, 2>;

/// What a handle is good for: its rights, and whether it is weak. Part of its identity (OBJ-4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Grade(u32);

impl Grade {
    const RIGHTS: u32 = abi::BUS1_RIGHT_SEND | abi::BUS1_RIGHT_TRANSFER;
    const WEAK: u32 = 1 << 31;
    /// Of who owns the node.
    pub(crate) const OWNER: Self = Self(Self::RIGHTS);

    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Whether these are rights at all.
    pub(crate) fn are_rights(rights: u32) -> bool {
        rights & !Self::RIGHTS == 0
    }

    pub(crate) fn without(self, rights: u32) -> Self {
        Self(self.0 & !rights)
    }

    pub(crate) fn weak(self) -> Self {
        Self(self.0 | Self::WEAK)
    }

    pub(crate) fn strong(self) -> Self {
        Self(self.0 & !Self::WEAK)
    }

    pub(crate) fn is_weak(self) -> bool {
        self.0 & Self::WEAK != 0
    }

    pub(crate) fn rights(self) -> u32 {
        self.0 & Self::RIGHTS
    }

    /// A strong handle that may send.
    #[inline]
    pub(crate) fn sends(self) -> bool {
        self.0 & (Self::WEAK | abi::BUS1_RIGHT_SEND) == abi::BUS1_RIGHT_SEND
    }

    pub(crate) fn may_pass(self) -> bool {
        self.0 & abi::BUS1_RIGHT_TRANSFER != 0
    }
}

/// Who is to be told of the death of a node.
pub(crate) struct Holders {
    /// Set when the node dies: the list is then the destroyer's alone.
    closed: bool,
    list: HandleList,
}

#[pin_data]
pub(crate) struct Node {
    pub(crate) owner: Arc<Peer>,
    pub(crate) cookie: u64,
    /// Of a facet, or 0.
    pub(crate) badge: u64,
    /// If it is a facet.
    pub(crate) base: Option<NodeRef>,
    /// Messages to it are stamped with their sender.
    pub(crate) wants_creds: bool,
    /// It carries one message.
    pub(crate) is_once: bool,
    /// Neither of both, nor its base.
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
    /// The owner has passed the node on, and was not told since that it is unused. Under the
    /// owner's lock.
    in_use: Atomic<bool>,
    /// How often `in_use` was set. Likewise.
    seq: Atomic<u64>,
    /// What `seq` was when the owner was last told. Likewise.
    told: Atomic<u64>,
    /// Nests in the lock of any one peer.
    #[pin]
    holders: SpinLock<Holders>,
    _counted: Counted,
}

#[pin_data]
pub(crate) struct Handle {
    pub(crate) peer: Arc<Peer>,
    pub(crate) node: NodeRef,
    pub(crate) grade: Grade,
    /// Set once, when the handle gets into the peer's table.
    pub(crate) id: Atomic<u64>,
    /// What user space has received and not released. Written under the peer's lock.
    count: Atomic<u64>,
    /// Deliveries on their way. Likewise.
    coming: Atomic<u64>,
    /// Counts on their way out: they come back if what moves them fails. Likewise.
    moving: Atomic<u64>,
    /// User space has seen the id. Likewise.
    named: Atomic<bool>,
    /// How many receivers have it in their hand: a message that brings it, or its notice. Likewise.
    in_hand: Atomic<u64>,
    /// The node died, and this handle's notice was linked or will be. Likewise.
    dead: Atomic<bool>,
    #[pin]
    links: ListLinks<2>,
    #[pin]
    tracker: AtomicTracker<2>,
    _counted: Counted,
}

impl_list_arc_safe! {
    impl ListArcSafe<2> for Handle { tracked_by tracker: AtomicTracker<2>; }
}
impl_list_arc_safe! {
    impl ListArcSafe<2> for Item<Handle> { tracked_by body: Handle; }
}
impl_list_item! {
    impl ListItem<2> for Item<Handle> { using ListLinks { self.body.links }; }
}

// SAFETY: The one type of that tag.
unsafe impl Deliver for Node {
    const TAG: Tag = Tag::Node;
}

// SAFETY: The one type of that tag.
unsafe impl Deliver for Handle {
    const TAG: Tag = Tag::Handle;
}

impl Node {
    pub(crate) fn new(owner: Arc<Peer>, cookie: u64, wants_creds: bool) -> Result<NodeRef> {
        Self::alloc(owner, cookie, 0, None, wants_creds, false)
    }

    pub(crate) fn new_facet(base: NodeRef, badge: u64, is_once: bool) -> Result<NodeRef> {
        let owner = base.owner.clone();
        Self::alloc(owner, base.cookie, badge, Some(base), false, is_once)
    }

    fn alloc(
        owner: Arc<Peer>,
        cookie: u64,
        badge: u64,
        base: Option<NodeRef>,
        wants_creds: bool,
        is_once: bool,
    ) -> Result<NodeRef> {
        let is_plain = !is_once && !base.as_ref().map_or(wants_creds, |b| b.wants_creds);
        Arc::pin_init(
            Item::new(try_pin_init!(Self {
                owner,
                cookie,
                badge,
                base,
                wants_creds,
                is_once,
                is_plain,
                spent: Atomic::new(false),
                holds_base: Atomic::new(false),
                id: Atomic::new(0),
                users: Atomic::new(0),
                dead: Atomic::new(false),
                in_use: Atomic::new(false),
                seq: Atomic::new(0),
                told: Atomic::new(0),
                holders <- new_spinlock!(Holders { closed: false, list: List::new() }, "bus1_holders"),
                _counted: Counted::new(Stat::Nodes),
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

    /// It was itself marked dead, and is out of its owner's table or about to be.
    pub(crate) fn is_condemned(&self, _owner: &mut Inner) -> bool {
        self.dead.load(Relaxed)
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
    /// so.
    #[inline]
    pub(crate) fn is_in_use(&self) -> bool {
        self.in_use.load(Relaxed)
    }

    /// It gets a user. Only with the owner's lock held can that be the first one.
    fn add_user(&self) {
        if self.users.fetch_add(1, Relaxed) != 0 {
            return;
        }
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

/// Marks a node dead, or takes that back in the same section under the lock.
pub(crate) fn mark_dead(node: &Node, _owner: &mut Inner, dead: bool) {
    node.dead.store(dead, Relaxed);
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
pub(crate) fn settle_told(told: &mut HandleList) {
    while let Some(handle) = told.pop_front() {
        handle.peer.inner.lock().queue.settle(&**handle.as_arc());
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
    /// held.
    pub(crate) fn new(node: &NodeRef, _holder: &mut Inner) -> Self {
        node.add_user();
        Self {
            node: node.clone(),
            weak: false,
        }
    }

    pub(crate) fn weak(node: &NodeRef) -> Self {
        Self {
            node: node.clone(),
            weak: true,
        }
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
    fn drop(&mut self) {
        if self.weak {
            return;
        }
        if let Some(notice) = put_user(&self.node, None) {
            notice.wake();
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

    /// Makes it weak.
    pub(crate) fn weaken(self) -> Self {
        Self {
            user: Use::weak(self.node()),
            grade: self.grade.weak(),
        }
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
    pub(crate) fn settle(&self) {
        let mut owner = self.0.owner.inner.lock();
        owner.queue.settle(&*self.0);
        if let Some(base) = &self.0.base {
            owner.queue.settle(&**base);
        }
    }

    pub(crate) fn wake(&self) {
        self.0.owner.wake();
    }
}

/// Takes one user away; tells the owner if it was the last, and if the base has none then. No
/// lock may be held.
fn put_user(node: &NodeRef, commit: Option<&Arc<Commit>>) -> Option<Told> {
    // Full: what the user did before comes before what the owner does on seeing 0.
    if node.users.fetch_sub(1, Full) != 1 {
        return None;
    }
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
fn push_notice(peer: &mut Inner, notice: Entry, commit: Option<&Arc<Commit>>) {
    match commit {
        Some(commit) => peer.queue.push_pending(notice, 0, commit),
        None => peer.queue.push(notice, 0),
    }
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
        owner.queue.remove(&**node)
    };
    (note(node), node.base.as_ref().and_then(note))
}

/// Whether a notice in a receiver's hand has been overtaken by a new use.
pub(crate) fn is_overtaken(node: &Node, _owner: &mut Inner) -> bool {
    node.told.load(Relaxed) != node.seq.load(Relaxed)
}

impl Handle {
    pub(crate) fn new(
        memory: UniqueArc<MaybeUninit<Item<Handle>>>,
        peer: Arc<Peer>,
        node: NodeRef,
        grade: Grade,
    ) -> Result<ListArc<Item<Handle>, 2>> {
        let handle = memory.pin_init_with(Item::new(
            try_pin_init!(Self {
                peer,
                node,
                grade,
                id: Atomic::new(0),
                count: Atomic::new(0),
                coming: Atomic::new(0),
                moving: Atomic::new(0),
                named: Atomic::new(false),
                in_hand: Atomic::new(0),
                dead: Atomic::new(false),
                links <- ListLinks::new(),
                tracker <- AtomicTracker::new(),
                _counted: Counted::new(Stat::Handles),
            }? Error),
        ))?;
        Ok(handle.into())
    }

    /// Of the notice that its node died.
    pub(crate) fn ready(&self) -> Ready {
        if self.count.load(Relaxed) > 0 {
            Ready::Yes
        } else {
            // The message that brings the handle is on its way, and comes first; or the last count
            // is moving.
            Ready::NotYet
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// User space has it, though its counts may be moving.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.count.load(Relaxed) > 0 || self.moving.load(Relaxed) > 0
    }

    /// A count starts to move.
    pub(crate) fn start_move(&self, peer: &mut Inner) {
        self.add_count(-1, peer);
        self.moving.store(self.moving.load(Relaxed) + 1, Relaxed);
    }

    /// It has moved, and the handle is to be retired if it is idle; or it has not.
    pub(crate) fn end_move(&self, peer: &mut Inner, moved: bool) {
        self.moving.store(self.moving.load(Relaxed) - 1, Relaxed);
        if !moved {
            self.add_count(1, peer);
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    /// Adds to the counts, or takes away. The handle is to be [retired](Peer::retire) if neither
    /// count nor coming is left.
    pub(crate) fn add_count(&self, n: i64, _peer: &mut Inner) {
        self.count
            .store(self.count.load(Relaxed).wrapping_add_signed(n), Relaxed);
        self.named.store(true, Relaxed);
    }

    /// A receiver takes it into its hand, or is done. With the peer's lock held.
    pub(crate) fn add_in_hand(&self, n: i64) {
        self.in_hand
            .store(self.in_hand.load(Relaxed).wrapping_add_signed(n), Relaxed);
    }

    /// User space has released the handle, but more is on its way, and no receiver has the old id in
    /// its hand: what comes is to come under a new id.
    pub(crate) fn wants_new_id(&self) -> bool {
        self.named.load(Relaxed) && !self.is_held() && self.in_hand.load(Relaxed) == 0
    }

    /// The handle starts anew, under another id; its notice, too.
    pub(crate) fn rename(this: &HandleRef, id: u64, peer: &mut Inner) {
        this.id.store(id, Relaxed);
        this.named.store(false, Relaxed);
        if this.is_dead() {
            if let Ok(entry) = ListArc::try_from_arc(this.clone()) {
                push_notice(peer, entry as Entry, None);
            }
        }
    }

    pub(crate) fn add_coming(&self, n: i64, _peer: &mut Inner) {
        self.coming
            .store(self.coming.load(Relaxed).wrapping_add_signed(n), Relaxed);
    }

    pub(crate) fn is_idle(&self) -> bool {
        !self.is_held() && self.coming.load(Relaxed) == 0
    }

    /// Links the notice of death into the holder's queue, once.
    fn tell(this: &HandleRef, peer: &mut Inner, commit: Option<&Arc<Commit>>) {
        if this.is_dead() || peer.closed || this.is_idle() {
            return;
        }
        this.dead.store(true, Relaxed);
        if let Ok(entry) = ListArc::try_from_arc(this.clone()) {
            push_notice(peer, entry as Entry, commit);
        }
    }

    /// Enters a new handle into its node's list; if the node is dead it arrives dead. The handle
    /// is in its peer's table, whose lock is held.
    pub(crate) fn hold(this: ListArc<Item<Handle>, 2>, peer: &mut Inner) {
        let node = this.node.clone();
        if !this.grade.is_weak() {
            node.add_user();
        }
        let mut holders = node.holders.lock();
        if !holders.closed {
            holders.list.push_back(this);
            return;
        }
        drop(holders);
        Handle::tell(this.as_arc(), peer, None);
    }
}

/// A handle that has just left its peer's table, with the notice that it may have had queued. On drop
/// it leaves its node, too, and the owner is told if it was the last user. Not to be dropped under
/// a lock.
pub(crate) struct Retired {
    handle: Option<HandleRef>,
    notice: Option<Entry>,
}

impl Retired {
    pub(crate) fn new(handle: HandleRef, notice: Option<Entry>) -> Self {
        Self {
            handle: Some(handle),
            notice,
        }
    }

    /// As on drop, but the owner's notice waits for the flag.
    pub(crate) fn leave(mut self, commit: Option<&Arc<Commit>>) -> Option<Told> {
        self.leave_inner(commit)
    }

    fn leave_inner(&mut self, commit: Option<&Arc<Commit>>) -> Option<Told> {
        let handle = self.handle.take()?;
        let mut holders = handle.node.holders.lock();
        let links = if holders.closed {
            None
        } else {
            // SAFETY: A handle is in the list of its own node or in none, until that is closed.
            unsafe { holders.list.remove(&handle) }
        };
        drop(holders);
        drop(links);
        let told = if handle.grade.is_weak() {
            None
        } else {
            put_user(&handle.node, commit)
        };
        drop(self.notice.take());
        // The handle may be what keeps its peer.
        let peer = handle.peer.clone();
        peer.spare_handle.put(handle);
        told
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(told) = self.leave_inner(None) {
            told.wake();
        }
    }
}
