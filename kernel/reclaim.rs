// SPDX-License-Identifier: GPL-2.0-only

//! Idle pages of pools go back: under memory pressure, and all of them when the peer is closed
//! (RES-5).
//!
//! A page is idle if no slice touches it. Under the peer's lock idle pages are *parked*, a few at a
//! time; without it they are unmapped and freed. Whoever allocates a slice meanwhile that touches
//! one takes it back from where it is parked, so a sender never waits for the shrinker, which may
//! run in any thread of any priority; and the shrinker waits for no sender. A fault that has found
//! the page before it was parked keeps it locked until it is mapped; the shrinker passes over such
//! a page. It passes over one that is pinned, too: that is mapped for a device or another kernel
//! object, which would not see what is sent later. Who holds a page does not tell when it lets go,
//! so what was passed over is idle anew once all else was looked at, and the next who is short of
//! memory looks again. When the peer is closed there are no more faults, and pins do not matter.
//!
//! A peer is *listed* once it may have idle pages, until the shrinker has looked at all of them:
//! the price is paid by the first slice that is given back after that, and no other.

use crate::abi;
use crate::peer::{Inner, Peer};
use crate::pool::Parked;
use core::ffi::c_void;
use kernel::ffi::c_ulong;
use kernel::sync::{Arc, ArcBorrow};

/// Of a peer, under its lock.
pub(crate) struct Reclaim {
    /// The shrinker has it on its list, or in its hand.
    listed: bool,
    /// What the shrinker was told of idle pages.
    idle: usize,
    /// Some thread is at it, and nobody else parks.
    busy: bool,
}

impl Reclaim {
    pub(crate) const fn new() -> Self {
        Self {
            listed: false,
            idle: 0,
            busy: false,
        }
    }
}

impl Peer {
    /// To be called when slices were freed. If it is true, [`trim`](Self::trim) is to be called
    /// after the lock is released.
    #[inline]
    pub(crate) fn note_idle(&self, inner: &mut Inner) -> bool {
        if inner.closed {
            return true;
        }
        if let Some(pool) = self.pool() {
            let idle = inner.slices.max_idle(pool.n_pages() as usize);
            // It does not fall here, so that a pool in steady use tells nothing new.
            if idle > inner.reclaim.idle {
                self.tell_idle(inner, idle);
            }
        }
        false
    }

    #[cold]
    fn tell_idle(&self, inner: &mut Inner, idle: usize) {
        let Some(pool) = self.pool() else { return };
        inner.reclaim.idle = idle;
        pool.backing.set_idle(idle);
        if !inner.reclaim.listed {
            inner.reclaim.listed = true;
            // SAFETY: The lock is held, and the peer is open.
            unsafe { pool.backing.list() };
        }
    }

    /// The peer is closed.
    pub(crate) fn unlist(&self, inner: &mut Inner) {
        if let (true, Some(pool)) = (inner.reclaim.listed, self.pool()) {
            inner.reclaim.listed = false;
            pool.backing.unlist();
        }
    }

    /// Frees what user space had of the pool of a peer that is closed: nobody reads there any more.
    pub(crate) fn release_all(&self) {
        const AT_A_TIME: u32 = 512;
        let mut index = 0;
        let mut more = self.pool().is_some();
        while more {
            let mut inner = self.inner.lock();
            for _ in 0..AT_A_TIME {
                match inner.slices.users_at(index) {
                    Some(Some(id)) => {
                        self.release_slice(&mut inner, id);
                    }
                    Some(None) => (),
                    None => {
                        more = false;
                        break;
                    }
                }
                index += 1;
            }
            drop(inner);
            crate::bridge::resched();
        }
        self.trim();
    }

    /// Frees all idle pages of a peer that is closed.
    pub(crate) fn trim(&self) {
        self.shrink(usize::MAX, &mut 0);
    }

    /// Frees about `max` idle pages, or all of them if the peer is closed. Returns how many.
    fn shrink(&self, max: usize, seen: &mut usize) -> usize {
        let Some(pool) = self.pool() else { return 0 };
        let (mut freed, mut left) = (0, max);
        let mut parked = Parked::new();
        let mut first = true;
        loop {
            let mut inner = self.inner.lock();
            if first && inner.reclaim.busy {
                // Who is at it sees if the peer is closed.
                return 0;
            }
            first = false;
            inner.reclaim.busy = true;
            pool.pass_over(&mut inner.slices, &mut parked);
            let closed = inner.closed;
            parked.limit(if closed { usize::MAX } else { left });
            let more = (closed || left > 0) && pool.park_idle(&mut inner.slices, &mut parked);
            if !more && parked.len() == 0 {
                // Once it is closed nothing more is passed over.
                if closed && inner.slices.look_again() {
                    continue;
                }
                self.done(&mut inner);
                break;
            }
            drop(inner);
            // What is looked at counts, too: slices may come and go as fast as that.
            let n = parked.len() + 1;
            left = left.saturating_sub(n);
            *seen = seen.saturating_add(n);
            freed += pool.free_parked(&mut parked, self.mapping().filter(|_| !closed));
            crate::bridge::resched();
        }
        freed
    }

    /// The end of [`shrink`](Self::shrink): finds out whether it is to be listed again.
    fn done(&self, inner: &mut Inner) {
        let Some(pool) = self.pool() else { return };
        inner.reclaim.busy = false;
        inner.reclaim.idle = 0;
        inner.reclaim.listed = false;
        pool.backing.set_idle(0);
        inner.slices.look_again();
        self.note_idle(inner);
    }
}

/// See `bridge.h`.
///
/// # Safety
///
/// There is a reference to the peer, and it is not given up meanwhile.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_get(peer: *mut c_void) {
    // SAFETY: By the caller.
    let peer = unsafe { ArcBorrow::<Peer>::from_raw(peer.cast_const().cast()) };
    core::mem::forget(Arc::<Peer>::from(peer));
}

/// See `bridge.h`.
///
/// # Safety
///
/// The reference is from [`bus1_peer_get`].
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_put(peer: *mut c_void) {
    // SAFETY: By the caller.
    drop(unsafe { Arc::<Peer>::from_raw(peer.cast_const().cast()) });
}

/// See `bridge.h`.
///
/// # Safety
///
/// There is a reference to the peer; `seen` can be written.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_shrink(
    peer: *mut c_void,
    max: c_ulong,
    seen: *mut c_ulong,
) -> c_ulong {
    // SAFETY: By the caller.
    let (peer, seen) = unsafe {
        (
            ArcBorrow::<Peer>::from_raw(peer.cast_const().cast()),
            &mut *seen,
        )
    };
    // Also if another thread is at it.
    *seen = seen.saturating_add(1);
    peer.shrink(max, seen)
}

/// See `bridge.h`.
///
/// # Safety
///
/// `peer` is the peer of a file that stays open.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_mapping(peer: *mut c_void) -> *mut abi::address_space {
    // SAFETY: By the caller.
    let peer = unsafe { ArcBorrow::<Peer>::from_raw(peer.cast_const().cast()) };
    peer.mapping().map_or(core::ptr::null_mut(), |m| m.raw())
}

/// See `bridge.h`.
///
/// # Safety
///
/// `peer` is the peer of a file that stays open.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_has_page(
    peer: *mut c_void,
    pgoff: c_ulong,
    page: *mut abi::page,
) -> bool {
    // SAFETY: By the caller.
    let peer = unsafe { ArcBorrow::<Peer>::from_raw(peer.cast_const().cast()) };
    let now = peer.pool().and_then(|pool| pool.page_ptr(pgoff));
    now.is_some_and(|now| now.as_ptr().cast() == page)
}
