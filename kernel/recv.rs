// SPDX-License-Identifier: GPL-2.0-only

//! BUS1_CMD_RECV.
//!
//! What is received is taken off the queue into the receiver's *hand*; written to its memory, without
//! a lock; and only when all of that went well do the handles become user space's. If it did not, the
//! hand goes back to the front of the queue, and nothing was lost.
//!
//! A slice is user space's as soon as it is in the hand, to spare a second section under the lock. A
//! program that gives back a slice that it has not been told of loses the message.

use crate::abi::{self, bus1_cmd_recv};
use crate::call::{Call, CallRef, QUEUED};
use crate::describe::{
    describe, describe_peeked, describe_request, describe_writable, fit, size_in_buf, size_of_peeked,
    Cursor, Receive,
};
use crate::ending::unserve;
use crate::give_back::GiveBack;
use crate::handle::{Handle, Retired};
use crate::hand::{finish_dropped, finish_message, finish_other, put_back_all, put_back_one};
use crate::inherit::begin_current;
use crate::item::{downcast_call, downcast_entry, DynItem, Entry, Item};
use crate::message::{Kind, Message};
use crate::park::{Receiver, Waker};
use crate::peer::{Inner, Peer};
use crate::trace;
use core::mem::ManuallyDrop;
use kernel::list::{List, ListArc};
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::barrier::smp_mb;
use kernel::sync::Arc;

const MAX_ENTRY: u32 = 256;

/// A handle that can be sent through again, as it stands in the list of those.
type Writable = ListArc<Item<Handle>, 3>;

#[inline]
pub(crate) fn check(cmd: &bus1_cmd_recv) -> Result {
    const DROP: u64 = abi::BUS1_RECV_DROP as u64;
    const PEEK: u64 = abi::BUS1_RECV_PEEK as u64;
    const FDS: u64 = abi::BUS1_RECV_FDS as u64 | abi::BUS1_RECV_MEMFD as u64;
    const KNOWN: u64 = abi::BUS1_RECV_NONBLOCK as u64 | FDS | DROP | PEEK;

    if cmd.flags & !KNOWN != 0 || cmd.reserved != 0 || cmd.buf_used != 0 {
        return Err(EINVAL);
    }
    if cmd.n_release > abi::BUS1_MAX_IDS
        || cmd.n_drop > abi::BUS1_MAX_IDS
        || cmd.n_msgs > abi::BUS1_MAX_MSGS
    {
        return Err(EMSGSIZE);
    }
    if cmd.flags & (DROP | PEEK) != 0 {
        if cmd.n_msgs != 1 || cmd.flags & (DROP | PEEK) == DROP | PEEK {
            return Err(EINVAL);
        }
    }
    if cmd.index != 0 && cmd.flags & PEEK == 0 {
        return Err(EINVAL);
    }
    // A pointer to ids without a count is left from the call before: see `GiveBack`.
    if cmd.n_msgs == 0 {
        // Only gives back.
        let unused = cmd.msgs | cmd.buf | u64::from(cmd.msg_size) | u64::from(cmd.buf_size);
        return if unused == 0 && cmd.n_release | cmd.n_drop != 0 {
            Ok(())
        } else {
            Err(EINVAL)
        };
    }
    if (cmd.msg_size as usize) < abi::BUS1_MSG_VER0 as usize
        || cmd.msg_size > MAX_ENTRY
        || cmd.msg_size % 8 != 0
        || cmd.buf % 8 != 0
    {
        return Err(EINVAL);
    }
    Ok(())
}

/// Of a call: it receives one reply.
#[inline]
pub(crate) fn check_one(cmd: &bus1_cmd_recv) -> Result {
    const FDS: u64 = abi::BUS1_RECV_FDS as u64 | abi::BUS1_RECV_MEMFD as u64;

    if cmd.n_msgs != 1 || cmd.flags & !FDS != 0 {
        return Err(EINVAL);
    }
    check(cmd)
}

