// SPDX-License-Identifier: GPL-2.0-only

//! Threads that wait at a peer for something to receive.
//!
//! Each stands in the list of its peer with a record on its own stack, entered in the section that
//! found nothing to receive, and is taken out by whoever has something for it, one thread for one
//! thing: either it is to look into the queue, or a request is *given* to it directly. So no wake-up
//! is lost, and none is spent on a second thread. Pollers wait elsewhere: [`Peer::wait`].
//!
//! [`Peer::wait`]: crate::peer::Peer

use crate::abi;
use crate::call::{Call, CallRef};
use crate::item::Item;
use crate::peer::Inner;
use core::ptr::{self, NonNull};
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::{ordering, Atomic};
use kernel::task::Task;

/// A thread that is to be woken; a reference to it. Not to be dropped unused but where the thread
/// does not sleep.
pub(crate) struct Waker(NonNull<abi::task_struct>);

// SAFETY: A reference to a thread may be used from anywhere.
unsafe impl Send for Waker {}

impl Waker {
    /// The current thread.
    #[inline]
    pub(crate) fn current() -> Option<Self> {
        let task = Task::current_raw();
        // SAFETY: The current thread is there. The reference is ours.
        unsafe { bindings::get_task_struct(task) };
        NonNull::new(task.cast()).map(Self)
    }

    /// From [`into_raw`](Self::into_raw), or null.
    ///
    /// # Safety
    ///
    /// The reference is given over.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: *mut abi::task_struct) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    #[inline]
    pub(crate) fn into_raw(self) -> *mut abi::task_struct {
        core::mem::ManuallyDrop::new(self).0.as_ptr()
    }

    /// Another reference to the same.
    pub(crate) fn another(&self) -> Self {
        // SAFETY: There is one.
        unsafe { abi::bus1_task_ref(self.0.as_ptr()) };
        Self(self.0)
    }

    pub(crate) fn as_ptr(&self) -> *mut abi::task_struct {
        self.0.as_ptr()
    }

    /// Wakes it. No lock may be held.
    pub(crate) fn wake(self) {
        // SAFETY: The reference is given over.
        unsafe { abi::bus1_task_wake(self.into_raw()) }
    }
}

impl Drop for Waker {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The reference is ours.
        unsafe { abi::bus1_task_put(self.0.as_ptr()) }
    }
}

/// Sleeps as long as `word` is `value`, and wakes `next` first: the CPU is handed over to that thread.
/// Returns whether there was a signal, or the deadline (0: none) has passed: ERESTARTSYS, ETIMEDOUT.
/// No lock may be held.
#[inline]
pub(crate) fn sleep(word: &Atomic<u32>, value: u32, deadline: u64, next: Option<Waker>) -> Result {
    let next = next.map_or(ptr::null_mut(), Waker::into_raw);
    let word = ptr::from_ref(word).cast::<u32>();
    // SAFETY: An atomic has the layout of what it is made of; the reference to `next` is given over.
    match unsafe { abi::bus1_sleep(word, value, deadline, next) } {
        0 => Ok(()),
        e => Err(Error::from_errno(e)),
    }
}

/// What a receiver finds when it is awake.
const PARKED: u32 = 0;
const LOOK: u32 = 1;
const GIVEN: u32 = 2;

/// A thread that waits. On its stack, where it stays as long as it is [parked](Parked::push).
pub(crate) struct Receiver {
    /// Neighbours in the list. Under the peer's lock.
    prev: Atomic<*mut Receiver>,
    next: Atomic<*mut Receiver>,
    state: Atomic<u32>,
    /// Bytes of buf[] that a request can take, or less than nothing if none can be given.
    room: i64,
    /// Null, or a reference: of who takes it out. Plain addresses, so that who never waits has nothing
    /// to drop.
    task: Atomic<*mut abi::task_struct>,
    given: Atomic<*mut Item<Call>>,
}

impl Receiver {
    #[inline]
    pub(crate) fn new(room: i64) -> Self {
        Self {
            prev: Atomic::new(ptr::null_mut()),
            next: Atomic::new(ptr::null_mut()),
            state: Atomic::new(PARKED),
            room,
            task: Atomic::new(ptr::null_mut()),
            given: Atomic::new(ptr::null_mut()),
        }
    }

    /// Sleeps until somebody has taken it out. As [`sleep`].
    #[inline]
    pub(crate) fn sleep(&self, deadline: u64, next: Option<Waker>) -> Result {
        sleep(&self.state, PARKED, deadline, next)
    }

    /// Whether it was taken out. Acquire: what it was given is there.
    #[inline]
    pub(crate) fn is_out(&self) -> bool {
        self.state.load(ordering::Acquire) != PARKED
    }

