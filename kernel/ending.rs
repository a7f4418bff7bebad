// SPDX-License-Identifier: GPL-2.0-only

//! How a call ends: by its reply, or without one; and what becomes of it where its caller has left.

use crate::abi;
use crate::call::{Call, CallEntry, CallRef, Came, AWAY, NOTICE, QUEUED, REPLY, SERVED};
use crate::calling;
use crate::errno::{econnaborted, econnreset, ehostunreach};
use crate::inherit;
use crate::item::{downcast_call, Entry};
use crate::message::Kind;
use crate::park::Waker;
use crate::peer::{Inner, Peer, Woken};
use crate::trace;
use kernel::list::ListArc;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;

/// The call is known by its id no more.
pub(crate) fn forget(call: &Call) {
    let entry = call.caller.inner.lock().remove_call(call.id.load(Relaxed));
    drop(entry);
}

/// Links the result of an asynchronous call into its caller's queue, unless that has given it up
/// meanwhile. Without a lock.
pub(crate) fn deliver(call: &CallRef) {
    if !call.terms.is_async {
        return;
    }
    let caller = &call.caller;
    let mut inner = caller.inner.lock();
    let is_known = matches!(inner.call(call.id.load(Relaxed)),
        Some(CallEntry::Made(c)) if Arc::ptr_eq(c, call));
    if !is_known {
        drop(inner);
        return call.finish();
    }
    let woken = push_reply(call, &mut inner, false);
    drop(inner);
    woken.wake();
}

/// Links a result into its caller's queue, which has its lock held.
pub(crate) fn push_reply(call: &CallRef, caller: &mut Inner, first: bool) -> Woken {
    // It is in no list: whoever has the result has it alone.
    let Ok(entry) = ListArc::<_, 0>::try_from_arc(call.clone()) else {
        return Woken::NOBODY;
    };
    call.place.store(REPLY, Relaxed);
    if first {
        caller.queue.push_front(entry as Entry);
    } else {
        caller.queue.push(entry as Entry, 0);
    }
    call.caller.woken(caller, &call.caller)
}

/// Ends a call without a reply. By who has the right to answer, without a lock.
#[cold]
pub(crate) fn fail(call: &CallRef, error: Error) {
    // SAFETY: By the caller.
    unsafe { call.reply_mut() }.error = Some(error);
    call.note_fault();
    trace::replied(&call.node.owner, call);
    match call.decide() {
        Came::Waiting(Some(waker)) => waker.wake(),
        Came::Away => deliver(call),
        Came::Late => drop_late(call),
        Came::Waiting(None) => (),
    }
    inherit::end(call);
}

/// The result comes too late: what was set aside for it goes back now, whoever keeps the call. By who had the
/// right to answer, without a lock.
#[cold]
pub(crate) fn drop_late(call: &Call) {
    // SAFETY: By the caller: and the caller of the call, who has left, does not look at it.
    drop(unsafe { call.reply_mut() }.draft.take());
}

/// Takes the request with a token to be answered, for good: the right to answer is the caller's. ENXIO,
/// EBUSY.
#[inline(always)]
pub(crate) fn take_token(server: &mut Inner, token: u64) -> Result<(CallRef, Option<Entry>)> {
    let entry = server.remove_call_if(token, |entry| match entry {
        CallEntry::Served(call) if !call.answering.load(Relaxed) => Ok(()),
        CallEntry::Served(_) => Err(EBUSY),
        CallEntry::Made(_) => Err(ENXIO),
    })?;
    take(server, entry)
}

/// The same by who is about to answer.
#[inline(never)]
pub(crate) fn take_answered(server: &mut Inner, token: u64) -> Result<(CallRef, Option<Entry>)> {
    let entry = server.remove_call(token).ok_or(ENXIO)?;
    take(server, entry)
}

#[inline(always)]
fn take(server: &mut Inner, entry: CallEntry) -> Result<(CallRef, Option<Entry>)> {
    let CallEntry::Served(call) = entry else {
        return Err(ENXIO);
    };
    let mut notice = None;
    if call.place.load(Relaxed) == NOTICE {
        notice = server.queue.remove(&*call);
    }
    call.leave_server(server);
    Ok((call, notice))
}

