// SPDX-License-Identifier: GPL-2.0-only

//! Tracepoints: `trace.h` has their fields, bus1(7) what they mean (RES-6).
//!
//! An event that is off costs a static branch: one instruction that does nothing. All that it takes
//! to fire it is in functions of their own, out of the way. Events fire under the locks under which
//! they happen, so that they stand in the trace in the order of the queue; they do not sleep.
//!
//! # Ids
//!
//! A message or notice gets its id when it is linked while its event is on; 0 is none. Ids are
//! never told to user space but by the trace, so they need no other order, and nothing is counted
//! while nobody looks. They have 40 bits, which is what there is room for in an [`Item`]: after 10^12
//! events they begin anew.

use crate::abi;
use crate::call::{Call, NOTICE, REPLY, TOLD};
use crate::item::{AsDyn, Commit, DynItem, Item};
use crate::message::{Kind, Message};
use crate::peer::Peer;
use core::cell::UnsafeCell;
#[cfg(CONFIG_TRACEPOINTS)]
use kernel::bindings;
use kernel::list::ListArc;
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Relaxed, Atomic};
use kernel::sync::Arc;

#[cfg(CONFIG_TRACEPOINTS)]
#[allow(improper_ctypes)] // empty structs of C, by whatever configuration
extern "C" {
    static __tracepoint_bus1_peer_open: bindings::tracepoint;
    static __tracepoint_bus1_peer_close: bindings::tracepoint;
    static __tracepoint_bus1_send: bindings::tracepoint;
    static __tracepoint_bus1_notice: bindings::tracepoint;
    static __tracepoint_bus1_commit: bindings::tracepoint;
    static __tracepoint_bus1_receive: bindings::tracepoint;
    static __tracepoint_bus1_drop: bindings::tracepoint;
    static __tracepoint_bus1_refused: bindings::tracepoint;
    static __tracepoint_bus1_call: bindings::tracepoint;
    static __tracepoint_bus1_reply: bindings::tracepoint;
}

/// Whether an event is on.
macro_rules! is_on {
    ($tracepoint:ident) => {{
        #[cfg(CONFIG_TRACEPOINTS)]
        // SAFETY: Defined in `trace.c`.
        let is_on = unsafe {
            kernel::jump_label::static_branch_unlikely!(
                $tracepoint,
                kernel::bindings::tracepoint,
                key
            )
        };
        #[cfg(not(CONFIG_TRACEPOINTS))]
        let is_on = false;
        is_on
    }};
}

/// Fires an event.
macro_rules! fire {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        #[cfg(CONFIG_TRACEPOINTS)]
        // SAFETY: Takes numbers alone, in any context.
        unsafe {
            abi::$name($($arg),*)
        }
        #[cfg(not(CONFIG_TRACEPOINTS))]
        let _ = ($($arg),*,);
    }};
}

/// Not 0, and not one that was given out lately.
#[cold]
#[inline(never)]
fn new_number() -> u64 {
    static LAST: Atomic<u64> = Atomic::new(0);

    loop {
        let number = LAST.fetch_add(1, Relaxed).wrapping_add(1) & (u64::MAX >> 24);
        if number != 0 {
            return number;
        }
    }
}

/// The id of an item in the trace. It belongs to who has the item's one `ListArc`.
#[repr(transparent)]
pub(crate) struct Id(UnsafeCell<[u8; 5]>);

impl Id {
    pub(crate) const fn none() -> Self {
        Self(UnsafeCell::new([0; 5]))
    }

    fn get<T: ?Sized>(item: &ListArc<Item<T>>) -> u64 {
        // SAFETY: There is one `ListArc`, and who has it borrows it to us.
        let low = unsafe { *item.trace_id.0.get() };
        let mut all = [0; 8];
        all[..5].copy_from_slice(&low);
        u64::from_le_bytes(all)
    }

    fn set<T: ?Sized>(item: &mut ListArc<Item<T>>, id: u64) {
        let [a, b, c, d, e, ..] = id.to_le_bytes();
        // SAFETY: As in `get`, and nobody else borrows it.
        unsafe { *item.trace_id.0.get() = [a, b, c, d, e] };
    }
}

