// SPDX-License-Identifier: GPL-2.0-only

//! BUS1_CMD_CALL and BUS1_CMD_CALL_CANCEL: the caller's side of a call.

use crate::abi::{self, bus1_cmd_call, bus1_cmd_ids, bus1_handle, bus1_msg};
use crate::bridge;
use crate::call::{
    self, push_reply, unserve, withdraw, Call, CallEntry, CallRef, NewCall, AWAY, DONE, WAITING,
};
use crate::describe::{add_in_hand, describe_reply, Cursor, Receive};
use crate::errno::eloop;
use crate::ids::Growth;
use crate::inherit;
use crate::item::downcast_call;
use crate::lease::Leases;
use crate::message::{Draft, Kind, INLINE};
use crate::object::{note_all_passed, read_ids};
use crate::park::{self, Waker};
use crate::peer::{Inner, Peer, Target, Woken};
use crate::pool::read_inline;
use crate::recv::{self, finish_message, GiveBack};
use crate::room::Gate;
use crate::send::{self, finish_once, is_common, start_once, Load};
use crate::user::{self, copy_in, Payload};
use core::mem::{offset_of, size_of};
use kernel::list::List;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;
use kernel::uaccess::UserPtr;

const ASYNC: u64 = abi::BUS1_CALL_ASYNC as u64;
const NESTED: u64 = abi::BUS1_CALL_NESTED as u64;

/// Bytes of buf[] that the largest reply takes.
fn room_for_reply(cmd: &bus1_cmd_call) -> u64 {
    let mut n_fds = cmd.reply_fds;
    if cmd.recv.flags & abi::BUS1_RECV_FDS as u64 == 0 {
        n_fds = if cmd.recv.flags == 0 { 0 } else { n_fds.min(1) };
    }
    let handles = u64::from(cmd.reply_handles) * size_of::<bus1_handle>() as u64;
    INLINE as u64 + handles + (u64::from(n_fds) * 4).next_multiple_of(8)
}

fn check(cmd: &bus1_cmd_call) -> Result {
    let send = &cmd.send;
    if cmd.flags & !(ASYNC | NESTED) != 0 || cmd.reserved != 0 {
        return Err(EINVAL);
    }
    if send.n_dests as u64 | send.dests | send.errors | send.deadline != 0
        || send.flags & send::NOT_FOR_CALLS != 0
    {
        return Err(EINVAL);
    }
    if cmd.reply_handles > abi::BUS1_MAX_HANDLES
        || cmd.reply_fds > abi::BUS1_MAX_FDS
        || cmd.reply_size > abi::BUS1_MAX_PAYLOAD as u64
        || cmd.n_leases > abi::BUS1_MAX_LEASES
    {
        return Err(EMSGSIZE);
    }
    if cmd.flags & ASYNC != 0 {
        if cmd.flags & NESTED != 0 || cmd.leases != 0 || cmd.n_leases != 0 {
            return Err(EINVAL);
        }
        return recv::check_nothing(&cmd.recv);
    }
    check_wait(cmd)
}

/// The part that says where a reply goes.
fn check_wait(cmd: &bus1_cmd_call) -> Result {
    recv::check_one(&cmd.recv)?;
    if u64::from(cmd.recv.buf_size) < room_for_reply(cmd) {
        return Err(EMSGSIZE);
    }
    Ok(())
}

/// A small request of bytes alone, for which a small reply will do, and nothing is given back: all that
/// there is to check about it.
#[inline(always)]
fn is_small(cmd: &bus1_cmd_call) -> bool {
    const FDS: u64 = abi::BUS1_RECV_FDS as u64 | abi::BUS1_RECV_MEMFD as u64;

    let (send, recv) = (&cmd.send, &cmd.recv);
    let none = cmd.flags | cmd.id | cmd.parent | cmd.leases | send.handles | (recv.flags & !FDS);
    let numbers = send.n_handles
        | cmd.n_leases
        | cmd.reply_handles
        | cmd.reply_fds
        | cmd.reserved
        | recv.n_release
        | recv.n_drop
        | recv.buf_used
        | recv.index
        | recv.reserved;
    none | u64::from(numbers) | (recv.buf % 8) == 0
        && recv.n_msgs == 1
        && recv.msg_size as usize == size_of::<bus1_msg>()
        && send.len <= INLINE as u64
        && cmd.reply_size <= INLINE as u64
        && recv.buf_size >= INLINE as u32
        && is_common(send)
}

/// Where a thread that waits for a call finds what it waits for.
pub(crate) struct Waiting<'a> {
    pub(crate) receive: Receive<'a>,
    /// Of the command's `id`, which tells of a call that goes on.
    pub(crate) id: UserPtr,
}