/// The caller has left: nothing of the call is seen any more, or the server is told. Without a lock.
#[cold]
pub(crate) fn withdraw(call: &CallRef) {
    let server = &call.node.owner;
    let mut woken = Woken::NOBODY;
    let mut inner = server.inner.lock();
    let mut entry = None;
    let mut draft = None;
    match call.place.load(Relaxed) {
        QUEUED => {
            entry = inner.queue.remove(&**call);
            if entry.is_some() {
                call.leave_queue(&mut inner);
                call.leave_server(&mut inner);
            }
        }
        SERVED if !inner.closed => {
            if !call.answering.load(Relaxed) {
                // SAFETY: Nobody else is about to answer, and who will finds that the caller has left.
                draft = unsafe { call.reply_mut() }.draft.take();
            }
            if let Ok(notice) = ListArc::<_, 0>::try_from_arc(call.clone()) {
                call.place.store(NOTICE, Relaxed);
                inner.queue.push(notice as Entry, 0);
                woken = server.woken(&mut inner, server);
            }
        }
        _ => (),
    }
    call.settle_left(&mut inner);
    server.unlock_room(inner);
    if let Some(entry) = &entry {
        trace::dropped(entry, abi::BUS1_WHY_WITHDRAWN);
    }
    drop((entry, draft));
    woken.wake();
    inherit::end(call);
}

/// A thread has a request, by [`calling::put_back`].
pub(crate) fn give(call: &CallRef, waker: Waker) {
    inherit::begin(call, &waker);
    waker.wake();
}

/// A request that its receiver could not be told of goes back into the queue; unless its caller
/// has left.
#[cold]
pub(crate) fn unserve(server: &Peer, call: &CallRef) {
    inherit::end(call);
    let mut garbage = None;
    let mut error = None;
    let mut nested = None;
    let mut inner = server.inner.lock();
    let mut is_back = true;
    if let Some(draft) = call.request() {
        draft.get().passed().add_in_hand(-1);
        is_back = draft.get().untake(&mut inner);
    }
    let token = call.token.load(Relaxed);
    // Another thread may have guessed the token: then what the request brings goes with this.
    if call.answering.load(Relaxed) || !matches!(inner.call(token), Some(CallEntry::Served(_))) {
        server.unlock_room(inner);
        return call.drop_request(server);
    }
    let entry = inner.remove_call(token);
    if call.place.load(Relaxed) != SERVED || !is_back {
        // Its notice, if the caller has left.
        garbage = inner.queue.remove(&**call);
        call.leave_server(&mut inner);
        error = Some(econnaborted());
    } else if let Ok(entry) = ListArc::<_, 0>::try_from_arc(call.clone()) {
        nested = calling::put_back(entry, &mut inner);
    }
    server.unlock_room(inner);
    drop((garbage, entry));
    match (error, nested) {
        (Some(e), _) => {
            call.drop_request(server);
            fail(call, e);
        }
        (None, Some(waker)) => give(call, waker),
        (None, None) => server.wake(),
    }
}

/// Drops what was taken off a queue, and ends the call if it was the request of one.
pub(crate) fn discard(item: Entry, why: u32) {
    trace::dropped(&item, why);
    match item.kind() {
        Kind::Call(c) if c.place.load(Relaxed) == QUEUED => (),
        Kind::Call(c) if c.place.load(Relaxed) == REPLY => {
            c.finish();
            return drop(item);
        }
        _ => return drop(item),
    }
    let error = if why == abi::BUS1_WHY_RECEIVER {
        econnaborted()
    } else {
        ehostunreach()
    };
    if let Ok(call) = downcast_call(item) {
        drop_request(&call, error);
    }
}

/// A request was taken off the queue and is not served.
#[cold]
pub(crate) fn drop_request(call: &CallRef, error: Error) {
    let server = &call.node.owner;
    let mut inner = server.inner.lock();
    call.leave_queue(&mut inner);
    call.leave_server(&mut inner);
    server.unlock_room(inner);
    fail(call, error);
}

/// The peer in whose table this was is closed.
pub(crate) fn close(entry: CallEntry) {
    match entry {
        CallEntry::Served(call) => {
            let server = &call.node.owner;
            call.leave_server(&mut server.inner.lock());
            fail(&call, econnreset());
        }
        CallEntry::Made(call) => {
            if call.leave_from(AWAY) {
                withdraw(&call);
            } else if !call.terms.is_async {
                // It had a result, and nobody came for that.
                call.finish();
            }
        }
    }
}
