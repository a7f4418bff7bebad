// SPDX-License-Identifier: GPL-2.0-only

//! BUS1_CMD_RECV.
//!
//! What is received is taken off the queue into the receiver's *hand*; written to its memory, without
//! a lock; and only when all of that went well do the handles become user space's. If it did not, the
//! hand goes back to the front of the queue, and nothing was lost.
//!
//! A slice is user space's as soon as it is in the hand, to spare a second section under the lock. A
//! program that gives back a slice that it has not been told of loses the message.

use crate::abi::{self, bus1_cmd_recv, bus1_handle, bus1_msg};
use crate::message::{Kind, Message};
use crate::node::{is_overtaken, tell_unused};
use crate::peer::{Object, Peer};
use crate::queue::{Entry, Items};
use crate::user::{self, read_several, write, write_command, write_entry};
use core::mem::{offset_of, size_of};
use kernel::list::List;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;
use kernel::uaccess::{UserPtr, UserSlice};

const MAX_ENTRY: u32 = 256;

/// The caller's command, where it is, and how many bytes of it.
pub(crate) struct Call<'a> {
    pub(crate) cmd: &'a mut bus1_cmd_recv,
    pub(crate) arg: UserPtr,
    pub(crate) size: usize,
}

fn check(cmd: &bus1_cmd_recv) -> Result {
    let flags = u64::from(abi::BUS1_RECV_NONBLOCK | abi::BUS1_RECV_DROP);
    if cmd.flags & !flags != 0 || cmd.reserved != 0 || cmd.buf_used != 0 {
        return Err(EINVAL);
    }
    if cmd.n_release > abi::BUS1_MAX_IDS || cmd.n_msgs > abi::BUS1_MAX_MSGS {
        return Err(EMSGSIZE);
    }
    // A release[] without a count is left from the call before: see give_back().
    if cmd.n_release == 0 && cmd.n_msgs == 0 {
        return Err(EINVAL);
    }
    if cmd.flags & u64::from(abi::BUS1_RECV_DROP) != 0 && cmd.n_msgs != 1 {
        return Err(EINVAL);
    }
    if cmd.n_msgs == 0 {
        // Only gives back.
        let unused = cmd.msgs | cmd.buf | u64::from(cmd.msg_size) | u64::from(cmd.buf_size);
        return if unused == 0 { Ok(()) } else { Err(EINVAL) };
    }
    if (cmd.msg_size as usize) < size_of::<bus1_msg>()
        || cmd.msg_size > MAX_ENTRY
        || cmd.msg_size % 8 != 0
        || cmd.buf % 8 != 0
    {
        return Err(EINVAL);
    }
    Ok(())
}

pub(crate) fn recv(peer: &Arc<Peer>, call: &mut Call<'_>, nonblock: bool) -> Result {
    check(call.cmd)?;
    if call.cmd.n_release > 0 {
        give_back(peer, call)?;
    }
    let wanted = call.cmd.n_msgs;
    if wanted == 0 {
        return Ok(());
    }
    let nonblock = nonblock || call.cmd.flags & u64::from(abi::BUS1_RECV_NONBLOCK) != 0;
    loop {
        match take(peer, call, wanted) {
            Ok(0) => (),
            r => return r.map(|_| ()),
        }
        if nonblock {
            return Err(EAGAIN);
        }
        let this = Arc::as_ptr(peer).cast_mut().cast();
        // SAFETY: The peer is open, and its wait queue is initialised.
        let r = unsafe { abi::bus1_wait(peer.wait.raw(), this, call.cmd.deadline) };
        kernel::error::to_result(r)?;
    }
}

/// Gives slices back, once: the caller's count of them becomes 0.
fn give_back(peer: &Arc<Peer>, call: &mut Call<'_>) -> Result {
    let n = call.cmd.n_release;
    let ids = read_several::<u64>(call.cmd.release, n as usize)?;
    let place = call
        .arg
        .wrapping_byte_add(offset_of!(bus1_cmd_recv, n_release));
    // First, to be told before anything is done if it can not be written.
    user::write_u32(place, 0)?;
    if let Err(e) = peer.release_slices(&ids) {
        let _ = user::write_u32(place, n);
        return Err(e);
    }
    call.cmd.n_release = 0;
    Ok(())
}

/// Where the next message goes.
struct Cursor {
    n: u32,
    used: usize,
}

/// A receiver takes an item into its hand, or is done with it. With the peer's lock held.
#[inline]
fn add_in_hand(kind: Kind<'_>, n: i64) {
    match kind {
        Kind::Message(m) => m.passed().add_in_hand(n),
        Kind::Dead(h) => h.add_in_hand(n),
        _ => (),
    }
}

/// Bytes of buf[] that an item needs.
#[inline]
fn size_in_buf(kind: Kind<'_>) -> usize {
    match kind {
        Kind::Message(m) => {
            m.inline().len().next_multiple_of(8) + m.passed().len() * size_of::<bus1_handle>()
        }
        _ => 0,
    }
}

