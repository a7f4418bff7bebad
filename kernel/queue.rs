// SPDX-License-Identifier: GPL-2.0-only

//! The queue of a peer, and the order of what comes out of it.
//!
//! # Order
//!
//! A unicast is linked under the lock of the receiver, and that is all of it. A multicast is linked
//! into each receiver's queue uncommitted, sharing one [`Commit`] flag; then the flag is set: at
//! that instant it takes effect everywhere. Whoever comes to the queue next *settles* the copy, which
//! only spares others to look at the flag: a receiver, who looks at all of them, or who links
//! another, who looks at the oldest; notices are settled by who has sent them.
//!
//! A receiver skips what is not committed, so a sender that stalls between linking and commit
//! delays nobody (ORD-5). What must not happen is that it skips a copy *m* and takes a later *n*
//! that was caused by *m* (ORD-1, ORD-2). If *m*'s commit happened before *n*'s sending began, then
//! *m* stands before *n*, and *n* was linked under the lock that the receiver has taken since: it
//! sees *m*'s flag as set, in whichever order it reads. The flags are read from the newest copy to
//! the oldest, with acquire, for the copies of one send to one peer: whoever sees the later one
//! committed sees the earlier one so, too. What is settled, and all unicasts, was so before this
//! receiver took the lock. `docs/model` explores all of this.
//!
//! Only copies that are not settled are read: as many as there are senders stalled right now, and
//! those that came since someone looked, not as many as the queue is long.
//!
//! # Priority
//!
//! There is a list for each priority, and the highest that has something to receive comes first. All
//! of the above holds among items of one priority; by default all have priority 0.
//!
//! # Rules
//!
//! A queue stands under the lock of its peer, and an item is only ever in the queue of one peer,
//! its home. Lists own their items, as `ListArc`; an item that is in no list can be linked by
//! whoever holds an `Arc` of it. The queue knows nothing of what its items are but
//! [`Kind::ready`].

use crate::abi;
use crate::item::{AsDyn, Commit, DynItem, Entry, Item, Items, Ready, State};
use core::mem;
use kernel::list::{List, ListArc};
use kernel::sync::{Arc, ArcBorrow};

const LEVELS: usize = abi::BUS1_MAX_PRIORITY as usize + 1;

pub(crate) struct Queue {
    /// By priority.
    items: [Items; LEVELS],
    /// Which of them are not empty, as bits.
    levels: u32,
    pending: List<DynItem, 1>,
    n_pending: usize,
    len: usize,
    /// How many of them are notices.
    notices: usize,
    /// Nothing is linked any more, nor unlinked.
    closed: bool,
}

/// All that was in a queue when it was closed. The items are in nobody else's reach.
pub(crate) struct Remains {
    items: [Items; LEVELS],
    pending: List<DynItem, 1>,
}

impl Remains {
    /// Preemptible. No lock may be held. `drop_item` drops what could have been received.
    pub(crate) fn drop_all(mut self, drop_item: impl Fn(Entry)) {
        while let Some(item) = self.pending.pop_front() {
            drop(item);
            crate::bridge::resched();
        }
        for items in &mut self.items {
            while let Some(item) = items.pop_front() {
                drop_item(item);
                crate::bridge::resched();
            }
        }
    }
}

const _: () = assert!(LEVELS == 32);

