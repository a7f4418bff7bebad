// SPDX-License-Identifier: GPL-2.0-only

//! BUS1_CMD_REPLY: the server's side of a call.
//!
//! A small reply is read first, and then, in one section under the server's lock, the token is used
//! up, the caller has its reply, and the thread receives what is next or goes to sleep. What is more
//! than small is copied while the token stands, marked as being answered.

use crate::abi::{self, bus1_cmd_reply, bus1_cmd_send, bus1_msg};
use crate::baggage::Baggage;
use crate::call::{deliver, fail, take_answered, take_token, Call, CallEntry, CallRef, Came, LEFT};
use crate::describe::Receive;
use crate::errno::{ecanceled, econnaborted};
use crate::inherit;
use crate::item::Entry;
use crate::message::{Draft, INLINE};
use crate::moving::Moving;
use crate::object::note_all_passed;
use crate::park::Waker;
use crate::peer::{Inner, Peer};
use crate::pool::read_inline;
use crate::recv::{self, Before};
use crate::request::{self, Waiting};
use crate::send::{self, is_common, Load};
use crate::trace;
use crate::user::{self, copy_in, Payload};
use core::mem::{offset_of, size_of, MaybeUninit};
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;
use kernel::uaccess::UserPtr;

const ERROR: u64 = abi::BUS1_REPLY_ERROR as u64;
const DROP: u64 = abi::BUS1_REPLY_DROP as u64;

/// There is nothing in it but a destination.
fn is_empty(cmd: &bus1_cmd_send) -> bool {
    let none = cmd.flags
        | cmd.dests
        | cmd.errors
        | cmd.data
        | cmd.len
        | cmd.iovs
        | cmd.handles
        | cmd.fds
        | cmd.deadline
        | cmd.body_offset
        | cmd.body_len;
    let numbers = cmd.n_dests | cmd.n_iovs | cmd.n_handles | cmd.n_fds | cmd.priority;
    none == 0 && numbers | cmd.reserved == 0
}

fn check(cmd: &bus1_cmd_reply) -> Result {
    if cmd.flags & !(ERROR | DROP) != 0 || cmd.flags == ERROR | DROP {
        return Err(EINVAL);
    }
    let send = &cmd.send;
    if send.dest == 0 {
        // What it was is not looked at: it may have been sent.
    } else if cmd.flags & DROP != 0 {
        if !is_empty(send) {
            return Err(EINVAL);
        }
    } else {
        if send.n_dests as u64 | send.dests | send.errors | send.deadline != 0
            || send.priority != 0
            || send.flags & (send::NOT_FOR_CALLS | send::WAIT) != 0
        {
            return Err(EINVAL);
        }
        send::check(send)?;
    }
    if cmd.id != 0 {
        return recv::check_one(&cmd.recv);
    }
    if cmd.recv.n_msgs != 0 {
        return recv::check(&cmd.recv);
    }
    if send.dest == 0 && cmd.recv.n_release | cmd.recv.n_drop == 0 {
        return Err(EINVAL);
    }
    recv::check_nothing(&cmd.recv)
}

pub(crate) fn reply(
    peer: &Arc<Peer>,
    cmd: &mut bus1_cmd_reply,
    arg: UserPtr,
    nonblock: bool,
) -> Result {
    if !is_small(cmd) {
        return reply_any(peer, cmd, arg, nonblock);
    }
    let mut data = [MaybeUninit::uninit(); INLINE];
    let len = cmd.send.len as usize;
    copy_in(&mut data[..len], cmd.send.data)?;
    let mut answer = Answer {
        token: cmd.send.dest,
        flags: reply_flags(cmd.flags),
        data: &data[..len],
        notice: None,
        call: None,
        next: None,
    };
    let mut call = Receive {
        cmd: &mut cmd.recv,
        arg: arg.wrapping_byte_add(offset_of!(bus1_cmd_reply, recv)),
    };
    let r = recv::receive(peer, &mut call, nonblock, &mut answer);
    if let (Err(_), 0) = (&r, answer.token) {
        used_up(arg);
    }
    r
}

/// A few bytes, nothing to give back, and something to be received: all that there is to check about it.
#[inline(always)]
fn is_small(cmd: &bus1_cmd_reply) -> bool {
    const FLAGS: u64 = (abi::BUS1_RECV_NONBLOCK | abi::BUS1_RECV_FDS | abi::BUS1_RECV_MEMFD) as u64;

    let (send, recv) = (&cmd.send, &cmd.recv);
    let none = cmd.id | send.handles | (recv.flags & !FLAGS) | (cmd.flags & !ERROR);
    let numbers = send.n_handles
        | send.priority
        | recv.n_release
        | recv.n_drop
        | recv.buf_used
        | recv.index
        | recv.reserved;
    none | u64::from(numbers) | (recv.buf % 8) == 0
        && recv.n_msgs == 1
        && recv.msg_size as usize == size_of::<bus1_msg>()
        && send.dest != 0
        && send.len <= INLINE as u64
        && is_common(send)
}