impl<'a> Waiting<'a> {
    fn new(cmd: &'a mut bus1_cmd_call, arg: UserPtr) -> Self {
        Self {
            receive: Receive {
                cmd: &mut cmd.recv,
                arg: arg.wrapping_byte_add(offset_of!(bus1_cmd_call, recv)),
            },
            id: arg.wrapping_byte_add(offset_of!(bus1_cmd_call, id)),
        }
    }
}

pub(crate) fn call(peer: &Arc<Peer>, cmd: &mut bus1_cmd_call, arg: UserPtr) -> Result {
    if !is_small(cmd) {
        return call_any(peer, cmd, arg);
    }
    let to = send::target(peer, cmd.send.dest)?;
    if !to.node.is_plain {
        return call_to(peer, to, cmd, arg);
    }
    let len = cmd.send.len as usize;
    let mut new = NewCall::new(peer, to.node, to.account, len, true, cmd, None, None)?;
    copy_in(new.inline(), cmd.send.data)?;
    let (entry, call) = new.share();
    let (woken, given) = call::link(entry, peer)?;
    let next = start(&call, woken, given);
    wait(peer, call, next, Waiting::new(cmd, arg))
}

/// The request is linked, or was given to a thread. Who is to be handed the CPU.
#[inline(always)]
fn start(call: &CallRef, woken: Woken, given: bool) -> Option<Waker> {
    let next = woken.into_receiver();
    if let (Some(task), true) = (&next, given) {
        inherit::begin(call, task);
    }
    next
}

/// Gives back what the command names, and finds where the request goes.
#[inline(never)]
fn give_back_and_find(peer: &Arc<Peer>, cmd: &mut bus1_cmd_call, arg: UserPtr) -> Result<Target> {
    let dest = cmd.send.dest;
    let back = GiveBack::of_call(peer, &Waiting::new(cmd, arg).receive)?;
    let mut retired = None;
    let mut inner = peer.inner.lock();
    if let Err(e) = back.apply(peer, &mut inner, &mut retired) {
        drop(inner);
        Waiting::new(cmd, arg).receive.restore_given();
        return Err(e);
    }
    let found = inner.resolve(dest);
    let found = found.map(|(node, account)| (node.clone(), account));
    peer.unlock_room(inner);
    drop(retired);
    let (node, account) = found?;
    let account = match account {
        Some(account) => account,
        None => peer.open_account(dest)?,
    };
    Ok(Target { node, account })
}

/// Any call.
#[inline(never)]
fn call_any(peer: &Arc<Peer>, cmd: &mut bus1_cmd_call, arg: UserPtr) -> Result {
    if cmd.id != 0 {
        if cmd.flags & !NESTED != 0 {
            return Err(EINVAL);
        }
        check_wait(cmd)?;
        let id = cmd.id;
        return resume(peer, id, None, Waiting::new(cmd, arg));
    }
    check(cmd)?;
    send::check(&cmd.send)?;
    let to = give_back_and_find(peer, cmd, arg)?;
    call_to(peer, to, cmd, arg)
}

#[inline(never)]
fn call_to(peer: &Arc<Peer>, to: Target, cmd: &mut bus1_cmd_call, arg: UserPtr) -> Result {
    let payload = Payload::new(&cmd.send)?;
    let (call, woken, given) = send_or_wait(peer, to, cmd, &payload, arg)?;
    let next = start(&call, woken, given);
    if !call.terms.is_async {
        return wait(peer, call, next, Waiting::new(cmd, arg));
    }
    if let Some(task) = next {
        task.wake();
    }
    Ok(())
}

/// Makes the call; if the receiver has no room waits for that, if the command says so.
fn send_or_wait(
    peer: &Arc<Peer>,
    to: Target,
    cmd: &bus1_cmd_call,
    payload: &Payload,
    arg: UserPtr,
) -> Result<(CallRef, Woken, bool)> {
    let dest = cmd.send.dest;
    let mut to = Some(to);
    let mut gate: Option<Arc<Gate>> = None;
    loop {
        let to = match to.take() {
            Some(to) => to,
            None => send::target(peer, dest)?,
        };
        // By itself: for room here nobody waits.
        let reply = reserve(peer, cmd)?;
        let r = make(peer, to, cmd, payload, reply, arg);
        if let Some(gate) = gate.take() {
            gate.pass_on();
        }
        match r {
            Err(EAGAIN) if cmd.send.flags & send::WAIT != 0 => (),
            r => return r,
        }
        let need = send::need(&cmd.send, payload).and_message();
        gate = send::wait(peer, dest, &need, cmd.recv.deadline)?;
    }
}