impl Queue {
    pub(crate) const fn new() -> Self {
        Self {
            items: [const { List::new() }; LEVELS],
            levels: 0,
            pending: List::new(),
            n_pending: 0,
            len: 0,
            notices: 0,
            closed: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// There are items that wait for a flag.
    #[inline]
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(crate) fn n_notices(&self) -> usize {
        self.notices
    }

    /// Those that wait for a flag, or to be settled.
    pub(crate) fn n_pending(&mut self) -> usize {
        self.read_flags();
        self.n_pending
    }

    #[inline]
    fn state<'a, T: ?Sized>(&'a mut self, item: &'a Item<T>) -> &'a mut State {
        // SAFETY: We have `&mut` on the queue of the item's home, and no other queue touches it.
        unsafe { &mut *item.state.get() }
    }

    /// Links a notice at the end of the lowest priority.
    pub(crate) fn push_notice(&mut self, notice: Entry, commit: Option<&Arc<Commit>>) {
        self.notices += 1;
        match commit {
            Some(commit) => self.push_pending(notice, 0, commit),
            None => self.push(notice, 0),
        }
    }

    /// Links a message at the end, to be received from now on.
    #[inline]
    pub(crate) fn push(&mut self, item: Entry, level: u8) {
        let level = level & (LEVELS as u8 - 1);
        let state = self.state(&item);
        state.queued = true;
        state.level = level;
        self.items[usize::from(level)].push_back(item);
        self.levels |= 1 << level;
        self.len += 1;
    }

    /// Links a message at the end. It waits for the flag, and for [`settle`](Self::settle).
    #[inline]
    pub(crate) fn push_pending(&mut self, item: Entry, level: u8, commit: &Arc<Commit>) {
        if !self.pending.is_empty() {
            self.settle_oldest();
        }
        // Always there: whoever has the item's one `ListArc` links it into both.
        let second = ListArc::<_, 1>::try_from_arc(item.clone_arc());
        self.state(&item).commit = Some(commit.clone());
        // In this order: see `ListItem<1>`.
        self.push(item, level);
        if let Ok(second) = second {
            self.n_pending += 1;
            self.pending.push_back(second);
        }
    }

    /// Settles two copies, if their flags are set: one more than is about to come, so that they do not
    /// pile up where nobody receives.
    fn settle_oldest(&mut self) {
        for _ in 0..2 {
            let mut cursor = self.pending.cursor_front();
            let Some(peek) = cursor.peek_next() else {
                return;
            };
            // SAFETY: We have `&mut` on the home queue of everything in it.
            let state = unsafe { &mut *peek.state.get() };
            if !state.commit.as_ref().is_some_and(|commit| commit.is_set()) {
                return;
            }
            state.commit = None;
            drop(peek.remove());
            self.n_pending -= 1;
        }
    }

    /// Puts an item back that was taken off by [`next`](Self::next).
    pub(crate) fn push_front(&mut self, item: Entry) {
        let state = self.state(&item);
        state.queued = true;
        let level = state.level;
        self.notices += usize::from(item.is_notice());
        self.items[usize::from(level)].push_front(item);
        self.levels |= 1 << level;
        self.len += 1;
    }

    /// After the commit flag was set: spares receivers to look at it. Nothing happens if the item is
    /// not there any more, or there again with another flag.
    #[inline]
    pub(crate) fn settle<T: ?Sized>(&mut self, item: &Item<T>, commit: &Arc<Commit>)
    where
        Item<T>: AsDyn,
    {
        if self.closed {
            return;
        }
        let own = self.state(item).commit.as_ref();
        if own.is_some_and(|own| Arc::ptr_eq(own, commit)) {
            self.unpend(item);
        }
    }

    /// The item does not wait for a flag, if it did.
    #[inline]
    fn unpend<T: ?Sized>(&mut self, item: &Item<T>)
    where
        Item<T>: AsDyn,
    {
        if self.state(item).commit.take().is_some() {
            self.n_pending -= 1;
            // SAFETY: An item with a commit flag is in `pending`.
            drop(unsafe { self.pending.remove(item.as_dyn()) });
        }
    }

    /// Unlinks an item, if it is queued.
    pub(crate) fn remove<T: ?Sized>(&mut self, item: &Item<T>) -> Option<Entry>
    where
        Item<T>: AsDyn,
    {
        if self.closed {
            return None;
        }
        self.unpend(item);
        let state = self.state(item);
        if !state.queued {
            return None;
        }
        state.queued = false;
        let level = state.level;
        self.len -= 1;
        self.notices -= usize::from(item.as_dyn().is_notice());
        let items = &mut self.items[usize::from(level)];
        // SAFETY: An item that is marked queued is in the list of its level.
        let entry = unsafe { items.remove(item.as_dyn()) };
        if items.is_empty() {
            self.levels &= !(1 << level);
        }
        entry
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
                state.commit = None;
                self.n_pending -= 1;
                drop(peek.remove());
            } else if !cursor.move_prev() {
                break;
            }
        }
    }

    /// Whether [`next`](Self::next) would find something. Drops nothing.
    pub(crate) fn has_next(&mut self) -> bool {
        self.nth(0).is_some()
    }