/// The command is not to answer again if it is repeated.
#[cold]
fn used_up(arg: UserPtr) {
    let place = arg.wrapping_byte_add(offset_of!(bus1_cmd_reply, send.dest));
    // If it can not be written the token is refused.
    let _ = user::put_u64(place, 0);
}

fn reply_flags(flags: u64) -> u32 {
    if flags & ERROR != 0 {
        abi::BUS1_MSG_F_ERROR
    } else {
        0
    }
}

/// Answers with a few bytes, in the section that the next request is received in.
struct Answer<'a> {
    /// 0 when it is used up.
    token: u64,
    flags: u32,
    data: &'a [MaybeUninit<u8>],
    notice: Option<Entry>,
    call: Option<CallRef>,
    next: Option<Waker>,
}

impl Before for Answer<'_> {
    #[inline(always)]
    fn run(&mut self, peer: &Peer, inner: &mut Inner) -> Result {
        if self.token == 0 {
            return Ok(());
        }
        let (call, notice) = take_token(inner, self.token)?;
        self.token = 0;
        self.notice = notice;
        // SAFETY: The token is ours.
        unsafe {
            call.inline_reply_mut()[..self.data.len()].copy_from_slice(self.data);
            let reply = call.reply_mut();
            reply.len = self.data.len() as u32;
            reply.flags = self.flags;
        }
        call.note_fault();
        trace::replied(peer, &call);
        let came = match call.decide() {
            Came::Waiting(next) => {
                self.next = next;
                Ok(())
            }
            Came::Away => Ok(()),
            Came::Late => Err(ecanceled()),
        };
        self.call = Some(call);
        came
    }

    #[inline(always)]
    fn has_given(&self) -> bool {
        true
    }

    #[inline(always)]
    fn done(&mut self, _peer: &Peer, parked: bool) {
        let Some(call) = self.call.take() else {
            return;
        };
        if let Some(notice) = self.notice.take() {
            drop(notice);
        }
        if self.next.is_none() {
            deliver(&call);
        }
        end(&call, &mut self.next);
        drop(call);
        if !parked {
            if let Some(next) = self.next.take() {
                next.wake();
            }
        }
    }

    #[inline(always)]
    fn next(&mut self) -> Option<Waker> {
        self.next.take()
    }
}

/// A call was answered. A thread that was raised for it wakes the caller before it falls back: others might
/// run in between.
#[inline(always)]
fn end(call: &Call, next: &mut Option<Waker>) {
    if inherit::has_raised(call) {
        if let Some(next) = next.take() {
            next.wake();
        }
        inherit::end(call);
    }
}

/// Any reply.
#[inline(never)]
fn reply_any(peer: &Arc<Peer>, cmd: &mut bus1_cmd_reply, arg: UserPtr, nonblock: bool) -> Result {
    check(cmd)?;
    let place = arg.wrapping_byte_add(offset_of!(bus1_cmd_reply, recv));
    if cmd.recv.n_release | cmd.recv.n_drop != 0 {
        let call = Receive {
            cmd: &mut cmd.recv,
            arg: place,
        };
        recv::give_back(peer, &call)?;
        cmd.recv.n_release = 0;
        cmd.recv.n_drop = 0;
    }
    let mut next = None;
    let token = cmd.send.dest;
    if token != 0 {
        if cmd.flags & DROP != 0 {
            drop_token(peer, token)?;
        } else {
            next = answer(peer, cmd, token).inspect_err(|e| {
                if *e == ecanceled() {
                    used_up(arg);
                }
            })?;
        }
    }
    let (id, n_msgs) = (cmd.id, cmd.recv.n_msgs);
    let mut call = Receive {
        cmd: &mut cmd.recv,
        arg: place,
    };
    let r = if id != 0 {
        let waiting = Waiting {
            receive: call,
            id: arg.wrapping_byte_add(offset_of!(bus1_cmd_reply, id)),
        };
        request::resume(peer, id, next, waiting)
    } else if n_msgs != 0 {
        recv::receive(peer, &mut call, nonblock, &mut Answered(next))
    } else {
        if let Some(next) = next {
            next.wake();
        }
        Ok(())
    };
    if r.is_err() && token != 0 {
        used_up(arg);
    }
    r
}