/// What all items have: the id of the receiving peer, a type of `bus1_msg`, and what its `id` is.
fn describe(item: &DynItem) -> (u64, u32, u64) {
    match item.kind() {
        Kind::Message(m) => {
            let node = m.node.root();
            (node.owner.id, abi::BUS1_MSG_DATA, node.id.load(Relaxed))
        }
        Kind::Dead(h) => (h.peer.id, abi::BUS1_MSG_NODE_DEAD, h.id.load(Relaxed)),
        Kind::Unused(n) => {
            let kind = if n.is_once {
                abi::BUS1_MSG_ONCE_DROPPED
            } else {
                abi::BUS1_MSG_NODE_UNUSED
            };
            (n.owner.id, kind, n.id.load(Relaxed))
        }
        Kind::Call(c) => describe_call(c),
        #[cfg(CONFIG_KUNIT = "y")]
        Kind::Test(_) => (0, 0, 0),
    }
}

fn describe_call(c: &Call) -> (u64, u32, u64) {
    let server = c.node.owner.id;
    match c.place.load(Relaxed) {
        REPLY => (c.caller.id, abi::BUS1_MSG_REPLY, c.id.load(Relaxed)),
        NOTICE | TOLD => (server, abi::BUS1_MSG_CANCELLED, c.token.load(Relaxed)),
        _ => (server, abi::BUS1_MSG_CALL, c.node.root().id.load(Relaxed)),
    }
}

/// The id in the trace.
fn id_of<T: ?Sized>(item: &ListArc<Item<T>>) -> u64
where
    Item<T>: AsDyn,
{
    match item.as_dyn().kind() {
        Kind::Call(c) => c.trace_id.load(Relaxed),
        _ => Id::get(item),
    }
}

#[inline(always)]
pub(crate) fn opened(peer: &Peer) {
    if is_on!(__tracepoint_bus1_peer_open) {
        fire!(rust_do_trace_bus1_peer_open(peer.id, peer.is_export));
    }
}

#[inline(always)]
pub(crate) fn closed(peer: &Peer) {
    if is_on!(__tracepoint_bus1_peer_close) {
        fire!(rust_do_trace_bus1_peer_close(peer.id));
    }
}

/// A message is about to be linked, under the receiver's lock.
#[inline(always)]
pub(crate) fn sent(
    from: &Peer,
    message: &mut ListArc<Item<Message>>,
    commit: Option<&Arc<Commit>>,
) {
    if is_on!(__tracepoint_bus1_send) {
        let id = new_number();
        Id::set(message, id);
        fire_sent(id, from, message, commit);
    }
}

#[cold]
#[inline(never)]
fn fire_sent(id: u64, from: &Peer, message: &Item<Message>, commit: Option<&Arc<Commit>>) {
    let (mut handles, mut fds) = (0, 0);
    if !message.is_plain() {
        handles = message.passed().len();
        fds = message.baggage().map_or(0, |b| b.n_files());
    }
    let (receiver, _, node) = describe(message.as_dyn());
    fire!(rust_do_trace_bus1_send(
        id,
        commit.map_or(0, |c| c.trace_id),
        commit.is_some(),
        from.id,
        receiver,
        node,
        message.len() as u32,
        handles as u32,
        fds as u32,
        u32::from(message.priority),
    ));
}

/// A notice is about to be linked, under the lock of its peer. It may have been linked before, under
/// another id.
#[inline(always)]
pub(crate) fn noticed(notice: &mut ListArc<DynItem>, commit: Option<&Arc<Commit>>) {
    Id::set(notice, 0);
    if is_on!(__tracepoint_bus1_notice) {
        fire_noticed(notice, commit);
    }
}

#[cold]
#[inline(never)]
fn fire_noticed(notice: &mut ListArc<DynItem>, commit: Option<&Arc<Commit>>) {
    let msg = new_number();
    Id::set(notice, msg);
    let (peer, kind, id) = describe(notice);
    let txn = commit.map_or(0, |c| c.trace_id);
    fire!(rust_do_trace_bus1_notice(msg, txn, peer, kind, id));
}

