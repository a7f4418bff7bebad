// SPDX-License-Identifier: GPL-2.0-only

//! What is on the other side of `bridge.h`, and what the module counts.

use crate::abi;
use crate::limits::{self, Limit};
use kernel::bindings;
use kernel::ffi::c_long;
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Relaxed, Atomic};
use kernel::types::Opaque;

/// What the module counts, in all peers together.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Stat {
    Peers = abi::BUS1_STAT_PEERS,
    Nodes = abi::BUS1_STAT_NODES,
    Handles = abi::BUS1_STAT_HANDLES,
    Slices = abi::BUS1_STAT_SLICES,
    PoolPages = abi::BUS1_STAT_POOL_PAGES,
}

static STATS: [Atomic<i64>; abi::BUS1_STAT_N as usize] =
    [const { Atomic::new(0) }; abi::BUS1_STAT_N as usize];

impl Stat {
    pub(crate) fn add(self, n: i64) {
        STATS[self as usize].add(n, Relaxed);
    }
}

/// One of what a [`Stat`] counts, as long as it lives.
pub(crate) struct Counted(Stat);

impl Counted {
    pub(crate) fn new(stat: Stat) -> Self {
        stat.add(1);
        Self(stat)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// The total of `which`, one of `enum bus1_stat`, for C.
#[no_mangle]
pub(crate) extern "C" fn bus1_stat(which: u32) -> c_long {
    match which {
        abi::BUS1_STAT_MESSAGES => return limits::total(Limit::Messages) as c_long,
        abi::BUS1_STAT_CHARGED => return limits::total_of_all() as c_long,
        _ => (),
    }
    STATS
        .get(which as usize)
        .map_or(0, |s| s.load(Relaxed) as c_long)
}

/// The wait queue of a peer: for receivers and pollers.
#[pin_data]
pub(crate) struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

// SAFETY: A wait queue has a lock of its own.
unsafe impl Send for WaitQueue {}
// SAFETY: As above.
unsafe impl Sync for WaitQueue {}

impl WaitQueue {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The place is valid, and stays where it is.
            head <- Opaque::ffi_init(|head: *mut bindings::wait_queue_head| unsafe {
                abi::bus1_wait_init(head.cast())
            }),
        })
    }

    pub(crate) fn raw(&self) -> *mut abi::wait_queue_head {
        self.head.get().cast()
    }

    /// With `hup`, of what waits for an end.
    #[inline]
    pub(crate) fn wake(&self, hup: bool) {
        // SAFETY: It was initialised, and lives as long as `self`.
        unsafe { abi::bus1_wake(self.raw(), hup) }
    }

    /// Of what waits for room: wakes all pollers.
    pub(crate) fn wake_writable(&self) {
        // SAFETY: As above.
        unsafe { abi::bus1_wake_writable(self.raw()) }
    }

    /// Wakes one who waits with [`wait_for`](Self::wait_for).
    pub(crate) fn wake_one(&self) {
        // SAFETY: As above.
        unsafe { abi::bus1_wake_one(self.raw()) }
    }

    /// Waits until the flag is set, one of those who do being woken at a time. EINTR (the system call
    /// is restarted if the signal says so), ETIMEDOUT.
    pub(crate) fn wait_for(&self, flag: &Atomic<bool>, deadline: u64) -> Result {
        let flag = core::ptr::from_ref(flag).cast::<bool>();
        // SAFETY: As above; the flag has the layout of a byte.
        kernel::error::to_result(unsafe { abi::bus1_wait_for(self.raw(), flag, deadline) })
    }

    /// Whether anyone is in it. To be relied on only under a lock that everyone takes, who has
    /// entered it, before he goes to sleep; or after a full barrier.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        let head = self.head.get();
        // SAFETY: It was initialised. Only the addresses are compared.
        unsafe {
            let first = &raw const (*head).head;
            (&raw const (*first).next).read_volatile().cast_const() != first
        }
    }
}

/// Held by the one who sends with ORD-4, while he links.
pub(crate) struct Sequence(());

impl Sequence {
    /// EINTR if the caller is being killed. No lock may be held.
    pub(crate) fn begin() -> Result<Self> {
        // SAFETY: Sleeping is allowed.
        kernel::error::to_result(unsafe { abi::bus1_sequence_begin() })?;
        Ok(Self(()))
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        // SAFETY: Begun, by this thread.
        unsafe { abi::bus1_sequence_end() };
    }
}

/// In a loop that may not end: lets others run. EINTR, ETIMEDOUT.
pub(crate) fn may_go_on(deadline: u64) -> Result {
    // SAFETY: Always allowed where sleeping is.
    kernel::error::to_result(unsafe { abi::bus1_may_go_on(deadline) })
}

/// Lets others run in the middle of long work. No lock may be held.
#[inline]
pub(crate) fn resched() {
    // SAFETY: Always allowed where sleeping is.
    unsafe { abi::bus1_resched() }
}

/// Whether what the pending signals interrupt is restarted: see `bridge.h`.
pub(crate) fn signals_restart() -> bool {
    // SAFETY: Always allowed.
    unsafe { abi::bus1_signals_restart() }
}

pub(crate) fn random() -> u64 {
    // SAFETY: Always allowed.
    unsafe { abi::bus1_random() }
}
