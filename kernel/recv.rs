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
use crate::describe::{
    add_in_hand, describe, describe_writable, fit, size_in_buf, Call, Cursor, Layout,
};
use crate::handle::{Handle, Retired};
use crate::item::{downcast_entry, DynItem, Entry, Item, Items};
use crate::message::{Kind, Message};
use crate::moving::Moving;
use crate::node::{is_overtaken, tell_unused};
use crate::peer::{Inner, Object, Peer};
use crate::trace;
use crate::user::{self, Several};
use kernel::list::{List, ListArc};
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;

const MAX_ENTRY: u32 = 256;

/// A handle that can be sent through again, as it stands in the list of those.
type Writable = ListArc<Item<Handle>, 3>;

#[inline]
fn check(cmd: &bus1_cmd_recv) -> Result {
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

/// What the caller gives back before it receives: a slice, a handle, or 0. It is given back in the
/// section that messages are taken in.
#[derive(Clone, Copy)]
struct GiveBack {
    slice: u64,
    handle: u64,
}

impl GiveBack {
    const NOTHING: Self = Self {
        slice: 0,
        handle: 0,
    };

    /// Reads the ids if there are few, or else gives all of them back. The caller's counts of them
    /// become 0: it must not happen twice.
    #[inline]
    fn read(peer: &Arc<Peer>, call: &Call<'_>) -> Result<Self> {
        let (n_release, n_drop) = (call.cmd.n_release, call.cmd.n_drop);
        if n_release > 1 || n_drop > 1 || call.cmd.n_msgs == 0 {
            return give_back(peer, call);
        }
        let mut back = Self::NOTHING;
        if n_release != 0 {
            back.slice = read_id(call.cmd.release)?;
        }
        if n_drop != 0 {
            back.handle = read_id(call.cmd.drop)?;
        }
        // First, to be told before anything is done if it can not be written.
        call.write_given(0, 0)?;
        Ok(back)
    }

    /// A handle that is gone by that becomes `retired`.
    #[inline(always)]
    fn apply(self, peer: &Peer, inner: &mut Inner, retired: &mut Option<Retired>) -> Result {
        if self.handle != 0 {
            *retired = self.apply_handle(peer, inner)?;
            return Ok(());
        }
        if self.slice == 0 || peer.release_slice(inner, self.slice) {
            Ok(())
        } else {
            Err(ENXIO)
        }
    }

    #[inline(always)]
    fn apply_handle(self, peer: &Peer, inner: &mut Inner) -> Result<Option<Retired>> {
        let handle = inner.handle(self.handle)?;
        if self.slice != 0 && !peer.release_slice(inner, self.slice) {
            return Err(ENXIO);
        }
        handle.add_count(-1, inner);
        Ok(inner.retire_now(&handle))
    }
}

/// An id that may be one: 0 is none.
#[inline]
fn read_id(place: u64) -> Result<u64> {
    match user::read_u64(place)? {
        0 => Err(ENXIO),
        id => Ok(id),
    }
}

/// Gives any number of ids back. By itself, so that the common case has a small frame.
#[cold]
#[inline(never)]
fn give_back(peer: &Arc<Peer>, call: &Call<'_>) -> Result<GiveBack> {
    let (n_release, n_drop) = (call.cmd.n_release, call.cmd.n_drop);
    let slices: Several<u64> = user::read_several(call.cmd.release, n_release as usize)?;
    let handles: Several<u64> = user::read_several(call.cmd.drop, n_drop as usize)?;
    call.write_given(0, 0)?;
    Moving::start(peer, handles.len(), handles.iter().copied())
        .and_then(Moving::releasing)
        .and_then(|releasing| {
            if !slices.is_empty() {
                peer.release_slices(&slices)?;
            }
            // Nothing fails from here on.
            releasing.finish();
            Ok(())
        })
        .inspect_err(|_| call.restore_given())?;
    Ok(GiveBack::NOTHING)
}

pub(crate) fn recv(peer: &Arc<Peer>, call: &mut Call<'_>, nonblock: bool) -> Result {
    check(call.cmd)?;
    let mut back = GiveBack::NOTHING;
    if call.cmd.n_release | call.cmd.n_drop != 0 {
        back = GiveBack::read(peer, call)?;
    }
    if call.cmd.n_msgs == 0 {
        return Ok(());
    }
    loop {
        if call.cmd.n_msgs == 1 && !call.has(abi::BUS1_RECV_DROP | abi::BUS1_RECV_PEEK) {
            if take_one(peer, call, back)? {
                return Ok(());
            }
        } else if take_many(peer, call, back)? {
            return Ok(());
        }
        if nonblock || call.has(abi::BUS1_RECV_NONBLOCK | abi::BUS1_RECV_PEEK) {
            return Err(EAGAIN);
        }
        back = GiveBack::NOTHING;
        let this = Arc::as_ptr(peer).cast_mut().cast();
        // SAFETY: The peer is open, and its wait queue is initialised.
        let r = unsafe { abi::bus1_wait(peer.wait.raw(), this, call.cmd.deadline) };
        kernel::error::to_result(r)?;
    }
}

/// Receives one item, the common case. False if there is none.
#[inline]
fn take_one(peer: &Arc<Peer>, call: &mut Call<'_>, back: GiveBack) -> Result<bool> {
    let mut garbage = List::new();
    let mut needed = 0;
    let mut inner = peer.inner.lock();
    let mut retired = None;
    if let Err(e) = back.apply(peer, &mut inner, &mut retired) {
        drop(inner);
        call.restore_given();
        return Err(e);
    }
    if !inner.writable.is_empty() {
        if let Some(handle) = pop_writable(&mut inner) {
            peer.unlock_room(inner);
            drop(retired);
            return take_writable(peer, call, handle);
        }
    }
    let entry = inner.queue.next(&mut garbage, |item| {
        needed = fit(call, item.kind(), 0);
        needed == 0
    });
    let entry = entry.map(downcast_entry);
    if let Some(Ok(message)) = &entry {
        message.take(&mut inner);
    }
    peer.unlock_room(inner);
    drop(retired);
    if !garbage.is_empty() {
        peer.drop_items(garbage, abi::BUS1_WHY_DEAD);
    }
    let mut at = Cursor { n: 0, used: 0 };
    match entry {
        Some(Ok(message)) => {
            let written = describe(call, Kind::Message(&message), &mut at, false)
                .and_then(|()| call.write_taken(1, at.used as u32));
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
        Some(Err(notice)) => {
            let written =
                describe(call, notice.kind(), &mut at, false).and_then(|()| call.write_taken(1, 0));
            if let Err(e) = written {
                put_back_one(peer, notice);
                return Err(e);
            }
            trace::received(&notice);
            finish_notice(peer, notice);
            Ok(true)
        }
        None if needed == 0 => Ok(false),
        None => Err(too_small(peer, call, needed)),
    }
}

#[cold]
fn put_back_one(peer: &Arc<Peer>, entry: Entry) {
    let mut hand = List::new();
    hand.push_back(entry);
    put_back(peer, hand, false);
}

#[cold]
fn too_small(peer: &Arc<Peer>, call: &Call<'_>, needed: usize) -> Error {
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

/// Receives what is there, drops it, or shows it. False if there is nothing.
fn take_many(peer: &Arc<Peer>, call: &mut Call<'_>, back: GiveBack) -> Result<bool> {
    let mut inner = peer.inner.lock();
    let mut retired = None;
    if let Err(e) = back.apply(peer, &mut inner, &mut retired) {
        drop(inner);
        call.restore_given();
        return Err(e);
    }
    let peeks = call.has(abi::BUS1_RECV_PEEK);
    let writable = if peeks {
        None
    } else {
        pop_writable(&mut inner)
    };
    peer.unlock_room(inner);
    drop(retired);
    if peeks {
        return peek(peer, call);
    }
    if let Some(handle) = writable {
        return take_writable(peer, call, handle);
    }
    let drops = call.has(abi::BUS1_RECV_DROP);
    let mut hand = List::new();
    let mut garbage = List::new();
    let mut at = Cursor { n: 0, used: 0 };
    let mut needed = 0;

    while at.n < call.cmd.n_msgs {
        let mut inner = peer.inner.lock();
        let entry = inner.queue.next(&mut garbage, |item| {
            needed = fit(call, item.kind(), at.used);
            needed == 0
        });
        let kind = entry.as_ref().map(|entry| entry.kind());
        if let (Some(Kind::Message(m)), false) = (kind, drops) {
            m.take(&mut inner);
        }
        peer.unlock_room(inner);
        if !garbage.is_empty() {
            peer.drop_items(
                core::mem::replace(&mut garbage, List::new()),
                abi::BUS1_WHY_DEAD,
            );
        }
        let Some(kind) = kind else { break };
        let written = describe(call, kind, &mut at, drops);
        if let Some(entry) = entry {
            hand.push_back(entry);
        }
        if let Err(e) = written {
            put_back(peer, hand, drops);
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
    if let Err(e) = call.write_taken(at.n, at.used as u32) {
        put_back(peer, hand, drops);
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
            Err(notice) => finish_notice(peer, notice),
        }
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
fn take_writable(peer: &Arc<Peer>, call: &mut Call<'_>, handle: Writable) -> Result<bool> {
    let id = handle.id.load(Relaxed);
    let written = describe_writable(call, id).and_then(|()| call.write_taken(1, 0));
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
fn peek(peer: &Arc<Peer>, call: &mut Call<'_>) -> Result<bool> {
    let item: Arc<DynItem> = {
        let mut inner = peer.inner.lock();
        match inner.queue.nth(call.cmd.index as usize) {
            Some(item) => item.into(),
            None => return Ok(false),
        }
    };
    let mut at = Cursor { n: 0, used: 0 };
    let needed = size_in_buf(call, item.kind());
    if needed > call.cmd.buf_size as usize {
        return Err(too_small(peer, call, needed));
    }
    describe(call, item.kind(), &mut at, false)?;
    call.write_taken(1, at.used as u32)?;
    Ok(true)
}

/// A message was received, or dropped if the caller wants that. Returns where its part of buf[] ends,
/// if another follows.
#[inline(always)]
fn finish_message(
    peer: &Arc<Peer>,
    call: &Call<'_>,
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

/// A notice was received.
fn finish_notice(peer: &Arc<Peer>, entry: Entry) {
    match entry.kind() {
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

/// Puts what was not received back to the front of the queue, in order, but for notices that have
/// become void meanwhile.
#[cold]
fn put_back(peer: &Arc<Peer>, mut hand: Items, drops: bool) {
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
            #[cfg(CONFIG_KUNIT = "y")]
            Kind::Test(_) => (false, None),
        };
        if !void {
            inner.queue.push_front(entry);
            continue;
        }
        drop(inner);
        trace::dropped(&entry, why);
        drop(entry);
        if let Some(id) = unused {
            retell(peer, id);
        }
    }
    peer.wake();
}