/// Sets the reply's space aside.
fn reserve(peer: &Arc<Peer>, cmd: &bus1_cmd_call) -> Result<Option<Draft>> {
    if cmd.reply_size <= INLINE as u64 && cmd.reply_handles == 0 && cmd.reply_fds == 0 {
        return Ok(None);
    }
    Draft::for_reply(peer, cmd.reply_size.max(INLINE as u64) as usize).map(Some)
}

/// The request that a call is part of.
fn find_parent(peer: &Peer, token: u64) -> Result<Option<CallRef>> {
    if token == 0 {
        return Ok(None);
    }
    let inner = peer.inner.lock();
    let Some(CallEntry::Served(parent)) = inner.call(token) else {
        return Err(ENXIO);
    };
    if u32::from(parent.depth) + 1 >= abi::BUS1_MAX_DEPTH {
        return Err(eloop());
    }
    Ok(Some(parent.clone()))
}

fn make(
    peer: &Arc<Peer>,
    to: Target,
    cmd: &bus1_cmd_call,
    payload: &Payload,
    reply: Option<Draft>,
    arg: UserPtr,
) -> Result<(CallRef, Woken, bool)> {
    let mut load = Load::read(peer, &cmd.send, payload)?;
    let parent = find_parent(peer, cmd.parent)?;
    let leases = Leases::read(cmd.leases, cmd.n_leases)?;
    let (node, account) = (to.node.clone(), to.account);
    let mut request = None;
    if load.is_more_than_bytes(&node) || payload.len() > INLINE {
        let mut draft = load.prepare(peer, to)?;
        load.announce(&mut draft)?;
        request = Some(draft);
    }
    let len = payload.len();
    let mut new = NewCall::new(
        peer,
        node,
        account,
        len,
        request.is_none(),
        cmd,
        parent,
        leases,
    )?;
    match request {
        Some(draft) => new.set_request(draft),
        None => read_inline(payload, new.inline())?,
    }
    if let Some(draft) = reply {
        new.set_reply(draft);
    }
    let (entry, call) = new.share();
    let moving = load.start_moves(peer)?;
    let once = start_once(peer, cmd.send.dest, &call.node)?;
    if call.terms.is_async || call.terms.nests {
        enter(peer, &call)?;
    }
    let place = arg.wrapping_byte_add(offset_of!(bus1_cmd_call, id));
    let mut linked = Ok(());
    if call.terms.is_async {
        linked = user::put_u64(place, call.id.load(Relaxed));
    }
    let linked = linked.and_then(|()| call::link(entry, peer));
    if linked.is_err() && call.id.load(Relaxed) != 0 {
        forget(peer, &call);
        // As it was.
        let _ = user::put_u64(place, 0);
    }
    let (woken, given) = linked?;
    drop(moving.finish());
    finish_once(&call.node, once);
    note_all_passed(peer, &load.grants);
    Ok((call, woken, given))
}

/// Gives a call an id. ENOMEM.
fn enter(peer: &Peer, call: &CallRef) -> Result {
    let mut growth = None;
    loop {
        let mut inner = peer.inner.lock();
        if let Some(g) = growth.take() {
            growth = inner.grow_calls(g);
        }
        let need = inner.call_growth();
        let Some(need) = need else {
            if let Some(id) = inner.add_call(CallEntry::Made(call.clone())) {
                call.id.store(id, Relaxed);
            }
            drop(inner);
            drop(growth);
            return Ok(());
        };
        drop(inner);
        drop(growth.take());
        growth = Some(Growth::new(need)?);
    }
}

/// The call is known by its id no more.
fn forget(peer: &Peer, call: &CallRef) {
    let entry = peer.inner.lock().remove_call(call.id.load(Relaxed));
    drop(entry);
}

/// Waits for a call, after handing the CPU to `next`.
#[inline(always)]
fn wait(
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
        let known = call.id.load(Relaxed) != 0 || enter(peer, call).is_ok();
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
    leave(peer, call, waiting.id);
    Some(Err(error))
}

