// SPDX-License-Identifier: GPL-2.0-only

//! How a request comes to its server: into its queue, or straight to a thread that waits.

use crate::call::{Call, CallEntry, CallRef, Guard, AWAY, LEFT, QUEUED, WAITING};
use crate::errno::{ecanceled, ehostunreach};
use crate::ids::{Growth, Need};
use crate::item::{Entry, Item};
use crate::park::Waker;
use crate::peer::{Inner, Peer, Woken};
use crate::quota::Amounts;
use crate::trace;
use kernel::list::ListArc;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;

/// Charges a request and links it to its node, or gives it to a thread that waits for one. What of
/// it can be seen is then as the state says. Returns who is to be woken, and whether to hand over to him.
///
/// EHOSTUNREACH, EAGAIN, ENXIO: as [`Peer::link`]. ENOMEM. ECANCELED if its caller has left already.
#[inline(always)]
pub(crate) fn link(entry: ListArc<Item<Call>>, from: &Peer) -> Result<(Woken, bool)> {
    let node = &raw const entry.node;
    // SAFETY: The caller of this keeps a reference to the call, and that its node.
    let node = unsafe { &*node };
    let server = &node.owner;
    let mut inner = lock_with_room(server)?;
    if entry.terms.is_async && entry.state() == LEFT {
        // By its id, which was told already.
        drop(inner);
        return Err(ecanceled());
    }
    if inner.closed || node.refuses(&mut inner) {
        drop(inner);
        return Err(ehostunreach());
    }
    if let Err(e) = inner.charge_call(entry.account, from, server.id) {
        drop(inner);
        return Err(e);
    }
    if let Some(draft) = entry.request() {
        if let Err(e) = inner.book_in(draft, from, entry.account) {
            inner.book.discharge(entry.account, &Amounts::MESSAGE);
            drop(inner);
            return Err(e);
        }
        draft.set_sent();
    }
    if node.is_once {
        node.set_spent(&mut inner, true);
    }
    // Nothing fails from here on.
    trace::called(from, &entry);
    if entry.parent.is_some() {
        if let Some(waker) = nest(&entry) {
            let call: CallRef = entry.into_arc();
            Call::serve_given(&call, &mut inner);
            drop(inner);
            drop(call);
            return Ok((Woken::receiver(Some(waker)), true));
        }
    }
    // Only if nothing is before it.
    if inner.queue.len() == 0 && inner.writable.is_empty() && server.parked.is_active() {
        let needed = entry.needed();
        let mut entry = Some(entry);
        let waker = server.parked.give(&mut inner, needed, |inner| {
            let call: CallRef = entry.take()?.into_arc();
            Call::serve_given(&call, inner);
            Some(call)
        });
        let Some(entry) = entry else {
            drop(inner);
            return Ok((Woken::receiver(waker), true));
        };
        return Ok((push(entry, server, inner), false));
    }
    Ok((push(entry, server, inner), false))
}

/// The lock of a peer that has room for another call in its table, besides one for each request in its
/// queue. ENOMEM; EHOSTUNREACH if it is closed.
#[inline(always)]
fn lock_with_room(peer: &Peer) -> Result<Guard<'_>> {
    let mut inner = peer.inner.lock();
    while let Some(need) = inner.call_growth() {
        drop(inner);
        inner = grow(peer, need)?;
    }
    Ok(inner)
}

#[cold]
#[inline(never)]
fn grow(peer: &Peer, need: Need) -> Result<Guard<'_>> {
    let growth = Growth::new(need)?;
    let mut inner = peer.inner.lock();
    if inner.closed {
        drop(inner);
        return Err(ehostunreach());
    }
    if let Some(rest) = inner.grow_calls(growth) {
        drop(inner);
        drop(rest);
        inner = peer.inner.lock();
    }
    Ok(inner)
}

/// Gives a call an id in its caller's table. ENOMEM.
pub(crate) fn enter(call: &CallRef) -> Result {
    let mut inner = lock_with_room(&call.caller)?;
    if let Some(id) = inner.add_call(CallEntry::Made(call.clone())) {
        call.id.store(id, Relaxed);
    }
    Ok(())
}

#[inline(never)]
fn push(entry: ListArc<Item<Call>>, server: &Arc<Peer>, mut inner: Guard<'_>) -> Woken {
    let level = server.level(entry.terms.priority);
    let call = entry.clone_arc();
    entry.place.store(QUEUED, Relaxed);
    inner.queue.push(entry as Entry, level);
    call.enter_queue(&mut inner);
    let woken = server.woken(&mut inner, server);
    drop(inner);
    drop(call);
    woken
}

/// A request that a thread had, and that it could not be told of, goes to one that serves it while it
/// waits, who is to be [raised](crate::inherit::begin) and woken; or back to the front of the queue. With
/// the server's lock held; the caller of this keeps the call.
#[cold]
pub(crate) fn put_back(entry: ListArc<Item<Call>>, server: &mut Inner) -> Option<Waker> {
    let call = entry.clone_arc();
    if entry.parent.is_some() {
        if let Some(waker) = nest(&entry) {
            Call::serve_given(&call, server);
            return Some(waker);
        }
    }
    call.place.store(QUEUED, Relaxed);
    call.token.store(0, Relaxed);
    server.queue.push_front(entry as Entry);
    call.enter_queue(server);
    None
}

/// A thread of the server's that waits for a call which this one is a part of, and serves such. It
/// goes away for that, and finds the request. With the server's lock held.
#[cold]
fn nest(call: &ListArc<Item<Call>>) -> Option<Waker> {
    let mut ancestor = call.parent.as_ref();
    while let Some(a) = ancestor {
        if a.terms.nests
            && Arc::ptr_eq(&a.caller, &call.node.owner)
            && call.needed() <= a.room.load(Relaxed) as usize
            && a.step(WAITING, AWAY)
        {
            a.set_nested(call.clone_arc());
            return a.take_task();
        }
        ancestor = a.parent.as_ref();
    }
    None
}
