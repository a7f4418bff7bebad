// SPDX-License-Identifier: GPL-2.0-only

//! BUS1_CMD_REPLY: the server's side of a call.
//!
//! A small reply is read first, and then, in one section under the server's lock, the token is used
//! up, the caller has its reply, and the thread receives what is next or goes to sleep. What is more
//! than small is copied while the token stands, marked as being answered.

use crate::abi::{self, bus1_cmd_reply, bus1_cmd_send, bus1_msg};
use crate::baggage::Baggage;
use crate::call::{Call, CallEntry, CallRef, Came, Guard, Reply, Terms, LEFT};
use crate::describe::Receive;
use crate::ending::{deliver, drop_late, fail, take_answered, take_token};
use crate::errno::{ecanceled, econnaborted};
use crate::give_back::{give_back, GiveBack};
use crate::handle::Retired;
use crate::inherit;
use crate::item::Entry;
use crate::message::{Draft, INLINE};
use crate::moving::Moving;
use crate::object::note_all_passed;
use crate::park::Waker;
use crate::peer::{Inner, Peer};
use crate::pool::read_inline;
use crate::recv::{self, Before};
use crate::send::{self, is_common, Load};
use crate::trace;
use crate::user::{self, copy_in, Payload};
use crate::waiting::{resume, Waiting};
use core::mem::{offset_of, size_of, ManuallyDrop, MaybeUninit};
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
            || send.flags & (send::NOT_FOR_CALLS | send::WAIT | send::NOTIFY) != 0
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
    if !is_bytes(cmd) {
        return reply_any(peer, cmd, arg, nonblock);
    }
    if cmd.send.len > INLINE as u64 || cmd.recv.n_release | cmd.recv.n_drop != 0 {
        return reply_bytes(peer, cmd, arg, nonblock);
    }
    let mut data = [MaybeUninit::uninit(); INLINE];
    let data = &mut data[..cmd.send.len as usize];
    copy_in(data, cmd.send.data)?;
    let mut answer = Answer::<true>::new(cmd, data);
    let r = recv::receive(peer, &mut receive_of(cmd, arg), nonblock, &mut answer);
    answer.end(r, arg)
}

/// Bytes alone, which are more than small, or something is given back.
#[inline(never)]
fn reply_bytes(
    peer: &Arc<Peer>,
    cmd: &mut bus1_cmd_reply,
    arg: UserPtr,
    nonblock: bool,
) -> Result {
    let payload = Payload::One(cmd.send.data, cmd.send.len as usize);
    let mut data = [MaybeUninit::uninit(); INLINE];
    let mut answer = Answer::<false>::new(cmd, &[]);
    match data.get_mut(..payload.len()) {
        Some(data) => {
            copy_in(data, cmd.send.data)?;
            answer.data = data;
        }
        None => answer.is_filled = true,
    }
    let mut receive = receive_of(cmd, arg);
    answer.back = GiveBack::of(peer, &receive)?;
    if answer.is_filled {
        fill_bytes(peer, &mut answer, &receive, &payload).inspect_err(|e| {
            if *e == ecanceled() {
                used_up(arg);
            }
        })?;
    }
    let r = recv::receive(peer, &mut receive, nonblock, &mut answer);
    answer.end(r, arg)
}

/// Of a reply.
#[inline(always)]
fn receive_of(cmd: &mut bus1_cmd_reply, arg: UserPtr) -> Receive<'_> {
    Receive {
        cmd: &mut cmd.recv,
        arg: arg.wrapping_byte_add(offset_of!(bus1_cmd_reply, recv)),
    }
}

/// Bytes alone, at most one of each to give back, and something to be received: all that there is to
/// check about it.
#[inline(always)]
fn is_bytes(cmd: &bus1_cmd_reply) -> bool {
    const FLAGS: u64 = (abi::BUS1_RECV_NONBLOCK | abi::BUS1_RECV_FDS | abi::BUS1_RECV_MEMFD) as u64;

    let (send, recv) = (&cmd.send, &cmd.recv);
    let none = cmd.id | send.handles | (recv.flags & !FLAGS) | (cmd.flags & !ERROR);
    let numbers = send.n_handles | send.priority | recv.buf_used | recv.index | recv.reserved;
    none | u64::from(numbers) | (recv.buf % 8) == 0
        && recv.n_msgs == 1
        && recv.n_release | recv.n_drop <= 1
        && recv.msg_size as usize == size_of::<bus1_msg>()
        && send.dest != 0
        && is_common(send, 0)
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

/// Gives back and answers with bytes alone, in the section that the next request is received in.
/// It is small, and nothing is given back, if it is `ONLY` that.
struct Answer<'a, const ONLY: bool> {
    /// 0 when it is used up.
    token: u64,
    flags: u32,
    /// It is [there](fill_bytes) already.
    is_filled: bool,
    /// A small reply.
    data: &'a [MaybeUninit<u8>],
    back: GiveBack,
    /// By giving back. Dropped by `done`, or at the end.
    retired: ManuallyDrop<Option<Retired>>,
    notice: Option<Entry>,
    call: Option<CallRef>,
    next: Option<Waker>,
}

impl<'a, const ONLY: bool> Answer<'a, ONLY> {
    #[inline(always)]
    fn new(cmd: &bus1_cmd_reply, data: &'a [MaybeUninit<u8>]) -> Self {
        Self {
            token: cmd.send.dest,
            flags: reply_flags(cmd.flags),
            is_filled: false,
            data,
            back: GiveBack::NOTHING,
            retired: ManuallyDrop::new(None),
            notice: None,
            call: None,
            next: None,
        }
    }