/// The caller has left.
#[cold]
fn leave(peer: &Peer, call: &CallRef, id: UserPtr) {
    call.set_lending(false);
    if call.id.load(Relaxed) != 0 {
        forget(peer, call);
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
    let told = recv::tell_request(peer, &mut waiting.receive, &nested)
        .and_then(|()| user::put_u64(waiting.id, call.id.load(Relaxed)));
    let Err(e) = told else {
        // Whoever serves it comes back.
        call.set_taken(&mut peer.inner.lock(), false);
        return Ok(());
    };
    unserve(peer, &nested);
    if call.leave_from(AWAY) {
        leave(peer, call, waiting.id);
    } else {
        // There is a result by now.
        keep_result(peer, call);
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
        return Err(e);
    }
    let mut at = Cursor { n: 0, used: 0 };
    let told = describe_reply(&waiting.receive, &call, &mut at)
        .and_then(|()| waiting.receive.write_one(at.used));
    if let Err(e) = told {
        keep_result(peer, &call);
        return Err(e);
    }
    peer.spare_call.put(call);
    Ok(())
}

/// The same where there is more to it.
#[inline(never)]
fn take_large(peer: &Arc<Peer>, call: CallRef, waiting: &mut Waiting<'_>) -> Result {
    call.set_lending(false);
    if call.id.load(Relaxed) != 0 {
        forget(peer, &call);
        // It could be written when the call got it.
        let _ = user::put_u64(waiting.id, 0);
    }
    if let Some(e) = call.reply().error {
        return Err(e);
    }
    let draft = call
        .reply()
        .draft
        .as_ref()
        .filter(|_| call.reply().has_draft);
    if let Some(draft) = draft {
        let mut inner = peer.inner.lock();
        add_in_hand(Kind::Message(draft.get()), 1);
        draft.get().take(&mut inner);
    }
    let mut at = Cursor { n: 0, used: 0 };
    let told = describe_reply(&waiting.receive, &call, &mut at)
        .and_then(|()| waiting.receive.write_one(at.used));
    if let Err(e) = told {
        if let Some(draft) = draft {
            let mut inner = peer.inner.lock();
            add_in_hand(Kind::Message(draft.get()), -1);
            draft.get().untake_reply(&mut inner);
        }
        keep_result(peer, &call);
        return Err(e);
    }
    if let Some(draft) = draft {
        finish_message(peer, &waiting.receive, draft.get(), 0, false);
    }
    peer.spare_call.put(call);
    Ok(())
}

/// A result that could not be told: it is received from the queue.
#[cold]
fn keep_result(peer: &Peer, call: &CallRef) {
    let woken = push_reply(call, &mut peer.inner.lock(), true);
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
    let back = GiveBack::of_call(peer, &waiting.receive)?;
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
        back.apply(peer, &mut inner, &mut retired)?;
        call.set_taken(&mut inner, true);
        let nested = next_nested(&mut inner, &call);
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
            waiting.receive.restore_given();
            if let Some(next) = next {
                next.wake();
            }
            Err(e)
        }
    }
}

/// A request in the queue that was made as part of a call whose thread is about to wait: while it was
/// away.
fn next_nested(inner: &mut Inner, call: &CallRef) -> Option<CallRef> {
    if !call.terms.nests || inner.n_requests == 0 {
        return None;
    }
    let entry = inner.queue.find_request(|item| match item.kind() {
        Kind::Call(c) => c.is_part_of(call) && c.needed() <= call.terms.room as usize,
        _ => false,
    })?;
    inner.n_requests -= 1;
    let nested = downcast_call(entry)?;
    Call::serve_given(&nested, inner);
    Some(nested)
}

/// BUS1_CMD_CALL_CANCEL.
pub(crate) fn cancel(peer: &Arc<Peer>, cmd: &bus1_cmd_ids) -> Result {
    let ids = read_ids(cmd, 0)?;
    let mut calls: KVVec<CallRef> = KVVec::with_capacity(ids.len(), GFP_KERNEL_ACCOUNT)?;
    let mut items = List::new();
    let mut inner = peer.inner.lock();
    let mut ok = true;
    for id in ids.iter() {
        let call = match inner.call(*id) {
            Some(CallEntry::Made(call)) if call.may_leave() => call.clone(),
            _ => {
                ok = false;
                break;
            }
        };
        call.set_taken(&mut inner, true);
        // Within the room there is.
        let _ = calls.push_within_capacity(call);
    }
    for call in &calls {
        call.set_taken(&mut inner, false);
        if !ok {
            continue;
        }
        drop(inner.remove_call(call.id.load(Relaxed)));
        if call.is_result() {
            if let Some(item) = inner.queue.remove(&**call) {
                items.push_back(item);
            }
        }
    }
    drop(inner);
    if !ok {
        return Err(ENXIO);
    }
    for call in &calls {
        if call.leave_from(AWAY) {
            withdraw(call);
        }
    }
    peer.drop_items(items, abi::BUS1_WHY_RECEIVER);
    Ok(())
}
