// SPDX-License-Identifier: GPL-2.0-only

//! What `/proc/PID/fdinfo` shows of a peer, an exported handle's included (RES-6).

use crate::abi::bus1_fdinfo;
use crate::peer::Peer;
use crate::slices::GRANULE;
use core::ffi::c_void;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::ArcBorrow;

fn read(peer: &Peer) -> bus1_fdinfo {
    let mut inner = peer.inner.lock();
    let (slices, pool_used) = inner.slices.in_use();
    let pool = peer.pool();
    let in_flight = *inner.book.used();
    bus1_fdinfo {
        peer: peer.id,
        messages: (inner.queue.len() - inner.queue.n_notices()) as u64,
        notices: inner.queue.n_notices() as u64,
        uncommitted: inner.queue.n_pending() as u64,
        nodes: inner.nodes as u64,
        handles: inner.n_handles() as u64,
        slices: slices as u64,
        pool_size: pool.map_or(0, |pool| pool.size() as u64),
        pool_pages: pool.map_or(0, |pool| pool.n_pages()),
        pool_used: pool_used as u64,
        senders: u64::from(inner.book.users()),
        charged_messages: u64::from(in_flight.messages()),
        charged_bytes: u64::from(in_flight.granules()) * GRANULE as u64,
        charged_handles: u64::from(in_flight.handles()),
        charged_files: u64::from(in_flight.files()),
        waiting: inner.n_waiting as u64,
        by_priority: peer.by_priority.load(Relaxed),
    }
}

/// See `bridge.h`.
///
/// # Safety
///
/// `peer` is the peer of a file that stays open; `info` is valid, and the caller's alone.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_fdinfo(peer: *mut c_void, info: *mut bus1_fdinfo) {
    // SAFETY: By the caller: the file owns a reference.
    let peer = unsafe { ArcBorrow::<Peer>::from_raw(peer.cast_const().cast()) };
    // SAFETY: By the caller.
    unsafe { info.write(read(&peer)) };
}
