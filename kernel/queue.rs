// SPDX-License-Identifier: GPL-2.0-only

//! The queue of a peer, and the order of what comes out of it.
//!
//! # Order
//!
//! A unicast is linked under the lock of the receiver, and that is all of it. A multicast is linked
//! into each receiver's queue uncommitted, sharing one [`Commit`] flag; then the flag is set: at
//! that instant it takes effect everywhere; then each copy is *settled*, which only spares the
//! receiver to look at the flag.
//!
//! A receiver skips what is not committed, so a sender that stalls between linking and commit
//! delays nobody (ORD-5). What must not happen is that it skips a copy *m* and takes a later *n*
//! that was caused by *m* (ORD-1, ORD-2). If *m*'s commit happens before *n*'s sending began, then
//! *m* stands before *n* in the queue. So the flags are read from the newest copy to the oldest,
//! with acquire: whoever sees *n* committed sees *m* committed afterwards. What is settled, and
//! all unicasts, was so before this receiver took the lock, that is before it reads any flag.
//! Only copies that are not settled are read: as many as there are senders stalled right now, not
//! as many as the queue is long.
//!
//! # Rules
//!
//! A queue stands under the lock of its peer, and an item is only ever in the queue of one peer,
//! its home. Lists own their items, as `ListArc`; an item that is in no list can be linked by
//! whoever holds an `Arc` of it. The queue knows nothing of what its items are but
//! [`Deliver::ready`].

use core::cell::UnsafeCell;
use kernel::list::{
    impl_list_arc_safe, impl_list_item, AtomicTracker, List, ListArc, ListItem, ListLinks,
    ListLinksSelfPtr, TryNewListArc,
};
use kernel::prelude::*;
use kernel::sync::atomic::{ordering, Atomic};
use kernel::sync::Arc;
use kernel::types::Opaque;

/// Whether an item may be received now.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Ready {
    Yes,
    /// Not yet; what it waits for is on its way to this queue.
    NotYet,
    /// Never more: it is to be dropped.
    Never,
}

/// What can stand in a queue.
pub(crate) trait Deliver: Send + Sync {
    /// Called with the lock of the home peer held.
    fn ready(&self) -> Ready;

    fn kind(&self) -> crate::message::Kind<'_>;
}

/// The instant of a multicast: not set, then set.
pub(crate) struct Commit(Atomic<bool>);

impl Commit {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Self(Atomic::new(false)), GFP_KERNEL_ACCOUNT)?)
    }

    /// Release: everything that was linked is visible to whoever sees the flag. Pairs with
    /// [`is_set`](Self::is_set).
    pub(crate) fn set(&self) {
        self.0.store(true, ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(ordering::Acquire)
    }
}

struct State {
    /// In the queue (not: in no list, or in the hand of a receiver).
    queued: bool,
    /// Linked and not settled: it is in `pending`, too.
    commit: Option<Arc<Commit>>,
}

/// Something with the links that it takes to stand in a queue.
#[pin_data]
#[repr(C)]
pub(crate) struct Item<T: ?Sized> {
    #[pin]
    links: ListLinksSelfPtr<Item<dyn Deliver>>,
    #[pin]
    pending: ListLinks<1>,
    #[pin]
    tracker: AtomicTracker,
    #[pin]
    pending_tracker: AtomicTracker<1>,
    /// Under the lock of the home peer: only [`Queue`] touches it.
    state: UnsafeCell<State>,
    #[pin]
    pub(crate) body: T,
}

// SAFETY: The cells are touched only by `Queue` methods that have `&mut` on the queue of the item's
// home peer.
unsafe impl<T: ?Sized + Send> Send for Item<T> {}
// SAFETY: As above.
unsafe impl<T: ?Sized + Sync> Sync for Item<T> {}

impl_list_arc_safe! {
    impl{T: ?Sized} ListArcSafe<0> for Item<T> { tracked_by tracker: AtomicTracker; }
}
impl_list_arc_safe! {
    impl{T: ?Sized} ListArcSafe<1> for Item<T> { tracked_by pending_tracker: AtomicTracker<1>; }
}
impl_list_item! {
    impl ListItem<0> for Item<dyn Deliver> { using ListLinksSelfPtr { self.links }; }
}