    /// The item that would be received after `n` others.
    pub(crate) fn nth(&mut self, mut n: usize) -> Option<ArcBorrow<'_, DynItem>> {
        if !self.pending.is_empty() {
            self.read_flags();
        }
        for items in self.items.iter().rev() {
            for item in items.iter() {
                // SAFETY: We have `&mut` on the home queue of everything in it.
                let state = unsafe { &*item.state.get() };
                if state.commit.is_some() || item.kind().ready() != Ready::Yes {
                    continue;
                }
                if n == 0 {
                    return Some(item);
                }
                n -= 1;
            }
        }
        None
    }

    /// Takes the next item off for which `take` says so, given the oldest that is ready of the
    /// highest priority. What can never be received goes to `garbage`, to be dropped by the caller
    /// without the lock.
    #[inline]
    pub(crate) fn next(
        &mut self,
        garbage: &mut Items,
        take: impl FnOnce(&DynItem) -> bool,
    ) -> Option<Entry> {
        if !self.pending.is_empty() {
            self.read_flags();
        }
        let mut levels = self.levels;
        while levels != 0 {
            let level = levels.ilog2();
            levels &= !(1 << level);
            let items = &mut self.items[level as usize];
            let mut cursor = items.cursor_front();
            while let Some(peek) = cursor.peek_next() {
                // SAFETY: We have `&mut` on the home queue of everything in it.
                let state = unsafe { &mut *peek.state.get() };
                let ready = if state.commit.is_some() {
                    Ready::NotYet
                } else {
                    peek.kind().ready()
                };
                match ready {
                    Ready::Yes => {
                        if !take(&peek) {
                            return None;
                        }
                        state.queued = false;
                        self.len -= 1;
                        if peek.is_notice() {
                            self.notices -= 1;
                        }
                        let entry = peek.remove();
                        if items.is_empty() {
                            self.levels &= !(1 << level);
                        }
                        return Some(entry);
                    }
                    Ready::Never => {
                        state.queued = false;
                        self.len -= 1;
                        if peek.is_notice() {
                            self.notices -= 1;
                        }
                        garbage.push_back(peek.remove());
                    }
                    Ready::NotYet => {
                        cursor.move_next();
                    }
                }
            }
            if items.is_empty() {
                self.levels &= !(1 << level);
            }
        }
        None
    }

    /// Drops what can never be received among the first `n` items, so that it does not keep memory, and
    /// among all requests, of which there are `requests` at most.
    pub(crate) fn prune(&mut self, garbage: &mut Items, mut n: usize, mut requests: usize) {
        self.read_flags();
        let mut levels = self.levels;
        while levels != 0 {
            let level = levels.ilog2();
            levels &= !(1 << level);
            let items = &mut self.items[level as usize];
            let mut cursor = items.cursor_front();
            while n > 0 || requests > 0 {
                let Some(peek) = cursor.peek_next() else {
                    break;
                };
                let is_request = peek.kind().is_request();
                requests -= usize::from(is_request && requests > 0);
                let looks = n > 0 || is_request;
                n = n.saturating_sub(1);
                // SAFETY: We have `&mut` on the home queue of everything in it.
                let state = unsafe { &mut *peek.state.get() };
                if looks && state.commit.is_none() && peek.kind().ready() == Ready::Never {
                    state.queued = false;
                    self.len -= 1;
                    if peek.is_notice() {
                        self.notices -= 1;
                    }
                    garbage.push_back(peek.remove());
                } else {
                    cursor.move_next();
                }
            }
            if items.is_empty() {
                self.levels &= !(1 << level);
            }
        }
    }

    /// Takes everything out, committed or not; nothing may be linked any more.
    pub(crate) fn close(&mut self) -> Remains {
        self.closed = true;
        self.levels = 0;
        self.n_pending = 0;
        self.len = 0;
        self.notices = 0;
        Remains {
            items: mem::replace(&mut self.items, [const { List::new() }; LEVELS]),
            pending: mem::replace(&mut self.pending, List::new()),
        }
    }
}

