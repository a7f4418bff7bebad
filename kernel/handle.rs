// SPDX-License-Identifier: GPL-2.0-only

//! Handles: what a peer holds of a node, and what it is good for.
//!
//! A [`Handle`] exists in its peer's table from the moment that a message (or transfer) with it is
//! on its way to the peer, until it has neither counts nor messages. User space can name it only
//! while it has counts; when it has given all of them back while more is on its way, the handle
//! goes on under a new id.

use crate::abi;
use crate::bridge::{Counted, Stat};
use crate::item::{Commit, Deliver, Entry, Item, Ready, Tag};
use crate::limits::Limit;
use crate::node::{push_notice, put_user, NodeRef, Told};
use crate::peer::{Inner, Peer};
use crate::room::{leave_account, Account, AccountRef};
use crate::trace;
use core::mem::MaybeUninit;
use kernel::list::{
    impl_list_arc_safe, impl_list_item, AtomicTracker, List, ListArc, ListLinks, TryNewListArc,
};
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Full, ordering::Relaxed, Atomic};
use kernel::sync::{Arc, UniqueArc};

pub(crate) type HandleRef = Arc<Item<Handle>>;
pub(crate) type HandleList = List<Item<Handle>, 2>;
pub(crate) type WaitList = List<Item<Handle>, 3>;

/// In the place of an account: the handle is gone, and gets none any more.
const GONE: *mut Account = core::ptr::without_provenance_mut(1);

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
    /// Its peer's user is charged for it. Likewise.
    charged: Atomic<bool>,
    /// It is in its peer's list of handles that can be sent through again. Likewise.
    told: Atomic<bool>,
    /// The peer's account at the node's owner, null, or [`GONE`]. Set under the owner's lock.
    account: Atomic<*mut Account>,
    /// It waits for room there. Under the owner's lock.
    waiting: Atomic<bool>,
    #[pin]
    links: ListLinks<2>,
    #[pin]
    wait_links: ListLinks<3>,
    #[pin]
    tracker: AtomicTracker<2>,
    #[pin]
    wait_tracker: AtomicTracker<3>,
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
impl_list_arc_safe! {
    impl ListArcSafe<3> for Handle { tracked_by wait_tracker: AtomicTracker<3>; }
}
impl_list_arc_safe! {
    impl ListArcSafe<3> for Item<Handle> { tracked_by body: Handle; }
}
impl_list_item! {
    impl ListItem<3> for Item<Handle> { using ListLinks { self.body.wait_links }; }
}

// SAFETY: The one type of that tag.
unsafe impl Deliver for Handle {
    const TAG: Tag = Tag::Handle;
}

impl Handle {
    pub(crate) fn new(
        memory: UniqueArc<MaybeUninit<Item<Handle>>>,
        peer: Arc<Peer>,
        node: NodeRef,
        grade: Grade,
    ) -> Result<ListArc<Item<Handle>, 2>> {
        let handle = memory.pin_init_with(Item::new(try_pin_init!(Self {
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
                charged: Atomic::new(false),
                told: Atomic::new(false),
                account: Atomic::new(core::ptr::null_mut()),
                waiting: Atomic::new(false),
                links <- ListLinks::new(),
                wait_links <- ListLinks::new(),
                tracker <- AtomicTracker::new(),
                wait_tracker <- AtomicTracker::new(),
                _counted: Counted::new(Stat::Handles),
            }? Error)))?;
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

    /// User space has it now: its user is charged, once. A peer does not get more than it may have:
    /// see [`Peer::admit`].
    #[inline]
    pub(crate) fn charge(&self) {
        if !self.charged.load(Relaxed) {
            self.charged.store(true, Relaxed);
            self.peer.user.charge_anyway(Limit::Handles, 1);
        }
    }

    /// The account that a message through it is charged to, if it has one by now.
    #[inline]
    pub(crate) fn account(&self) -> Option<AccountRef> {
        let account = self.account.load(Relaxed);
        if account == GONE {
            return None;
        }
        // SAFETY: Of the book of the node's owner, which the handle keeps.
        unsafe { AccountRef::from_ptr(account) }
    }

    /// Refers to an account from now on. With the owner's lock held. False if it has one, or is gone.
    pub(crate) fn set_account(&self, account: AccountRef) -> bool {
        let none = core::ptr::null_mut();
        self.account.cmpxchg(none, account.as_ptr(), Full).is_ok()
    }

    /// The account that it referred to; it is gone.
    #[inline]
    pub(crate) fn take_account(&self) -> Option<AccountRef> {
        let account = self.account.xchg(GONE, Full);
        if account == GONE {
            return None;
        }
        // SAFETY: As in `account`.
        unsafe { AccountRef::from_ptr(account) }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Relaxed)
    }

    pub(crate) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Relaxed);
    }

    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Relaxed)
    }

    pub(crate) fn set_told(&self, told: bool) {
        self.told.store(told, Relaxed);
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
    pub(crate) fn tell(this: &HandleRef, peer: &mut Inner, commit: Option<&Arc<Commit>>) {
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
        if let Some(notice) = self.notice.take() {
            trace::dropped(&notice, abi::BUS1_WHY_WITHDRAWN);
        }
        leave_account(&handle);
        if handle.charged.load(Relaxed) {
            handle.peer.user.discharge(Limit::Handles, 1);
        }
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