/// Of a command that receives nothing: it may give back.
pub(crate) fn check_nothing(cmd: &bus1_cmd_recv) -> Result {
    let numbers =
        cmd.n_msgs | cmd.buf_used | cmd.msg_size | cmd.buf_size | cmd.index | cmd.reserved;
    if cmd.flags | cmd.deadline | cmd.msgs | cmd.buf | u64::from(numbers) != 0 {
        return Err(EINVAL);
    }
    if cmd.n_release > abi::BUS1_MAX_IDS || cmd.n_drop > abi::BUS1_MAX_IDS {
        return Err(EMSGSIZE);
    }
    Ok(())
}

/// What a command does in the section that it then receives in.
pub(crate) trait Before {
    /// Under the lock. If it fails nothing has happened.
    fn run(&mut self, peer: &Peer, inner: &mut Inner) -> Result;
    /// What the command gives back is given back; or nothing is.
    fn has_given(&self) -> bool;
    /// After that, without the lock, if it has not failed. Whether the thread is parked, and about to sleep.
    fn done(&mut self, peer: &Peer, parked: bool);
    /// Who is to be handed the CPU then.
    fn next(&mut self) -> Option<Waker>;
}

/// Gives back. What is retired by that is dropped by `done`, which follows in any case.
struct Back(GiveBack, ManuallyDrop<Option<Retired>>);

impl Before for Back {
    #[inline(always)]
    fn run(&mut self, peer: &Peer, inner: &mut Inner) -> Result {
        self.0.apply(peer, inner, &mut self.1)?;
        self.0 = GiveBack::NOTHING;
        Ok(())
    }

    #[inline(always)]
    fn has_given(&self) -> bool {
        false
    }

    #[inline(always)]
    fn done(&mut self, _peer: &Peer, _parked: bool) {
        if self.1.is_some() {
            drop(self.1.take());
        }
    }

    #[inline(always)]
    fn next(&mut self) -> Option<Waker> {
        None
    }
}

pub(crate) fn recv(peer: &Arc<Peer>, call: &mut Receive<'_>, nonblock: bool) -> Result {
    check(call.cmd)?;
    let back = GiveBack::of(peer, call)?;
    if call.cmd.n_msgs == 0 {
        return Ok(());
    }
    receive(
        peer,
        call,
        nonblock,
        &mut Back(back, ManuallyDrop::new(None)),
    )
}

/// Receives, after something else.
#[inline(always)]
pub(crate) fn receive(
    peer: &Arc<Peer>,
    call: &mut Receive<'_>,
    nonblock: bool,
    before: &mut impl Before,
) -> Result {
    let mut waits = !nonblock && !call.has(abi::BUS1_RECV_NONBLOCK | abi::BUS1_RECV_PEEK);
    let mut nothing = EAGAIN;
    let room = if call.has(abi::BUS1_RECV_DROP) {
        -1
    } else {
        i64::from(call.cmd.buf_size)
    };
    let receiver = Receiver::new(room);
    loop {
        let receiver = waits.then_some(&receiver);
        if call.cmd.n_msgs == 1 && !call.has(abi::BUS1_RECV_DROP | abi::BUS1_RECV_PEEK) {
            if take_one(peer, call, before, receiver)? {
                return Ok(());
            }
        } else if take_many(peer, call, before, receiver)? {
            return Ok(());
        }
        let Some(receiver) = receiver else {
            return Err(nothing);
        };
        let slept = receiver.sleep(call.cmd.deadline, before.next());
        if !receiver.is_out() {
            peer.parked.remove(&mut peer.inner.lock(), receiver);
        }
        if let Some(request) = receiver.take() {
            return tell_request(peer, call, &request).inspect_err(|_| unserve(peer, &request));
        }
        if let Err(e) = slept {
            // It may have been woken for something: a last look.
            waits = false;
            nothing = e;
        }
    }
}