// SAFETY: The kernel's macro supports only one list of trait objects, so this does what it does, but
// for one thing: the fat pointer to the item is the one noted in `links`. It is there, since an item
// is linked into the queue before it is linked into `pending`, and nothing ever clears it.
unsafe impl ListItem<1> for Item<dyn Deliver> {
    unsafe fn view_links(me: *const Self) -> *mut ListLinks<1> {
        // SAFETY: `me` is valid.
        unsafe { &raw const (*me).pending }.cast_mut()
    }

    unsafe fn prepare_to_insert(me: *const Self) -> *mut ListLinks<1> {
        // SAFETY: By the caller.
        unsafe { Self::view_links(me) }
    }

    unsafe fn view_value(links: *mut ListLinks<1>) -> *const Self {
        // The offset is the same for all bodies: the struct is `repr(C)` and the body is last.
        let thin = kernel::container_of!(links, Item<()>, pending);
        // SAFETY: `links` is of a valid item, whose `links` were used.
        unsafe {
            let noted = ListLinksSelfPtr::raw_get_self_ptr(&raw const (*thin).links);
            Opaque::cast_into(noted).read()
        }
    }

    unsafe fn post_remove(links: *mut ListLinks<1>) -> *const Self {
        // SAFETY: By the caller.
        unsafe { Self::view_value(links) }
    }
}

impl<T> Item<T> {
    pub(crate) fn new<E>(body: impl PinInit<T, E>) -> impl PinInit<Self, Error>
    where
        Error: From<E>,
    {
        try_pin_init!(Self {
            links <- ListLinksSelfPtr::new(),
            pending <- ListLinks::new(),
            tracker <- AtomicTracker::new(),
            pending_tracker <- AtomicTracker::new(),
            state: UnsafeCell::new(State { queued: false, commit: None }),
            body <- body,
        })
    }
}

impl<T: ?Sized> core::ops::Deref for Item<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.body
    }
}

pub(crate) type DynItem = Item<dyn Deliver>;
pub(crate) type Items = List<DynItem>;
pub(crate) type Entry = ListArc<DynItem>;

pub(crate) struct Queue {
    items: Items,
    pending: List<DynItem, 1>,
    len: usize,
}