/// The id of a transaction that begins, or 0 if nobody looks.
#[inline(always)]
pub(crate) fn new_transaction() -> u64 {
    if is_on!(__tracepoint_bus1_send)
        || is_on!(__tracepoint_bus1_notice)
        || is_on!(__tracepoint_bus1_commit)
    {
        return new_number();
    }
    0
}

/// All that was linked in a transaction is about to take effect.
#[inline(always)]
pub(crate) fn committed(commit: &Commit) {
    if is_on!(__tracepoint_bus1_commit) {
        fire!(rust_do_trace_bus1_commit(commit.trace_id));
    }
}

/// User space has it.
#[inline(always)]
pub(crate) fn received<T: ?Sized>(item: &ListArc<Item<T>>)
where
    Item<T>: AsDyn,
{
    if is_on!(__tracepoint_bus1_receive) {
        fire_received(id_of(item), item.as_dyn());
    }
}

#[cold]
#[inline(never)]
fn fire_received(msg: u64, item: &DynItem) {
    let (peer, kind, id) = describe(item);
    fire!(rust_do_trace_bus1_receive(msg, peer, kind, id));
}

/// It was linked, and is not received. `why` is one of `enum bus1_why`.
#[inline(always)]
pub(crate) fn dropped<T: ?Sized>(item: &ListArc<Item<T>>, why: u32)
where
    Item<T>: AsDyn,
{
    if is_on!(__tracepoint_bus1_drop) {
        fire_dropped(id_of(item), item.as_dyn(), why);
    }
}

#[cold]
#[inline(never)]
fn fire_dropped(msg: u64, item: &DynItem, why: u32) {
    let (peer, kind, id) = describe(item);
    fire!(rust_do_trace_bus1_drop(msg, peer, kind, id, why));
}

/// A request is about to be linked, or given to a thread.
#[inline(always)]
pub(crate) fn called(from: &Peer, call: &Call) {
    if is_on!(__tracepoint_bus1_call) {
        fire_called(from, call);
    }
}

#[cold]
#[inline(never)]
fn fire_called(from: &Peer, call: &Call) {
    let id = new_number();
    call.trace_id.store(id, Relaxed);
    let node = call.node.root();
    fire!(rust_do_trace_bus1_call(
        id,
        call.chain,
        u32::from(call.depth),
        call.terms.is_async,
        from.id,
        node.owner.id,
        node.id.load(Relaxed),
        call.len,
    ));
}

/// User space has a request.
#[inline(always)]
pub(crate) fn request_received(call: &Call) {
    if is_on!(__tracepoint_bus1_receive) {
        fire_request_received(call);
    }
}

#[cold]
#[inline(never)]
fn fire_request_received(call: &Call) {
    fire!(rust_do_trace_bus1_receive(
        call.trace_id.load(Relaxed),
        call.node.owner.id,
        abi::BUS1_MSG_CALL,
        call.node.root().id.load(Relaxed),
    ));
}

/// A call has come to a result, under the server's lock if it is a reply.
#[inline(always)]
pub(crate) fn replied(server: &Peer, call: &Call) {
    if is_on!(__tracepoint_bus1_reply) {
        fire_replied(server, call);
    }
}

#[cold]
#[inline(never)]
fn fire_replied(server: &Peer, call: &Call) {
    let reply = call.reply();
    fire!(rust_do_trace_bus1_reply(
        call.trace_id.load(Relaxed),
        call.chain,
        server.id,
        call.caller.id,
        reply.len,
        reply.error.map_or(0, |e| e.to_errno()),
    ));
}

/// A limit was reached: of a peer, or of a user if that is 0. `resource` is one of `enum
/// bus1_resource`. Returns the error.
#[cold]
pub(crate) fn refused(peer: u64, resource: u32, error: Error) -> Error {
    if is_on!(__tracepoint_bus1_refused) {
        fire!(rust_do_trace_bus1_refused(peer, resource, error.to_errno()));
    }
    error
}
