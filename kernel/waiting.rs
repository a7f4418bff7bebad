// SPDX-License-Identifier: GPL-2.0-only

//! A thread that waits for a call of its own, and what it finds: the result, a nested request that it
//! is to serve, a signal, or that its time is up.

use crate::abi::{self, bus1_cmd_call, bus1_cmd_recv, bus1_handle};
use crate::bridge;
use crate::call::{Call, CallEntry, CallRef, Most, AWAY, DONE, WAITING};
use crate::calling::enter;
use crate::describe::{add_in_hand, describe_reply, Cursor, Receive};
use crate::ending::{forget, push_reply, unserve, withdraw};
use crate::give_back::GiveBack;
use crate::hand::finish_message;
use crate::inherit;
use crate::message::{Kind, INLINE};
use crate::park::{self, Waker};
use crate::peer::Peer;
use crate::recv;
use crate::user;
use core::mem::{offset_of, size_of};
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;
use kernel::uaccess::UserPtr;

/// Where a thread that waits for a call finds what it waits for.
pub(crate) struct Waiting<'a> {
    pub(crate) receive: Receive<'a>,
    /// Of the command's `id`, which tells of a call that goes on.
    pub(crate) id: UserPtr,
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(cmd: &'a mut bus1_cmd_call, arg: UserPtr) -> Self {
        Self {
            receive: Receive {
                cmd: &mut cmd.recv,
                arg: arg.wrapping_byte_add(offset_of!(bus1_cmd_call, recv)),
            },
            id: arg.wrapping_byte_add(offset_of!(bus1_cmd_call, id)),
        }
    }
}

/// Bytes of buf[] that the largest reply takes.
pub(crate) fn room_for_reply(most: &Most, cmd: &bus1_cmd_recv) -> u64 {
    let mut n_fds = u64::from(most.files);
    if cmd.flags & abi::BUS1_RECV_FDS as u64 == 0 {
        n_fds = if cmd.flags == 0 { 0 } else { n_fds.min(1) };
    }
    let handles = u64::from(most.handles) * size_of::<bus1_handle>() as u64;
    INLINE as u64 + handles + (n_fds * 4).next_multiple_of(8)
}

/// Waits for a call, after handing the CPU to `next`.
#[inline(always)]
pub(crate) fn wait(
    peer: &Arc<Peer>,
    call: CallRef,
    mut next: Option<Waker>,
    mut waiting: Waiting<'_>,
) -> Result {
    loop {
        let slept = park::sleep(
            &call.outcome,
            WAITING,
            waiting.receive.cmd.deadline,
            next.take(),
        );
        if call.state() == DONE {
            return take_result(peer, call, &mut waiting);
        }
        if let Some(r) = disturbed(peer, &call, &mut waiting, slept) {
            return r;
        }
    }
}

/// The thread that waits is awake without a result.
#[cold]
fn disturbed(
    peer: &Arc<Peer>,
    call: &CallRef,
    waiting: &mut Waiting<'_>,
    slept: Result,
) -> Option<Result> {
    if call.state() == AWAY {
        return Some(serve_nested(peer, call, waiting));
    }
    let e = slept.err()?;
    let mut error = if e == ETIMEDOUT { e } else { EINTR };
    if e != ETIMEDOUT && bridge::signals_restart() {
        // The repeated command is to find it.
        let known = call.id.load(Relaxed) != 0 || enter(call).is_ok();
        if known {
            match user::put_u64(waiting.id, call.id.load(Relaxed)) {
                Ok(()) => {
                    if call.go_away() {
                        call.set_lending(false);
                        call.set_taken(&mut peer.inner.lock(), false);
                        return Some(Err(ERESTARTSYS));
                    }
                    return None;
                }
                Err(e) => error = e,
            }
        }
    }
    if !call.leave_from(WAITING) {
        return None;
    }
    leave(call, waiting.id);
    Some(Err(error))
}

/// The caller has left.
#[cold]
fn leave(call: &CallRef, id: UserPtr) {
    call.set_lending(false);
    if call.id.load(Relaxed) != 0 {
        forget(call);
        // It could be written when the call got it.
        let _ = user::put_u64(id, 0);
    }
    withdraw(call);
}

/// The thread is to serve a request that is part of its call.
#[cold]
fn serve_nested(peer: &Arc<Peer>, call: &CallRef, waiting: &mut Waiting<'_>) -> Result {
    let nested = call.take_nested(&mut peer.inner.lock()).ok_or(EAGAIN)?;
    tell_nested(peer, call, nested, waiting)
}