impl Queue {
    pub(crate) const fn new() -> Self {
        Self {
            items: List::new(),
            pending: List::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn state<'a, T: ?Sized>(&'a mut self, item: &'a Item<T>) -> &'a mut State {
        // SAFETY: We have `&mut` on the queue of the item's home, and no other queue touches it.
        unsafe { &mut *item.state.get() }
    }

    /// Links an item at the end. With a commit flag it waits for that and for
    /// [`settle`](Self::settle); without, it is received from now on.
    pub(crate) fn push(&mut self, item: Entry, commit: Option<&Arc<Commit>>) {
        let waits = commit.and_then(|commit| {
            // Always there: whoever has the item's one `ListArc` links it into both.
            let second = ListArc::<_, 1>::try_from_arc(item.clone_arc()).ok()?;
            Some((second, commit.clone()))
        });
        let state = self.state(&item);
        state.queued = true;
        let second = waits.map(|(second, commit)| {
            state.commit = Some(commit);
            second
        });
        self.items.push_back(item);
        self.len += 1;
        if let Some(second) = second {
            self.pending.push_back(second);
        }
    }

    /// Puts an item back that was taken off by [`next`](Self::next).
    pub(crate) fn push_front(&mut self, item: Entry) {
        self.state(&item).queued = true;
        self.items.push_front(item);
        self.len += 1;
    }

    /// After the commit flag was set: spares receivers to look at it.
    pub(crate) fn settle<T: ?Sized>(&mut self, item: &Item<T>)
    where
        Item<T>: AsDyn,
    {
        if self.state(item).commit.take().is_some() {
            // SAFETY: An item with a commit flag is in `pending`.
            drop(unsafe { self.pending.remove(item.as_dyn()) });
        }
    }

    /// Unlinks an item, if it is queued.
    pub(crate) fn remove<T: ?Sized>(&mut self, item: &Item<T>) -> Option<Entry>
    where
        Item<T>: AsDyn,
    {
        self.settle(item);
        let state = self.state(item);
        if !state.queued {
            return None;
        }
        state.queued = false;
        self.len -= 1;
        // SAFETY: An item that is marked queued is in `items`.
        unsafe { self.items.remove(item.as_dyn()) }
    }

    /// Settles what is committed, newest first. See the head of this file.
    #[cold]
    fn read_flags(&mut self) {
        let mut cursor = self.pending.cursor_back();
        loop {
            let Some(peek) = cursor.peek_prev() else {
                break;
            };
            // SAFETY: We have `&mut` on the home queue of everything in it.
            let state = unsafe { &mut *peek.state.get() };
            if state.commit.as_ref().is_some_and(|commit| commit.is_set()) {
                // Not the last reference of the flag: the sender has one until it has settled.
                state.commit = None;
                drop(peek.remove());
            } else if !cursor.move_prev() {
                break;
            }
        }
    }

    /// Whether [`next`](Self::next) would find something. Drops nothing.
    pub(crate) fn has_next(&mut self) -> bool {
        if !self.pending.is_empty() {
            self.read_flags();
        }
        for item in self.items.iter() {
            // SAFETY: We have `&mut` on the home queue of everything in it.
            let state = unsafe { &*item.state.get() };
            if state.commit.is_none() && item.ready() == Ready::Yes {
                return true;
            }
        }
        false
    }

    /// Takes the next item off for which `take` says so, given the oldest that is ready. What can
    /// never be received goes to `garbage`, to be dropped by the caller without the lock.
    pub(crate) fn next(
        &mut self,
        garbage: &mut Items,
        take: impl FnOnce(&DynItem) -> bool,
    ) -> Option<Entry> {
        if !self.pending.is_empty() {
            self.read_flags();
        }
        let mut cursor = self.items.cursor_front();
        loop {
            let peek = cursor.peek_next()?;
            // SAFETY: We have `&mut` on the home queue of everything in it.
            let state = unsafe { &mut *peek.state.get() };
            let ready = if state.commit.is_some() {
                Ready::NotYet
            } else {
                peek.ready()
            };
            match ready {
                Ready::Yes => {
                    if !take(&peek) {
                        return None;
                    }
                    state.queued = false;
                    self.len -= 1;
                    return Some(peek.remove());
                }
                Ready::Never => {
                    state.queued = false;
                    self.len -= 1;
                    garbage.push_back(peek.remove());
                }
                Ready::NotYet => {
                    cursor.move_next();
                }
            }
        }
    }

    /// Drops what can never be received among the oldest `n` items, so that it does not keep memory.
    pub(crate) fn prune(&mut self, garbage: &mut Items, n: usize) {
        let mut cursor = self.items.cursor_front();
        for _ in 0..n {
            let Some(peek) = cursor.peek_next() else {
                break;
            };
            // SAFETY: We have `&mut` on the home queue of everything in it.
            let state = unsafe { &mut *peek.state.get() };
            if state.commit.is_none() && peek.ready() == Ready::Never {
                state.queued = false;
                self.len -= 1;
                garbage.push_back(peek.remove());
            } else {
                cursor.move_next();
            }
        }
    }

    /// Takes everything out, committed or not; nothing may be linked any more.
    pub(crate) fn close(&mut self) -> Items {
        while let Some(item) = self.pending.pop_front() {
            self.state(&item).commit = None;
        }
        let mut all = List::new();
        while let Some(item) = self.items.pop_front() {
            self.state(&item).queued = false;
            all.push_back(item);
        }
        self.len = 0;
        all
    }
}

/// An item as a trait object.
pub(crate) trait AsDyn {
    fn as_dyn(&self) -> &DynItem;
}

impl<T: Deliver + 'static> AsDyn for Item<T> {
    fn as_dyn(&self) -> &DynItem {
        self
    }
}

impl AsDyn for DynItem {
    fn as_dyn(&self) -> &DynItem {
        self
    }
}

#[kernel::macros::kunit_tests(bus1_queue)]
mod tests {
    use super::*;
    use crate::message::Kind;

    #[pin_data]
    struct Number {
        n: u32,
        ready: Atomic<u32>,
    }

    impl Deliver for Number {
        fn ready(&self) -> Ready {
            match self.ready.load(ordering::Relaxed) {
                0 => Ready::Yes,
                1 => Ready::NotYet,
                _ => Ready::Never,
            }
        }

        fn kind(&self) -> Kind<'_> {
            Kind::Test(self.n)
        }
    }