/// Enters the thread, unless there is something by now that was committed without the lock.
///
/// # Safety
///
/// As [`Parked::push`](crate::park::Parked::push).
#[inline(always)]
unsafe fn park(peer: &Peer, inner: &mut Inner, receiver: &Receiver) {
    // SAFETY: By the caller.
    unsafe { peer.parked.push(inner, receiver) };
    if inner.queue.has_pending() {
        // Pairs with the barrier after the commit of a multicast: one of both sees the other.
        smp_mb();
        if inner.queue.has_next() {
            peer.parked.remove(inner, receiver);
        }
    }
}

/// What was taken off the queue.
enum Taken {
    Message(ListArc<Item<Message>>),
    /// It has a token.
    Request(CallRef),
    Other(Entry),
}

impl Taken {
    #[inline(always)]
    fn new(entry: Entry, inner: &mut Inner) -> Self {
        match downcast_entry(entry) {
            Ok(message) => {
                message.take(inner);
                Self::Message(message)
            }
            Err(other) => Self::new_other(other, inner),
        }
    }

    #[inline(never)]
    fn new_other(entry: Entry, inner: &mut Inner) -> Self {
        let Kind::Call(call) = entry.kind() else {
            return Self::Other(entry);
        };
        match call.place.load(Relaxed) {
            QUEUED => {
                return match downcast_call(entry) {
                    Ok(call) => {
                        call.leave_queue(inner);
                        Call::serve(&call, inner);
                        Self::Request(call)
                    }
                    Err(entry) => Self::Other(entry),
                }
            }
            _ => {
                call.take(inner);
                if let Some(message) = call.message() {
                    message.take(inner);
                }
            }
        }
        Self::Other(entry)
    }

    /// To be dropped.
    fn dropped(entry: Entry, inner: &mut Inner) -> Self {
        if let Kind::Call(call) = entry.kind() {
            call.take(inner);
        }
        Self::Other(entry)
    }
}

/// Receives one item, the common case. False if there is none: then the thread is parked, if it is to be.
#[inline(always)]
fn take_one(
    peer: &Arc<Peer>,
    call: &mut Receive<'_>,
    before: &mut impl Before,
    receiver: Option<&Receiver>,
) -> Result<bool> {
    let mut garbage = List::new();
    let mut needed = 0;
    let mut inner = peer.inner.lock();
    if let Err(e) = before.run(peer, &mut inner) {
        // A reply that is too late makes room, too.
        peer.unlock_room(inner);
        if !before.has_given() {
            call.restore_given();
        }
        return Err(e);
    }
    if !inner.writable.is_empty() {
        if let Some(handle) = pop_writable(&mut inner) {
            peer.unlock_room(inner);
            before.done(peer, false);
            return take_writable(peer, call, handle);
        }
    }
    let entry = inner.queue.next(&mut garbage, |item| {
        needed = fit(call, item.kind(), 0);
        needed == 0
    });
    let taken = entry.map(|entry| Taken::new(entry, &mut inner));
    let mut parked = false;
    if let (None, 0, Some(receiver)) = (&taken, needed, receiver) {
        // SAFETY: The caller keeps it until it is out.
        unsafe { park(peer, &mut inner, receiver) };
        parked = true;
    }
    peer.unlock_room(inner);
    before.done(peer, parked);
    if !garbage.is_empty() {
        peer.drop_items(garbage, abi::BUS1_WHY_DEAD);
    }
    let mut at = Cursor { n: 0, used: 0 };
    match taken {
        Some(Taken::Message(message)) => {
            let written = describe(call, Kind::Message(&message), &mut at, false)
                .and_then(|()| call.write_one(at.used));
            if let Err(e) = written {
                put_back_one(peer, message as Entry);
                return Err(e);
            }
            if !message.is_plain() {
                finish_message(peer, call, &message, 0, false);
            }
            trace::received(&message);
            peer.spare.put(message.into_arc());
            Ok(true)
        }
        Some(other) => take_other(peer, call, other),
        None if needed == 0 => Ok(false),
        None => Err(too_small(peer, call, needed)),
    }
}