#[kernel::macros::kunit_tests(bus1_queue)]
mod tests {
    use super::*;
    use crate::item::Number;
    use kernel::prelude::*;
    use kernel::sync::atomic::{ordering, Atomic};

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
        q.next(&mut garbage, |_| true).map(|i| i.kind().number())
    }

    #[test]
    fn fifo_and_removal() -> Result {
        let mut q = Queue::new();
        let items = [number(1)?, number(2)?, number(3)?];
        for i in &items {
            q.push(entry(i)?, 0);
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
        q.push(entry(&a)?, 0);
        q.push_pending(entry(&b)?, 0, &commit);
        q.push(entry(&c)?, 0);
        assert_eq!(q.n_pending(), 1);
        assert_eq!(next(&mut q), Some(1));
        assert_eq!(next(&mut q), Some(3));
        assert_eq!(next(&mut q), None);
        assert_eq!(q.n_pending(), 1);
        q.push(entry(&c)?, 0);
        commit.set();
        assert_eq!(next(&mut q), Some(2));
        assert_eq!(next(&mut q), Some(3));
        q.settle(&b, &commit);
        assert_eq!(q.len(), 0);
        assert_eq!(q.n_pending(), 0);
        Ok(())
    }

    #[test]
    fn settle_remove_and_close_leave_nothing_pending() -> Result {
        let mut q = Queue::new();
        let (a, b, c) = (number(1)?, number(2)?, number(3)?);
        let commit = Commit::new()?;
        for i in [&a, &b, &c] {
            q.push_pending(entry(i)?, 0, &commit);
        }
        assert_eq!(q.n_pending(), 3);
        assert!(q.remove(&a).is_some());
        assert_eq!(q.n_pending(), 2);
        q.settle(&b, &commit);
        assert_eq!(q.n_pending(), 1);
        assert_eq!(next(&mut q), Some(2));
        drop(q.close());
        assert!(q.pending.is_empty());
        assert_eq!(q.n_pending(), 0);
        for i in [&a, &b, &c] {
            q.push_pending(entry(i)?, 0, &commit);
        }
        commit.set();
        assert_eq!(next(&mut q), Some(1));
        assert_eq!(next(&mut q), Some(2));
        assert_eq!(next(&mut q), Some(3));
        assert!(q.pending.is_empty());
        assert_eq!(q.n_pending(), 0);
        Ok(())
    }

    #[test]
    fn only_its_own_flag_settles_an_item() -> Result {
        let mut q = Queue::new();
        let a = number(1)?;
        let (own, other) = (Commit::new()?, Commit::new()?);
        q.push_pending(entry(&a)?, 0, &own);
        other.set();
        q.settle(&a, &other);
        assert_eq!(next(&mut q), None);
        own.set();
        q.settle(&a, &own);
        assert!(q.pending.is_empty());
        assert_eq!(next(&mut q), Some(1));
        Ok(())
    }

    #[test]
    fn readiness_is_respected() -> Result {
        let mut q = Queue::new();
        let (a, b, c) = (number(1)?, number(2)?, number(3)?);
        a.ready.store(1, ordering::Relaxed);
        b.ready.store(2, ordering::Relaxed);
        for i in [&a, &b, &c] {
            q.push(entry(i)?, 0);
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
        q.push(entry(&a)?, 0);
        q.push(entry(&b)?, 0);
        let mut garbage = List::new();
        let first = q.next(&mut garbage, |_| true).ok_or(EINVAL)?;
        q.push_front(first);
        assert!(q.next(&mut garbage, |_| false).is_none());
        assert_eq!(next(&mut q), Some(1));
        assert_eq!(next(&mut q), Some(2));
        Ok(())
    }

    #[test]
    fn higher_priority_comes_first() -> Result {
        let mut q = Queue::new();
        let items = [number(1)?, number(2)?, number(3)?, number(4)?, number(5)?];
        for (i, level) in items.iter().zip([0, 31, 7, 31, 0]) {
            q.push(entry(i)?, level);
        }
        let peek = |q: &mut Queue, n| q.nth(n).map(|i| i.kind().number());
        for (n, want) in [2, 4, 3, 1, 5].into_iter().enumerate() {
            assert_eq!(peek(&mut q, n), Some(want));
        }
        assert_eq!(peek(&mut q, 5), None);
        assert_eq!(next(&mut q), Some(2));
        assert!(q.remove(&items[2]).is_some());
        let mut garbage = List::new();
        let fourth = q.next(&mut garbage, |_| true).ok_or(EINVAL)?;
        assert!(q.levels == 1);
        q.push_front(fourth);
        for want in [4, 1, 5] {
            assert_eq!(next(&mut q), Some(want));
        }
        assert!(q.levels == 0 && q.len() == 0);
        Ok(())
    }
}