    /// What it was given, once it is out.
    #[inline]
    pub(crate) fn take(&self) -> Option<CallRef> {
        if self.state.load(ordering::Acquire) != GIVEN {
            return None;
        }
        let given = self.given.load(ordering::Relaxed);
        self.given.store(ptr::null_mut(), ordering::Relaxed);
        // SAFETY: From `into_raw`, and whoever has given it does not look at it any more.
        (!given.is_null()).then(|| unsafe { CallRef::from_raw(given) })
    }
}

/// The threads that wait at a peer. Changed under its lock alone.
pub(crate) struct Parked {
    first: Atomic<*mut Receiver>,
}

impl Parked {
    pub(crate) const fn new() -> Self {
        Self {
            first: Atomic::new(ptr::null_mut()),
        }
    }

    /// Whether anyone waits. Without the lock it is good for those who entered before the last
    /// section, or full barrier, of who asks.
    #[inline(always)]
    pub(crate) fn is_active(&self) -> bool {
        !self.first.load(ordering::Relaxed).is_null()
    }

    /// Enters the current thread, which has a record on its stack.
    ///
    /// # Safety
    ///
    /// The record stays where it is until it is [out](Receiver::is_out), or was [removed](Self::remove).
    #[inline(always)]
    pub(crate) unsafe fn push(&self, _inner: &mut Inner, receiver: &Receiver) {
        let task = Waker::current().map_or(ptr::null_mut(), Waker::into_raw);
        receiver.task.store(task, ordering::Relaxed);
        let this = ptr::from_ref(receiver).cast_mut();
        let second = self.first.load(ordering::Relaxed);
        receiver.state.store(PARKED, ordering::Relaxed);
        receiver.prev.store(ptr::null_mut(), ordering::Relaxed);
        receiver.next.store(second, ordering::Relaxed);
        if !second.is_null() {
            // SAFETY: What is in the list is there, under the lock.
            unsafe { (*second).prev.store(this, ordering::Relaxed) };
        }
        self.first.store(this, ordering::Relaxed);
    }

    /// Takes a record out of the list.
    ///
    /// # Safety
    ///
    /// It is in the list.
    #[inline(always)]
    unsafe fn unlink(&self, receiver: *mut Receiver) -> Option<Waker> {
        // SAFETY: By the caller: what is in the list is there, under the lock.
        unsafe {
            let prev = (*receiver).prev.load(ordering::Relaxed);
            let next = (*receiver).next.load(ordering::Relaxed);
            if prev.is_null() {
                self.first.store(next, ordering::Relaxed);
            } else {
                (*prev).next.store(next, ordering::Relaxed);
            }
            if !next.is_null() {
                (*next).prev.store(prev, ordering::Relaxed);
            }
            Waker::from_raw((*receiver).task.load(ordering::Relaxed))
        }
    }

    /// Takes the thread out that has come last, to look into the queue.
    #[inline]
    pub(crate) fn pop(&self, _inner: &mut Inner) -> Option<Waker> {
        let first = self.first.load(ordering::Relaxed);
        if first.is_null() {
            return None;
        }
        // SAFETY: It is in the list.
        let waker = unsafe { self.unlink(first) };
        // SAFETY: It is there until it sees this.
        unsafe { (*first).state.store(LOOK, ordering::Release) };
        waker
    }

    /// Takes the thread out that has come last, and gives it what `make` makes, if that needs no more
    /// room than it has.
    #[inline(always)]
    pub(crate) fn give(
        &self,
        inner: &mut Inner,
        needed: usize,
        make: impl FnOnce(&mut Inner) -> Option<CallRef>,
    ) -> Option<Waker> {
        let first = self.first.load(ordering::Relaxed);
        // SAFETY: What is in the list is there, under the lock.
        if first.is_null() || unsafe { (*first).room } < needed as i64 {
            return None;
        }
        let call = make(inner)?;
        // SAFETY: It is in the list; nobody else looks at what it is given until it is out.
        unsafe {
            let waker = self.unlink(first);
            let call = CallRef::into_raw(call).cast_mut();
            (*first).given.store(call, ordering::Relaxed);
            (*first).state.store(GIVEN, ordering::Release);
            waker
        }
    }

    /// A thread does not wait any more. False if it was out already.
    #[cold]
    pub(crate) fn remove(&self, _inner: &mut Inner, receiver: &Receiver) -> bool {
        if receiver.is_out() {
            return false;
        }
        // SAFETY: It is in the list until it is out, which is under the lock.
        drop(unsafe { self.unlink(ptr::from_ref(receiver).cast_mut()) });
        receiver.state.store(LOOK, ordering::Relaxed);
        true
    }
}
