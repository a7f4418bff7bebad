// SPDX-License-Identifier: GPL-2.0-only

//! Nodes, handles, and the notices between their owners and holders.
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
//! `Node::users` counts the handles that exist, plus each [`Use`]: a send that has looked the node
//! up, or a message that carries a node home to its owner. When it drops to 0 the owner is told,
//! but only if the node was really passed on since it was told last: a send that fails is no use.
//! Only the owner can raise it from 0, under its own lock, so that with the lock held 0 is final.
//!
//! # Notices
//!
//! The notice of a node's death is the handle itself, linked into its holder's queue; that a node is
//! unused is told by the node itself, in its owner's queue. So a notice needs no memory.

use crate::bridge::{Counted, Stat};
use crate::message::Kind;
use crate::peer::{Inner, Peer};
use crate::queue::{Commit, Deliver, Entry, Item, Ready};
use core::mem;
use kernel::list::{
    impl_list_arc_safe, impl_list_item, AtomicTracker, List, ListArc, ListLinks, TryNewListArc,
};
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Full, ordering::Relaxed, Atomic};
use kernel::sync::{new_spinlock, Arc, SpinLock};

pub(crate) type NodeRef = Arc<Item<Node>>;
pub(crate) type HandleRef = Arc<Item<Handle>>;
pub(crate) type HandleList = List<Item<Handle>, 2>;

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
    /// Set once, when the handle gets into the peer's table.
    pub(crate) id: Atomic<u64>,
    /// What user space has received and not released. Written under the peer's lock.
    count: Atomic<u64>,
    /// Deliveries on their way. Likewise.
    coming: Atomic<u64>,
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

impl Deliver for Node {
    fn ready(&self) -> Ready {
        if self.users.load(Relaxed) == 0 {
            Ready::Yes
        } else {
            // Someone tries to pass it on: then the notice is withdrawn, or else it stands.
            Ready::NotYet
        }
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Unused(self)
    }
}

impl Deliver for Handle {
    fn ready(&self) -> Ready {
        if self.count.load(Relaxed) > 0 {
            Ready::Yes
        } else {
            // The message that brings the handle is on its way, and comes first.
            Ready::NotYet
        }
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Dead(self)
    }
}