/// Receives what is there; returns how many.
fn take(peer: &Arc<Peer>, call: &mut Call<'_>, wanted: u32) -> Result<u32> {
    let drops = call.cmd.flags & u64::from(abi::BUS1_RECV_DROP) != 0;
    let room = call.cmd.buf_size as usize;
    let mut hand = List::new();
    let mut garbage = List::new();
    let mut at = Cursor { n: 0, used: 0 };
    let mut needed = 0;

    while at.n < wanted {
        let mut inner = peer.inner.lock();
        let entry = inner.queue.next(&mut garbage, |item| {
            let kind = item.kind();
            let size = at.used + size_in_buf(kind);
            if size > room && !drops {
                needed = size;
            }
            if needed == 0 {
                add_in_hand(kind, 1);
            }
            needed == 0
        });
        let kind = entry.as_ref().map(|entry| entry.kind());
        if let (Some(Kind::Message(m)), false) = (kind, drops) {
            m.take_slice(&mut inner);
        }
        drop(inner);
        if !garbage.is_empty() {
            peer.drop_items(core::mem::replace(&mut garbage, List::new()));
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
        if needed == 0 {
            return Ok(0);
        }
        call.cmd.buf_used = needed.min(u32::MAX as usize) as u32;
        write_command(call.arg, call.size, call.cmd)?;
        // Another receiver may have more room.
        peer.wake();
        return Err(EMSGSIZE);
    }
    call.cmd.n_msgs = at.n;
    call.cmd.buf_used = at.used as u32;
    if let Err(e) = write_command(call.arg, call.size, call.cmd) {
        put_back(peer, hand, drops);
        return Err(e);
    }
    while let Some(entry) = hand.pop_front() {
        finish(peer, entry, drops);
    }
    Ok(at.n)
}

/// Writes one item to the caller's memory, and moves the cursor on.
#[inline]
fn describe(call: &Call<'_>, kind: Kind<'_>, at: &mut Cursor, drops: bool) -> Result {
    let mut msg = bus1_msg::default();
    let mut used = at.used;
    match kind {
        Kind::Message(m) => {
            msg.type_ = abi::BUS1_MSG_DATA;
            msg.id = m.node.id.load(Relaxed);
            msg.cookie = m.node.cookie;
            msg.len = m.len() as u64;
            if !drops {
                used = describe_content(call, m, &mut msg, used)?;
            }
        }
        Kind::Dead(h) => {
            msg.type_ = abi::BUS1_MSG_NODE_DEAD;
            msg.id = h.id.load(Relaxed);
        }
        Kind::Unused(n) => {
            msg.type_ = abi::BUS1_MSG_NODE_UNUSED;
            msg.id = n.id.load(Relaxed);
            msg.cookie = n.cookie;
            msg.seq = n.seq();
        }
        #[cfg(CONFIG_KUNIT = "y")]
        Kind::Test(_) => return Err(EINVAL),
    }
    if drops {
        msg.flags |= abi::BUS1_MSG_F_DROPPED;
    }
    let stride = call.cmd.msg_size as usize;
    write_entry(
        call.cmd.msgs.wrapping_add(u64::from(at.n) * stride as u64),
        stride,
        &msg,
    )?;
    at.used = used;
    at.n += 1;
    Ok(())
}

#[inline]
fn describe_content(
    call: &Call<'_>,
    m: &Message,
    msg: &mut bus1_msg,
    mut used: usize,
) -> Result<usize> {
    let buf = call.cmd.buf;
    if let Some(slice) = m.slice() {
        msg.slice = slice.id;
        msg.offset = slice.offset as u64;
    } else {
        let data = m.inline();
        msg.offset = used as u64;
        if !data.is_empty() {
            UserSlice::new(user::ptr(buf.wrapping_add(used as u64)), data.len())
                .writer()
                .write_slice(data)?;
            used += data.len().next_multiple_of(8);
        }
    }
    if !m.passed().is_empty() {
        msg.handles = used as u32;
        msg.n_handles = m.passed().len() as u32;
        for passed in m.passed().iter() {
            write(buf.wrapping_add(used as u64), &passed.describe())?;
            used += size_of::<bus1_handle>();
        }
    }
    Ok(used)
}

/// An item was received, or dropped if the caller wants that.
#[inline]
fn finish(peer: &Arc<Peer>, entry: Entry, drops: bool) {
    let mut unused = None;
    match entry.kind() {
        Kind::Message(m) => {
            if !m.passed().is_empty() {
                let mut inner = peer.inner.lock();
                m.passed().add_in_hand(-1);
                if drops {
                    drop(inner);
                    drop(entry);
                    return;
                }
                let dead = m.passed().take(&mut inner);
                drop(inner);
                if dead {
                    // Notices that waited for these handles may be received now.
                    peer.wake();
                }
            }
        }
        Kind::Unused(n) => unused = Some(n.id.load(Relaxed)),
        Kind::Dead(h) => return finish_dead(peer, h.id.load(Relaxed), entry),
        #[cfg(CONFIG_KUNIT = "y")]
        Kind::Test(_) => (),
    }
    drop(entry);
    if let Some(id) = unused {
        retell(peer, id);
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
        let (void, unused) = match entry.kind() {
            Kind::Dead(h) => (h.is_idle(), None),
            Kind::Unused(n) => (is_overtaken(n, &mut inner), Some(n.id.load(Relaxed))),
            Kind::Message(m) => (!drops && !m.untake_slice(&mut inner), None),
            #[cfg(CONFIG_KUNIT = "y")]
            Kind::Test(_) => (false, None),
        };
        if !void {
            inner.queue.push_front(entry);
            continue;
        }
        drop(inner);
        drop(entry);
        if let Some(id) = unused {
            retell(peer, id);
        }
    }
    peer.wake();
}