/// Tells of a notice, a request, or a reply from the queue.
#[inline(never)]
fn take_other(peer: &Arc<Peer>, call: &mut Receive<'_>, taken: Taken) -> Result<bool> {
    match taken {
        Taken::Request(request) => {
            begin_current(&request);
            tell_request(peer, call, &request).inspect_err(|_| unserve(peer, &request))?;
        }
        Taken::Other(entry) => {
            let mut at = Cursor { n: 0, used: 0 };
            let written =
                describe(call, entry.kind(), &mut at, false).and_then(|()| call.write_one(at.used));
            if let Err(e) = written {
                put_back_one(peer, entry);
                return Err(e);
            }
            trace::received(&entry);
            finish_other(peer, call, entry);
        }
        Taken::Message(_) => (),
    }
    Ok(true)
}

/// Tells of a request that this peer has the token of.
#[inline(always)]
pub(crate) fn tell_request(peer: &Arc<Peer>, call: &Receive<'_>, request: &CallRef) -> Result {
    let mut at = Cursor { n: 0, used: 0 };
    describe_request(call, request, &mut at)?;
    call.write_one(at.used)?;
    if let Some(draft) = request.request() {
        if !draft.get().is_plain() {
            finish_message(peer, call, draft.get(), 0, false);
        }
        request.drop_request(peer);
    }
    trace::request_received(request);
    Ok(())
}

#[cold]
fn too_small(peer: &Arc<Peer>, call: &Receive<'_>, needed: usize) -> Error {
    let needed = needed.min(u32::MAX as usize) as u32;
    if let Err(e) = call.write_taken(call.cmd.n_msgs, needed) {
        return e;
    }
    if !call.has(abi::BUS1_RECV_PEEK) {
        // Another receiver may have more room.
        peer.wake();
    }
    EMSGSIZE
}

/// Receives what is there, drops it, or shows it. False if there is nothing: then the thread is parked,
/// if it is to be. A request is the last of what is received.
#[inline(never)]
fn take_many(
    peer: &Arc<Peer>,
    call: &mut Receive<'_>,
    before: &mut impl Before,
    receiver: Option<&Receiver>,
) -> Result<bool> {
    let mut inner = peer.inner.lock();
    if let Err(e) = before.run(peer, &mut inner) {
        // A reply that is too late makes room, too.
        peer.unlock_room(inner);
        if !before.has_given() {
            call.restore_given();
        }
        return Err(e);
    }
    let peeks = call.has(abi::BUS1_RECV_PEEK);
    let writable = if peeks {
        None
    } else {
        pop_writable(&mut inner)
    };
    peer.unlock_room(inner);
    if peeks {
        before.done(peer, false);
        return peek(peer, call);
    }
    if let Some(handle) = writable {
        before.done(peer, false);
        return take_writable(peer, call, handle);
    }
    let drops = call.has(abi::BUS1_RECV_DROP);
    let mut hand = List::new();
    let mut garbage = List::new();
    let mut at = Cursor { n: 0, used: 0 };
    let mut needed = 0;
    let mut request = None;

    while at.n < call.cmd.n_msgs && request.is_none() {
        let mut inner = peer.inner.lock();
        let entry = inner.queue.next(&mut garbage, |item| {
            needed = fit(call, item.kind(), at.used);
            needed == 0
        });
        let taken = entry.map(|entry| {
            if drops {
                Taken::dropped(entry, &mut inner)
            } else {
                Taken::new(entry, &mut inner)
            }
        });
        let mut parked = false;
        if let (None, 0, 0, Some(receiver)) = (&taken, at.n, needed, receiver) {
            // It may have come since the section before.
            if let Some(handle) = pop_writable(&mut inner) {
                peer.unlock_room(inner);
                before.done(peer, false);
                peer.drop_items(garbage, abi::BUS1_WHY_DEAD);
                return take_writable(peer, call, handle);
            }
            // SAFETY: The caller keeps it until it is out.
            unsafe { park(peer, &mut inner, receiver) };
            parked = true;
        }
        peer.unlock_room(inner);
        before.done(peer, parked);
        if !garbage.is_empty() {
            peer.drop_items(
                core::mem::replace(&mut garbage, List::new()),
                abi::BUS1_WHY_DEAD,
            );
        }
        let written = match taken {
            None => break,
            Some(Taken::Request(taken)) => {
                let written = describe_request(call, &taken, &mut at);
                request = Some(taken);
                written
            }
            Some(Taken::Message(message)) => {
                let written = describe(call, Kind::Message(&message), &mut at, drops);
                hand.push_back(message as Entry);
                written
            }
            Some(Taken::Other(entry)) => {
                let written = describe(call, entry.kind(), &mut at, drops);
                hand.push_back(entry);
                written
            }
        };
        if let Err(e) = written {
            put_back_all(peer, request, hand, drops);
            return Err(e);
        }
    }
    if at.n == 0 {
        return if needed == 0 {
            Ok(false)
        } else {
            Err(too_small(peer, call, needed))
        };
    }
    let told = if at.n == 1 {
        call.write_one(at.used)
    } else {
        call.write_taken(at.n, at.used as u32)
    };
    if let Err(e) = told {
        put_back_all(peer, request, hand, drops);
        return Err(e);
    }
    let mut used = 0;
    while let Some(entry) = hand.pop_front() {
        if drops {
            trace::dropped(&entry, abi::BUS1_WHY_RECEIVER);
        } else {
            trace::received(&entry);
        }
        match downcast_entry(entry) {
            Ok(message) => {
                used = finish_message(peer, call, &message, used, drops);
                peer.spare.put(message.into_arc());
            }
            Err(other) => used = finish_dropped(peer, call, other, used, drops),
        }
    }
    if let Some(request) = request {
        begin_current(&request);
        if let Some(draft) = request.request() {
            finish_message(peer, call, draft.get(), used, false);
            request.drop_request(peer);
        }
        trace::request_received(&request);
    }
    Ok(true)
}