    fn number(n: u32) -> Result<Arc<Item<Number>>> {
        Arc::pin_init(
            Item::new(try_pin_init!(Number { n, ready: Atomic::new(0) }? Error)),
            GFP_KERNEL,
        )
    }

    fn entry(item: &Arc<Item<Number>>) -> Result<Entry> {
        let entry = ListArc::try_from_arc(item.clone()).map_err(|_| EBUSY)?;
        Ok(entry as Entry)
    }

    fn next(q: &mut Queue) -> Option<u32> {
        let mut garbage = List::new();
        q.next(&mut garbage, |_| true).map(|i| match i.kind() {
            Kind::Test(n) => n,
            _ => 0,
        })
    }

    #[test]
    fn fifo_and_removal() -> Result {
        let mut q = Queue::new();
        let items = [number(1)?, number(2)?, number(3)?];
        for i in &items {
            q.push(entry(i)?, None);
        }
        assert!(entry(&items[1]).is_err());
        assert!(q.remove(&items[1]).is_some());
        assert!(q.remove(&items[1]).is_none());
        assert_eq!(q.len(), 2);
        assert_eq!(next(&mut q), Some(1));
        assert_eq!(next(&mut q), Some(3));
        assert_eq!(next(&mut q), None);
        assert_eq!(q.len(), 0);
        Ok(())
    }

    #[test]
    fn uncommitted_is_skipped_and_keeps_its_place() -> Result {
        let mut q = Queue::new();
        let (a, b, c) = (number(1)?, number(2)?, number(3)?);
        let commit = Commit::new()?;
        q.push(entry(&a)?, None);
        q.push(entry(&b)?, Some(&commit));
        q.push(entry(&c)?, None);
        assert_eq!(next(&mut q), Some(1));
        assert_eq!(next(&mut q), Some(3));
        assert_eq!(next(&mut q), None);
        q.push(entry(&c)?, None);
        commit.set();
        assert_eq!(next(&mut q), Some(2));
        assert_eq!(next(&mut q), Some(3));
        q.settle(&b);
        assert_eq!(q.len(), 0);
        Ok(())
    }

    #[test]
    fn settle_remove_and_close_leave_nothing_pending() -> Result {
        let mut q = Queue::new();
        let (a, b, c) = (number(1)?, number(2)?, number(3)?);
        let commit = Commit::new()?;
        for i in [&a, &b, &c] {
            q.push(entry(i)?, Some(&commit));
        }
        assert!(q.remove(&a).is_some());
        q.settle(&b);
        assert_eq!(next(&mut q), Some(2));
        drop(q.close());
        assert!(q.pending.is_empty());
        for i in [&a, &b, &c] {
            q.push(entry(i)?, Some(&commit));
        }
        commit.set();
        assert_eq!(next(&mut q), Some(1));
        assert_eq!(next(&mut q), Some(2));
        assert_eq!(next(&mut q), Some(3));
        assert!(q.pending.is_empty());
        Ok(())
    }

    #[test]
    fn readiness_is_respected() -> Result {
        let mut q = Queue::new();
        let (a, b, c) = (number(1)?, number(2)?, number(3)?);
        a.ready.store(1, ordering::Relaxed);
        b.ready.store(2, ordering::Relaxed);
        for i in [&a, &b, &c] {
            q.push(entry(i)?, None);
        }
        assert_eq!(next(&mut q), Some(3));
        assert_eq!(q.len(), 1);
        // What was dropped can be linked again, what was skipped can not.
        assert!(entry(&b).is_ok());
        assert!(entry(&a).is_err());
        a.ready.store(0, ordering::Relaxed);
        assert_eq!(next(&mut q), Some(1));
        Ok(())
    }

    #[test]
    fn put_back_is_first() -> Result {
        let mut q = Queue::new();
        let (a, b) = (number(1)?, number(2)?);
        q.push(entry(&a)?, None);
        q.push(entry(&b)?, None);
        let mut garbage = List::new();
        let first = q.next(&mut garbage, |_| true).ok_or(EINVAL)?;
        q.push_front(first);
        assert!(q.next(&mut garbage, |_| false).is_none());
        assert_eq!(next(&mut q), Some(1));
        assert_eq!(next(&mut q), Some(2));
        Ok(())
    }
}