/// The caller of what was answered is still to be woken.
struct Answered(Option<Waker>);

impl Before for Answered {
    fn run(&mut self, _peer: &Peer, _inner: &mut Inner) -> Result {
        Ok(())
    }

    fn has_given(&self) -> bool {
        true
    }

    fn done(&mut self, _peer: &Peer, parked: bool) {
        if !parked {
            if let Some(next) = self.0.take() {
                next.wake();
            }
        }
    }

    fn next(&mut self) -> Option<Waker> {
        self.0.take()
    }
}

/// There is to be no reply.
fn drop_token(peer: &Peer, token: u64) -> Result {
    let mut inner = peer.inner.lock();
    let (call, notice) = take_token(&mut inner, token)?;
    peer.unlock_room(inner);
    drop(notice);
    fail(&call, econnaborted());
    Ok(())
}

/// Answers with whatever it is. Who is to be woken.
fn answer(peer: &Arc<Peer>, cmd: &bus1_cmd_reply, token: u64) -> Result<Option<Waker>> {
    let payload = Payload::new(&cmd.send)?;
    let mut load = Load::read(peer, &cmd.send, &payload)?;
    let call = {
        let inner = peer.inner.lock();
        match inner.call(token) {
            Some(CallEntry::Served(call)) if call.answering.load(Relaxed) => return Err(EBUSY),
            Some(CallEntry::Served(call)) if call.state() == LEFT => {
                drop(inner);
                drop_token(peer, token)?;
                return Err(ecanceled());
            }
            Some(CallEntry::Served(call)) => {
                call.answering.store(true, Relaxed);
                call.clone()
            }
            _ => return Err(ENXIO),
        }
    };
    let filled = fill(peer, &call, &mut load, &payload);
    let mut inner = peer.inner.lock();
    call.answering.store(false, Relaxed);
    let moving = match filled {
        Ok(moving) => moving,
        Err(e) => {
            drop(inner);
            return Err(e);
        }
    };
    let taken = take_answered(&mut inner, token);
    peer.unlock_room(inner);
    // Nobody else can have: it was marked.
    let (call, notice) = taken?;
    drop(notice);
    // SAFETY: The token is ours.
    unsafe { call.reply_mut() }.flags = reply_flags(cmd.flags);
    call.note_fault();
    trace::replied(peer, &call);
    let mut next = match call.decide() {
        Came::Late => {
            inherit::end(&call);
            return Err(ecanceled());
        }
        Came::Waiting(next) => next,
        Came::Away => None,
    };
    drop(moving.finish());
    note_all_passed(peer, &load.grants);
    if next.is_none() {
        deliver(&call);
    }
    end(&call, &mut next);
    Ok(next)
}

/// Writes a reply into what is set aside for it. If it fails another can be.
fn fill(peer: &Arc<Peer>, call: &Call, load: &mut Load<'_>, payload: &Payload) -> Result<Moving> {
    let most = call.terms.most;
    if payload.len() > most.len as usize
        || load.grants.len() > usize::from(most.handles)
        || load.files.len() > usize::from(most.files)
    {
        return Err(EMSGSIZE);
    }
    // SAFETY: It is marked as being answered, by us.
    let (reply, inline) = unsafe { (call.reply_mut(), call.inline_reply_mut()) };
    let has_draft = payload.len() > INLINE || !load.grants.is_empty() || !load.files.is_empty();
    let mut moving = Moving::none();
    if has_draft {
        let draft = reply.draft.as_mut().ok_or(EMSGSIZE)?;
        moving = fill_draft(peer, draft, load, payload).inspect_err(|_| draft.clear_reply())?;
    } else {
        read_inline(payload, &mut inline[..payload.len()])?;
    }
    reply.has_draft = has_draft;
    reply.len = payload.len() as u32;
    Ok(moving)
}

fn fill_draft(
    peer: &Arc<Peer>,
    draft: &mut Draft,
    load: &Load<'_>,
    payload: &Payload,
) -> Result<Moving> {
    draft.fill_reply(payload)?;
    let mut baggage = None;
    if !load.files.is_empty() || load.body.is_some() {
        baggage = Some(Baggage::new(&load.files, None, load.body)?);
    }
    let moving = load.start_moves(peer)?;
    load.announce(draft)?;
    // Nothing fails from here on.
    if let Some(baggage) = baggage {
        draft.set_baggage(baggage);
    }
    draft.finish_reply();
    Ok(moving)
}