/// Takes the notice that a handle can be sent through again into the hand, if there is one. In the
/// section that saw it: another receiver may be as quick, and messages may be waiting behind it.
#[cold]
fn pop_writable(inner: &mut Inner) -> Option<Writable> {
    let handle = inner.writable.pop_front()?;
    handle.set_told(false);
    handle.add_in_hand(1);
    Some(handle)
}

/// Receives such a notice.
#[cold]
fn take_writable(peer: &Arc<Peer>, call: &mut Receive<'_>, handle: Writable) -> Result<bool> {
    let id = handle.id.load(Relaxed);
    let written = describe_writable(call, id).and_then(|()| call.write_one(0));
    let keep = handle.clone_arc();
    let mut handle = Some(handle);
    let mut inner = peer.inner.lock();
    keep.add_in_hand(-1);
    if written.is_err() && keep.is_held() {
        keep.set_told(true);
        if let Some(handle) = handle.take() {
            inner.writable.push_front(handle);
        }
    }
    let retired = inner.retire(&keep);
    drop(inner);
    drop((retired, handle));
    if written.is_err() {
        peer.wake();
    }
    written.map(|()| true)
}

/// Shows a message that stays where it is.
fn peek(peer: &Arc<Peer>, call: &mut Receive<'_>) -> Result<bool> {
    let (item, peeked): (Arc<DynItem>, _) = {
        let mut inner = peer.inner.lock();
        let Some(item) = inner.queue.nth(call.cmd.index as usize) else {
            return Ok(false);
        };
        // It may be received, answered and over before it is shown.
        let peeked = match item.kind() {
            Kind::Call(c) => Some(c.peek()),
            _ => None,
        };
        (item.into(), peeked)
    };
    let mut at = Cursor { n: 0, used: 0 };
    let needed = match (item.kind(), &peeked) {
        (Kind::Call(c), Some(peeked)) => size_of_peeked(call, c, peeked),
        (kind, _) => size_in_buf(call, kind),
    };
    if needed > call.cmd.buf_size as usize {
        return Err(too_small(peer, call, needed));
    }
    match (item.kind(), &peeked) {
        (Kind::Call(c), Some(peeked)) => describe_peeked(call, c, peeked, &mut at)?,
        (kind, _) => describe(call, kind, &mut at, false)?,
    }
    Ok(true)
}