    /// What the command comes to.
    #[inline(always)]
    fn end(mut self, r: Result, arg: UserPtr) -> Result {
        if r.is_err() {
            drop(self.retired.take());
            if self.token == 0 {
                used_up(arg);
            }
            if let Some(call) = self.call.take() {
                end_late(&call);
            }
        }
        r
    }
}

impl<const ONLY: bool> Before for Answer<'_, ONLY> {
    #[inline(always)]
    fn run(&mut self, peer: &Peer, inner: &mut Inner) -> Result {
        if self.token == 0 {
            return Ok(());
        }
        if !ONLY && self.back != GiveBack::NOTHING {
            self.back.apply(peer, inner, &mut self.retired)?;
            self.back = GiveBack::NOTHING;
        }
        let (call, notice) = if !ONLY && self.is_filled {
            take_answered(inner, self.token)?
        } else {
            take_token(inner, self.token)?
        };
        self.token = 0;
        self.notice = notice;
        // SAFETY: The token is ours.
        let reply = unsafe { call.reply_mut() };
        reply.flags = self.flags;
        if ONLY || !self.is_filled {
            reply.len = self.data.len() as u32;
            // SAFETY: As above.
            unsafe { call.inline_reply_mut()[..self.data.len()].copy_from_slice(self.data) };
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
        ONLY || self.back == GiveBack::NOTHING
    }

    #[inline(always)]
    fn done(&mut self, _peer: &Peer, parked: bool) {
        if !ONLY && self.retired.is_some() {
            drop(self.retired.take());
        }
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

/// It was answered too late.
#[cold]
fn end_late(call: &Call) {
    drop_late(call);
    inherit::end(call);
}

/// An answer could not be made: another can be, unless the caller has left. Then what it has set aside goes
/// back, to be dropped without the lock.
#[cold]
fn stop_answer(call: &Call, _server: &mut Inner) -> Option<Draft> {
    call.answering.store(false, Relaxed);
    if call.state() != LEFT {
        return None;
    }
    // SAFETY: Nobody else answers, as long as the lock is held, and who will finds that it is too late.
    unsafe { call.reply_mut() }.draft.take()
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
        give_back(peer, &call)?;
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
        resume(peer, id, next, waiting)
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

/// The call of a token is about to be answered, by the caller of this alone. ECANCELED if that is too
/// late, ENXIO, EBUSY.
fn start_answer(peer: &Peer, mut inner: Guard<'_>, token: u64) -> Result<CallRef> {
    let (r, left) = match inner.call(token) {
        Some(CallEntry::Served(call)) if call.answering.load(Relaxed) => (Err(EBUSY), None),
        Some(CallEntry::Served(call)) if call.state() == LEFT => {
            (Err(ecanceled()), Some(take_token(&mut inner, token)?))
        }
        Some(CallEntry::Served(call)) => {
            call.answering.store(true, Relaxed);
            (Ok(call.clone()), None)
        }
        _ => (Err(ENXIO), None),
    };
    peer.unlock_room(inner);
    if let Some((call, _notice)) = left {
        trace::replied(peer, &call);
        end_late(&call);
    }
    r
}

/// Gives back, and copies a reply of bytes alone to the space that is set aside for it: it is about to be
/// answered if that goes well.
#[inline(never)]
fn fill_bytes(
    peer: &Peer,
    answer: &mut Answer<'_, false>,
    receive: &Receive<'_>,
    payload: &Payload,
) -> Result {
    let mut inner = peer.inner.lock();
    let mut retired = None;
    if let Err(e) = answer.back.apply(peer, &mut inner, &mut retired) {
        drop(inner);
        receive.restore_given();
        return Err(e);
    }
    answer.back = GiveBack::NOTHING;
    let call = start_answer(peer, inner, answer.token);
    drop(retired);
    let call = call?;
    // SAFETY: It is marked as being answered, by us.
    let filled = copy_bytes(unsafe { call.reply_mut() }, &call.terms, payload);
    if filled.is_err() {
        let late = stop_answer(&call, &mut peer.inner.lock());
        drop(late);
    }
    filled
}

fn copy_bytes(reply: &mut Reply, terms: &Terms, payload: &Payload) -> Result {
    let most = terms.most.len as usize;
    let draft = reply.draft.as_mut().filter(|_| payload.len() <= most);
    let draft = draft.ok_or(EMSGSIZE)?;
    draft
        .fill_reply(payload)
        .inspect_err(|_| draft.clear_reply())?;
    draft.finish_reply(most);
    reply.has_draft = true;
    reply.len = payload.len() as u32;
    Ok(())
}

/// Answers with whatever it is. Who is to be woken.
fn answer(peer: &Arc<Peer>, cmd: &bus1_cmd_reply, token: u64) -> Result<Option<Waker>> {
    let payload = Payload::new(&cmd.send)?;
    let mut load = Load::read(peer, &cmd.send, &payload)?;
    let call = start_answer(peer, peer.inner.lock(), token)?;
    let filled = fill(peer, &call, &mut load, &payload);
    let mut inner = peer.inner.lock();
    let moving = match filled {
        Ok(moving) => moving,
        Err(e) => {
            let late = stop_answer(&call, &mut inner);
            drop(inner);
            drop(late);
            return Err(e);
        }
    };
    call.answering.store(false, Relaxed);
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
            end_late(&call);
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
        moving = fill_draft(peer, draft, load, payload, most.len)
            .inspect_err(|_| draft.clear_reply())?;
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
    most: u32,
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
    draft.finish_reply(most as usize);
    Ok(moving)
}
