// SPDX-License-Identifier: GPL-2.0-only

//! BUS1_CMD_CALL and BUS1_CMD_CALL_CANCEL: the caller's side of a call.

use crate::abi::{self, bus1_cmd_call, bus1_cmd_ids, bus1_msg};
use crate::call::{CallEntry, CallRef, NewCall, Terms, AWAY};
use crate::calling;
use crate::ending::{forget, withdraw};
use crate::errno::eloop;
use crate::give_back::GiveBack;
use crate::inherit;
use crate::lease::Leases;
use crate::message::{Draft, INLINE};
use crate::object::{note_all_passed, read_ids};
use crate::park::Waker;
use crate::peer::{Peer, Target, Woken};
use crate::pool::read_inline;
use crate::recv;
use crate::room::Gate;
use crate::send::{self, finish_once, is_common, start_once, Load};
use crate::user::{self, copy_in, Payload};
use crate::waiting::{resume, room_for_reply, wait, Waiting};
use core::mem::{offset_of, size_of};
use kernel::list::List;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;
use kernel::uaccess::UserPtr;

const ASYNC: u64 = abi::BUS1_CALL_ASYNC as u64;
const NESTED: u64 = abi::BUS1_CALL_NESTED as u64;

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
    recv::check_one(&cmd.recv)?;
    if u64::from(cmd.recv.buf_size) < room_for_reply(&Terms::of(cmd).most, &cmd.recv) {
        return Err(EMSGSIZE);
    }
    Ok(())
}

/// A request of bytes alone, for which a reply of bytes alone will do, and at most one of each is given
/// back: all that there is to check about it.
#[inline(always)]
fn is_bytes(cmd: &bus1_cmd_call) -> bool {
    const FDS: u64 = abi::BUS1_RECV_FDS as u64 | abi::BUS1_RECV_MEMFD as u64;

    let (send, recv) = (&cmd.send, &cmd.recv);
    let none = cmd.flags | cmd.id | cmd.parent | cmd.leases | send.handles | (recv.flags & !FDS);
    let numbers = send.n_handles
        | cmd.n_leases
        | cmd.reply_handles
        | cmd.reply_fds
        | cmd.reserved
        | recv.buf_used
        | recv.index
        | recv.reserved;
    none | u64::from(numbers) | (recv.buf % 8) == 0
        && recv.n_msgs == 1
        && recv.n_release | recv.n_drop <= 1
        && recv.msg_size as usize == size_of::<bus1_msg>()
        && cmd.reply_size <= u64::from(abi::BUS1_MAX_PAYLOAD)
        && recv.buf_size >= INLINE as u32
        && is_common(send, send::WAIT)
}

pub(crate) fn call(peer: &Arc<Peer>, cmd: &mut bus1_cmd_call, arg: UserPtr) -> Result {
    if !is_bytes(cmd) {
        return call_any(peer, cmd, arg);
    }
    let is_small = cmd.send.len <= INLINE as u64 && cmd.reply_size <= INLINE as u64;
    if !is_small || cmd.recv.n_release | cmd.recv.n_drop != 0 {
        return call_bytes(peer, cmd, arg);
    }
    let to = send::target(peer, cmd.send.dest)?;
    if !to.node.is_plain {
        return call_to(peer, to, cmd, arg);
    }
    let len = cmd.send.len as usize;
    let mut new = NewCall::new(peer, to.node, to.account, len, true, cmd, None, None)?;
    copy_in(new.inline(), cmd.send.data)?;
    send_and_wait(peer, new, cmd, arg)
}

/// Bytes alone, which are more than small, or something is given back.
#[inline(never)]
fn call_bytes(peer: &Arc<Peer>, cmd: &mut bus1_cmd_call, arg: UserPtr) -> Result {
    let to = give_back_and_find(peer, cmd, arg)?;
    if !to.node.is_plain {
        return call_to(peer, to, cmd, arg);
    }
    let payload = Payload::One(cmd.send.data, cmd.send.len as usize);
    let len = payload.len();
    let Target { node, account } = to;
    let reply = reserve(peer, cmd)?;
    let mut request = None;
    if len > INLINE {
        let mut draft = Draft::new(peer, node.clone(), len, cmd.send.priority as u8, 0)?;
        draft.fill(peer, account, &payload)?;
        request = Some(draft);
    }
    let is_small = request.is_none();
    let mut new = NewCall::new(peer, node, account, len, is_small, cmd, None, None)?;
    match request {
        Some(draft) => new.set_request(draft),
        None => read_inline(&payload, new.inline())?,
    }
    if let Some(draft) = reply {
        new.set_reply(draft);
    }
    send_and_wait(peer, new, cmd, arg)
}

/// A call that brings bytes alone, once it is made.
#[inline(always)]
fn send_and_wait(
    peer: &Arc<Peer>,
    new: NewCall,
    cmd: &mut bus1_cmd_call,
    arg: UserPtr,
) -> Result {
    let (entry, call) = new.share();
    match calling::link(entry, peer) {
        Ok((woken, given)) => {
            let next = start(&call, woken, given);
            wait(peer, call, next, Waiting::new(cmd, arg))
        }
        Err(e) if e == EAGAIN && cmd.send.flags != 0 => {
            drop(call);
            wait_for_room(peer, cmd, arg)
        }
        Err(e) => Err(e),
    }
}

/// The receiver has no room, and the command says to wait for that. What it gives back is given back.
#[cold]
#[inline(never)]
fn wait_for_room(peer: &Arc<Peer>, cmd: &mut bus1_cmd_call, arg: UserPtr) -> Result {
    let to = send::target(peer, cmd.send.dest)?;
    call_to(peer, to, cmd, arg)
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
    let back = GiveBack::of(peer, &Waiting::new(cmd, arg).receive)?;
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
        recv::check_one(&cmd.recv)?;
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

/// Makes the call; if the receiver has no room waits for that, or takes note of who wants to know, if
/// the command says so.
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
        let reply = reserve(peer, cmd);
        // For room here nobody waits.
        let is_full = matches!(reply, Err(EAGAIN));
        let r = reply.and_then(|reply| {
            let to = match to.take() {
                Some(to) => to,
                None => send::target(peer, dest)?,
            };
            make(peer, to, cmd, payload, reply, arg)
        });
        // Whatever came of it.
        if let Some(gate) = gate.take() {
            gate.pass_on();
        }
        let waits = cmd.send.flags & (send::WAIT | send::NOTIFY) != 0;
        if !matches!(r, Err(EAGAIN)) || is_full || !waits {
            return r;
        }
        let need = send::need(&cmd.send, payload).and_message();
        if cmd.send.flags & send::NOTIFY != 0 {
            send::notify(peer, dest, &need)?;
            return r;
        }
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
        calling::enter(&call)?;
    }
    let place = arg.wrapping_byte_add(offset_of!(bus1_cmd_call, id));
    let mut linked = Ok(());
    if call.terms.is_async {
        linked = user::put_u64(place, call.id.load(Relaxed));
    }
    let linked = linked.and_then(|()| calling::link(entry, peer));
    if linked.is_err() && call.id.load(Relaxed) != 0 {
        forget(&call);
        // As it was.
        let _ = user::put_u64(place, 0);
    }
    let (woken, given) = linked?;
    drop(moving.finish());
    finish_once(&call.node, once);
    note_all_passed(peer, &load.grants);
    Ok((call, woken, given))
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
