// SPDX-License-Identifier: GPL-2.0-only

//! What a receiver has in its hand: it is user space's when all of it was told, or goes back to the
//! queue.

use crate::abi;
use crate::call::{Call, CallRef, Guard, QUEUED, REPLY};
use crate::calling;
use crate::describe::{add_in_hand, Layout, Receive};
use crate::ending::{discard, drop_request, forget, give, unserve};
use crate::errno::econnaborted;
use crate::item::{downcast_call, Entry, Items};
use crate::message::{Kind, Message};
use crate::node::{is_overtaken, tell_unused};
use crate::peer::{Object, Peer};
use kernel::list::{List, ListArc};
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;

/// A message was received, or dropped if the caller wants that. Returns where its part of buf[] ends,
/// if another follows.
#[inline(always)]
pub(crate) fn finish_message(
    peer: &Arc<Peer>,
    call: &Receive<'_>,
    m: &Message,
    used: usize,
    drops: bool,
) -> usize {
    if !m.passed().is_empty() {
        let dead = m.passed().finish(&mut peer.inner.lock(), !drops);
        if dead {
            // Notices that waited for these handles may be received now.
            peer.wake();
        }
    }
    if call.cmd.n_msgs == 1 && m.baggage().is_none() {
        return used;
    }
    let layout = Layout::new(call, m, used);
    if let Some(baggage) = m.baggage() {
        if !drops && layout.creds != layout.fds {
            baggage.install(call.cmd.buf.wrapping_add(layout.fds as u64));
        }
    }
    layout.end
}

/// What is no message was received, or dropped. Returns where its part of buf[] ends.
pub(crate) fn finish_dropped(
    peer: &Arc<Peer>,
    call: &Receive<'_>,
    entry: Entry,
    used: usize,
    drops: bool,
) -> usize {
    if let Kind::Call(c) = entry.kind() {
        if !drops {
            return finish_call(peer, call, c, used);
        }
        if let Some(message) = c.message() {
            message.passed().finish(&mut peer.inner.lock(), false);
        }
        match c.place.load(Relaxed) {
            QUEUED => {
                if let Ok(call) = downcast_call(entry) {
                    drop_request(&call, econnaborted());
                }
            }
            REPLY => {
                forget(c);
                c.finish();
            }
            _ => (),
        }
        return used;
    }
    finish_other(peer, call, entry);
    used
}

/// A reply from the queue was received, if it is one.
fn finish_call(peer: &Arc<Peer>, call: &Receive<'_>, c: &Call, used: usize) -> usize {
    if c.place.load(Relaxed) != REPLY {
        return used;
    }
    forget(c);
    let end = match c.message() {
        Some(message) => finish_message(peer, call, message, used, false),
        None => used + c.inline_reply().len().next_multiple_of(8),
    };
    c.finish();
    end
}

/// A notice, or a reply, was received.
pub(crate) fn finish_other(peer: &Arc<Peer>, call: &Receive<'_>, entry: Entry) {
    match entry.kind() {
        Kind::Call(c) => {
            finish_call(peer, call, c, 0);
        }
        Kind::Unused(n) => {
            let id = n.id.load(Relaxed);
            drop(entry);
            retell(peer, id);
        }
        Kind::Dead(h) => finish_dead(peer, h.id.load(Relaxed), entry),
        _ => (),
    }
}

/// The notice of a death was received. The handle keeps its id until now.
fn finish_dead(peer: &Arc<Peer>, id: u64, entry: Entry) {
    let inner = peer.inner.lock();
    add_in_hand(entry.kind(), -1);
    let handle = match inner.ids.get(id) {
        Some(Object::Handle(handle)) => Some(handle.clone()),
        _ => None,
    };
    // The table has a reference, or else user space has released the handle.
    drop(inner);
    drop(entry);
    if let Some(handle) = handle {
        let retired = peer.inner.lock().retire(&handle);
        drop(retired);
    }
}

/// After the notice that a node is unused left a receiver's hand: what happened meanwhile could not
/// be linked.
fn retell(peer: &Arc<Peer>, id: u64) {
    let mut inner = peer.inner.lock();
    let Some(Object::Node(node)) = inner.ids.get(id) else {
        return;
    };
    let node = node.clone();
    let tell = is_overtaken(&node, &mut inner) && tell_unused(&node, &mut inner, None);
    drop(inner);
    if tell {
        peer.wake();
    }
}

/// A request that was to be dropped is not.
#[cold]
fn put_back_request(call: &CallRef, mut server: Guard<'_>) {
    call.leave_queue(&mut server);
    let entry = ListArc::<_, 0>::try_from_arc(call.clone());
    // It is in no list any more.
    let waker = entry
        .ok()
        .and_then(|entry| calling::put_back(entry, &mut server));
    drop(server);
    if let Some(waker) = waker {
        give(call, waker);
    }
}

/// Puts what was not received back to the front of the queue, in order, but for notices that have
/// become void meanwhile.
#[cold]
fn put_back(peer: &Arc<Peer>, mut hand: Items, drops: bool) {
    let mut n = 0;
    while let Some(entry) = hand.pop_back() {
        let mut inner = peer.inner.lock();
        add_in_hand(entry.kind(), -1);
        let mut why = abi::BUS1_WHY_WITHDRAWN;
        let (void, unused) = match entry.kind() {
            Kind::Dead(h) => (h.is_idle(), None),
            Kind::Unused(n) => (is_overtaken(n, &mut inner), Some(n.id.load(Relaxed))),
            Kind::Message(m) => {
                why = abi::BUS1_WHY_RELEASED;
                (!drops && !m.untake(&mut inner), None)
            }
            Kind::Call(c) => (!c.untake(&mut inner, drops), None),
            #[cfg(CONFIG_KUNIT = "y")]
            Kind::Test(_) => (false, None),
        };
        if !void {
            n += 1;
            if !entry.kind().is_request() {
                inner.queue.push_front(entry);
            } else if let Ok(call) = downcast_call(entry) {
                put_back_request(&call, inner);
            }
            continue;
        }
        drop(inner);
        if let Kind::Call(c) = entry.kind() {
            if c.place.load(Relaxed) == REPLY {
                forget(c);
            }
        }
        discard(entry, why);
        if let Some(id) = unused {
            retell(peer, id);
        }
    }
    // One thread for one thing.
    for _ in 0..n.max(1) {
        peer.wake();
    }
}

#[cold]
pub(crate) fn put_back_one(peer: &Arc<Peer>, entry: Entry) {
    let mut hand = List::new();
    hand.push_back(entry);
    put_back(peer, hand, false);
}

/// The request first, so that it stands behind what came before it.
#[cold]
pub(crate) fn put_back_all(peer: &Arc<Peer>, request: Option<CallRef>, hand: Items, drops: bool) {
    if let Some(request) = request {
        unserve(peer, &request);
    }
    put_back(peer, hand, drops);
}