impl Node {
    pub(crate) fn new(owner: Arc<Peer>, cookie: u64) -> Result<NodeRef> {
        Arc::pin_init(
            Item::new(try_pin_init!(Self {
                owner,
                cookie,
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

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
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

/// A use of a node by a send or a message: see the head of this file. Not to be dropped under a
/// lock.
pub(crate) struct Use(NodeRef);

impl Use {
    /// By the owner, with its lock held, or by a holder, with the lock of its peer held.
    pub(crate) fn new(node: &NodeRef, _holder: &mut Inner) -> Self {
        node.users.add(1, Relaxed);
        Self(node.clone())
    }

    pub(crate) fn clone_use(&self) -> Self {
        self.0.users.add(1, Relaxed);
        Self(self.0.clone())
    }

    pub(crate) fn node(&self) -> &NodeRef {
        &self.0
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(notice) = put_user(&self.0, None) {
            notice.wake();
        }
    }
}

/// The owner's peer was told and is to be woken; with a commit flag, after it is set and
/// [settled](Self::settle).
pub(crate) struct Told(NodeRef);

impl Told {
    pub(crate) fn settle(&self) {
        self.0.owner.inner.lock().queue.settle(&*self.0);
    }

    pub(crate) fn wake(&self) {
        self.0.owner.wake();
    }
}

/// Takes one user away; tells the owner if it was the last. No lock may be held.
fn put_user(node: &NodeRef, commit: Option<&Arc<Commit>>) -> Option<Told> {
    // Full: what the user did before comes before what the owner does on seeing 0.
    if node.users.fetch_sub(1, Full) != 1 {
        return None;
    }
    let mut owner = node.owner.inner.lock();
    let tells = tell_unused(node, &mut owner, commit);
    drop(owner);
    tells.then(|| Told(node.clone()))
}

/// Links the notice that a node is unused, if it is, and the owner was not told since it last passed
/// the node on. True if the owner is to be woken: also where the notice stood already and a send
/// that did not come to pass had hidden it.
pub(crate) fn tell_unused(node: &NodeRef, owner: &mut Inner, commit: Option<&Arc<Commit>>) -> bool {
    if owner.closed || node.is_dead() || node.users.load(Relaxed) != 0 {
        return false;
    }
    if !node.in_use.load(Relaxed) {
        return true;
    }
    // Else it is in a receiver's hand, who asks again when it is done.
    if let Ok(entry) = ListArc::try_from_arc(node.clone()) {
        node.in_use.store(false, Relaxed);
        node.told.store(node.seq.load(Relaxed), Relaxed);
        owner.queue.push(entry as Entry, commit);
    }
    true
}

/// The owner has passed the node on: withdraws a notice that was not yet received.
pub(crate) fn note_passed(node: &NodeRef, owner: &mut Inner) -> Option<Entry> {
    if node.in_use.load(Relaxed) {
        return None;
    }
    node.in_use.store(true, Relaxed);
    node.seq.store(node.seq.load(Relaxed) + 1, Relaxed);
    owner.queue.remove(&**node)
}

/// Whether a notice in a receiver's hand has been overtaken by a new use.
pub(crate) fn is_overtaken(node: &Node, _owner: &mut Inner) -> bool {
    node.told.load(Relaxed) != node.seq.load(Relaxed)
}

impl Handle {
    pub(crate) fn new(peer: Arc<Peer>, node: NodeRef) -> Result<ListArc<Item<Handle>, 2>> {
        ListArc::pin_init(
            Item::new(try_pin_init!(Self {
                peer,
                node,
                id: Atomic::new(0),
                count: Atomic::new(0),
                coming: Atomic::new(0),
                named: Atomic::new(false),
                in_hand: Atomic::new(0),
                dead: Atomic::new(false),
                links <- ListLinks::new(),
                tracker <- AtomicTracker::new(),
                _counted: Counted::new(Stat::Handles),
            }? Error)),
            GFP_KERNEL_ACCOUNT,
        )
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
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
        self.named.load(Relaxed) && self.count.load(Relaxed) == 0 && self.in_hand.load(Relaxed) == 0
    }

    /// The handle starts anew, under another id; its notice, too.
    pub(crate) fn rename(this: &HandleRef, id: u64, peer: &mut Inner) {
        this.id.store(id, Relaxed);
        this.named.store(false, Relaxed);
        if this.is_dead() {
            if let Ok(entry) = ListArc::try_from_arc(this.clone()) {
                peer.queue.push(entry as Entry, None);
            }
        }
    }

    pub(crate) fn add_coming(&self, n: i64, _peer: &mut Inner) {
        self.coming
            .store(self.coming.load(Relaxed).wrapping_add_signed(n), Relaxed);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.count.load(Relaxed) == 0 && self.coming.load(Relaxed) == 0
    }

    /// Links the notice of death into the holder's queue, once.
    fn tell(this: &HandleRef, peer: &mut Inner, commit: Option<&Arc<Commit>>) {
        if this.is_dead() || peer.closed || this.is_idle() {
            return;
        }
        this.dead.store(true, Relaxed);
        if let Ok(entry) = ListArc::try_from_arc(this.clone()) {
            peer.queue.push(entry as Entry, commit);
        }
    }

    /// Enters a new handle into its node's list; if the node is dead it arrives dead. The handle
    /// is in its peer's table, whose lock is held.
    pub(crate) fn hold(this: ListArc<Item<Handle>, 2>, peer: &mut Inner) {
        let node = this.node.clone();
        node.users.add(1, Relaxed);
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
    _notice: Option<Entry>,
}

impl Retired {
    pub(crate) fn new(handle: HandleRef, notice: Option<Entry>) -> Self {
        Self {
            handle: Some(handle),
            _notice: notice,
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
        put_user(&handle.node, commit)
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(told) = self.leave_inner(None) {
            told.wake();
        }
    }
}