#[cold]
#[inline(never)]
fn tell_nested(
    peer: &Arc<Peer>,
    call: &CallRef,
    nested: CallRef,
    waiting: &mut Waiting<'_>,
) -> Result {
    call.set_lending(false);
    inherit::begin_current(&nested);
    // The request last: when it is told what it brings is gone from here.
    let told = user::put_u64(waiting.id, call.id.load(Relaxed))
        .and_then(|()| recv::tell_request(peer, &waiting.receive, &nested));
    let Err(e) = told else {
        // Whoever serves it comes back.
        call.set_taken(&mut peer.inner.lock(), false);
        return Ok(());
    };
    unserve(peer, &nested);
    if call.leave_from(AWAY) {
        leave(call, waiting.id);
    } else {
        // There is a result by now.
        keep_result(call);
        // It could be written a moment ago, or has not changed.
        let _ = user::put_u64(waiting.id, 0);
    }
    Err(e)
}

/// There is a result: tells of it.
#[inline(always)]
fn take_result(peer: &Arc<Peer>, call: CallRef, waiting: &mut Waiting<'_>) -> Result {
    if call.reply().draft.is_some() || call.leases.is_some() || call.id.load(Relaxed) != 0 {
        if call.terms.nests {
            // A request may have come before it.
            let nested = call.take_nested(&mut peer.inner.lock());
            if let Some(nested) = nested {
                return tell_nested(peer, &call, nested, waiting);
            }
        }
        return take_large(peer, call, waiting);
    }
    if let Some(e) = call.reply().error {
        call.finish();
        return Err(e);
    }
    tell_result(&waiting.receive, &call).inspect_err(|_| keep_result(&call))?;
    call.finish();
    peer.spare_call.put(call);
    Ok(())
}

/// The same where there is more to it.
#[inline(never)]
fn take_large(peer: &Arc<Peer>, call: CallRef, waiting: &mut Waiting<'_>) -> Result {
    call.set_lending(false);
    if call.id.load(Relaxed) != 0 {
        forget(&call);
        // It could be written when the call got it.
        let _ = user::put_u64(waiting.id, 0);
    }
    if let Some(e) = call.reply().error {
        call.finish();
        return Err(e);
    }
    if let Some(message) = call.large_reply() {
        let mut inner = peer.inner.lock();
        add_in_hand(Kind::Message(message), 1);
        message.take(&mut inner);
    }
    if let Err(e) = tell_result(&waiting.receive, &call) {
        if let Some(message) = call.large_reply() {
            let mut inner = peer.inner.lock();
            add_in_hand(Kind::Message(message), -1);
            if !message.untake_reply(&mut inner) {
                // It was given back untold.
                call.finish();
                return Err(e);
            }
        }
        keep_result(&call);
        return Err(e);
    }
    if let Some(message) = call.large_reply() {
        finish_message(peer, &waiting.receive, message, 0, false);
    }
    call.finish();
    peer.spare_call.put(call);
    Ok(())
}

/// Writes a reply to the caller's memory.
#[inline(always)]
fn tell_result(receive: &Receive<'_>, call: &Call) -> Result {
    let mut at = Cursor { n: 0, used: 0 };
    describe_reply(receive, call, &mut at)?;
    receive.write_one(at.used)
}

/// A result that could not be told: it is received from the queue, and the call is known by its id no
/// more.
#[cold]
fn keep_result(call: &CallRef) {
    if call.id.load(Relaxed) != 0 {
        forget(call);
    }
    let woken = push_reply(call, &mut call.caller.inner.lock(), true);
    woken.wake();
}

/// Waits for a call that this peer has made, and nobody waits for, after handing the CPU to `next`.
#[inline(never)]
pub(crate) fn resume(
    peer: &Arc<Peer>,
    id: u64,
    next: Option<Waker>,
    mut waiting: Waiting<'_>,
) -> Result {
    let back = GiveBack::of(peer, &waiting.receive)?;
    let mut retired = None;
    let mut inner = peer.inner.lock();
    let found = match inner.call(id) {
        Some(CallEntry::Made(call)) if !call.terms.is_async => Ok(call.clone()),
        _ => Err(ENXIO),
    };
    let found = found.and_then(|call| {
        if !call.may_leave() {
            return Err(ENXIO);
        }
        let cmd = &waiting.receive.cmd;
        if u64::from(cmd.buf_size) < room_for_reply(&call.terms.most, cmd) {
            return Err(EMSGSIZE);
        }
        back.apply(peer, &mut inner, &mut retired)?;
        call.set_taken(&mut inner, true);
        call.room.store(cmd.buf_size, Relaxed);
        let nested = call.next_nested(&mut inner);
        if nested.is_some() {
            return Ok((call, nested));
        }
        call.come_back(&mut inner);
        Ok((call, None))
    });
    peer.unlock_room(inner);
    drop(retired);
    match found {
        Ok((call, None)) => {
            call.set_lending(true);
            wait(peer, call, next, waiting)
        }
        Ok((call, Some(nested))) => {
            if let Some(next) = next {
                next.wake();
            }
            tell_nested(peer, &call, nested, &mut waiting)
        }
        Err(e) => {
            if back != GiveBack::NOTHING {
                waiting.receive.restore_given();
            }
            if let Some(next) = next {
                next.wake();
            }
            Err(e)
        }
    }
}
