// SPDX-License-Identifier: GPL-2.0-only

//! How what is received is written to the caller's memory.

use crate::abi::{self, bus1_cmd_recv, bus1_handle, bus1_msg};
use crate::call::{Call, Peeked, QUEUED, REPLY, SERVED};
use crate::message::{Kind, Message};
use crate::user::{self, copy_out, write_entry, write_handle, write_pair};
use core::mem::{offset_of, size_of};
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::uaccess::UserPtr;

/// The caller's command, and where it is.
pub(crate) struct Receive<'a> {
    pub(crate) cmd: &'a mut bus1_cmd_recv,
    pub(crate) arg: UserPtr,
}

impl Receive<'_> {
    #[inline]
    pub(crate) fn has(&self, flag: u32) -> bool {
        self.cmd.flags & u64::from(flag) != 0
    }

    /// Tells how many ids there still are to give back.
    #[inline]
    pub(crate) fn write_given(&self, n_release: u32, n_drop: u32) -> Result {
        let place = offset_of!(bus1_cmd_recv, n_release);
        write_pair(self.arg.wrapping_byte_add(place), n_release, n_drop)
    }

    /// After an error: nothing was given back.
    #[cold]
    pub(crate) fn restore_given(&self) {
        // It could be written a moment ago.
        let _ = self.write_given(self.cmd.n_release, self.cmd.n_drop);
    }

    /// Tells that one thing was received; nothing, if that is what was asked for.
    #[inline(always)]
    pub(crate) fn write_one(&self, buf_used: usize) -> Result {
        if self.cmd.n_msgs == 1 {
            return Ok(());
        }
        self.write_taken(1, buf_used as u32)
    }

    /// Tells what was received.
    #[inline]
    pub(crate) fn write_taken(&self, n_msgs: u32, buf_used: u32) -> Result {
        let place = offset_of!(bus1_cmd_recv, n_msgs);
        write_pair(self.arg.wrapping_byte_add(place), n_msgs, buf_used)
    }
}

/// Where the next message goes.
pub(crate) struct Cursor {
    pub(crate) n: u32,
    pub(crate) used: usize,
}

/// A receiver takes an item into its hand, or is done with it. With the peer's lock held.
#[inline(always)]
pub(crate) fn add_in_hand(kind: Kind<'_>, n: i64) {
    match kind {
        Kind::Message(m) if m.is_plain() => (),
        Kind::Message(m) => m.passed().add_in_hand(n),
        _ => add_more_in_hand(kind, n),
    }
}

#[inline(never)]
fn add_more_in_hand(kind: Kind<'_>, n: i64) {
    match kind {
        Kind::Message(m) => m.passed().add_in_hand(n),
        Kind::Dead(h) => h.add_in_hand(n),
        Kind::Call(c) => {
            if let Some(m) = c.message() {
                m.passed().add_in_hand(n);
            }
        }
        _ => (),
    }
}

/// Where the parts of a message go in buf[].
pub(crate) struct Layout {
    handles: usize,
    pub(crate) fds: usize,
    pub(crate) creds: usize,
    pub(crate) end: usize,
}

impl Layout {
    /// From `at` on. A peek shows neither handles nor file descriptors.
    #[inline(always)]
    pub(crate) fn new(call: &Receive<'_>, m: &Message, at: usize) -> Self {
        let peeks = call.has(abi::BUS1_RECV_PEEK);
        let handles = at + m.inline().len().next_multiple_of(8);
        let n_handles = if peeks { 0 } else { m.passed().len() };
        let fds = handles + n_handles * size_of::<bus1_handle>();
        let mut layout = Self {
            handles,
            fds,
            creds: fds,
            end: fds,
        };
        if let Some(baggage) = m.baggage() {
            let wants_fds = call.has(abi::BUS1_RECV_FDS)
                || (call.has(abi::BUS1_RECV_MEMFD) && baggage.is_memfd());
            if wants_fds && !peeks {
                layout.creds += baggage.size_of_fds();
            }
            layout.end = layout.creds + baggage.size_of_creds();
        }
        layout
    }
}

/// Bytes of buf[] that a message needs at most, whatever is asked for.
pub(crate) fn most_in_buf(m: &Message) -> usize {
    let handles = m.passed().len() * size_of::<bus1_handle>();
    let more = m
        .baggage()
        .map_or(0, |b| b.size_of_fds() + b.size_of_creds());
    m.inline().len().next_multiple_of(8) + handles + more
}

/// Bytes of buf[] that an item needs.
#[inline(always)]
pub(crate) fn size_in_buf(call: &Receive<'_>, kind: Kind<'_>) -> usize {
    match kind {
        Kind::Message(m) if m.is_plain() => m.inline().len().next_multiple_of(8),
        Kind::Message(m) => Layout::new(call, m, 0).end,
        Kind::Call(c) => size_of_call(call, c),
        _ => 0,
    }
}

/// Bytes that the caller's buf[] lacks for an item, or 0; if there is room the item is in hand.
#[inline(always)]
pub(crate) fn fit(call: &Receive<'_>, kind: Kind<'_>, used: usize) -> usize {
    let size = used + size_in_buf(call, kind);
    if size <= call.cmd.buf_size as usize || call.has(abi::BUS1_RECV_DROP) {
        add_in_hand(kind, 1);
        return 0;
    }
    size
}

/// Writes one item to the caller's memory, and moves the cursor on.
#[inline]
pub(crate) fn describe(call: &Receive<'_>, kind: Kind<'_>, at: &mut Cursor, drops: bool) -> Result {
    let mut msg = bus1_msg::default();
    let mut used = at.used;
    match kind {
        Kind::Message(m) => {
            let node = m.node.root();
            msg.type_ = abi::BUS1_MSG_DATA;
            msg.id = node.id.load(Relaxed);
            msg.cookie = node.cookie;
            msg.badge = m.node.badge;
            msg.len = m.len() as u64;
            msg.priority = u32::from(m.priority);
            if !drops {
                used = describe_content(call, m, &mut msg, used)?;
            }
        }
        Kind::Dead(h) => {
            msg.type_ = abi::BUS1_MSG_NODE_DEAD;
            msg.id = h.id.load(Relaxed);
        }
        Kind::Unused(n) => {
            msg.type_ = if n.is_once {
                abi::BUS1_MSG_ONCE_DROPPED
            } else {
                abi::BUS1_MSG_NODE_UNUSED
            };
            msg.id = n.id.load(Relaxed);
            msg.cookie = n.cookie;
            msg.badge = n.badge;
            msg.seq = n.seq();
        }
        Kind::Call(c) => return describe_call(call, c, at, drops),
        #[cfg(CONFIG_KUNIT = "y")]
        Kind::Test(_) => return Err(EINVAL),
    }
    write_msg(call, &mut msg, at.n)?;
    at.used = used;
    at.n += 1;
    Ok(())
}

/// Of buf[].
#[inline(never)]
fn size_of_call(call: &Receive<'_>, c: &Call) -> usize {
    match c.message() {
        Some(m) => Layout::new(call, m, 0).end,
        None if c.place.load(Relaxed) == QUEUED => c.inline().len().next_multiple_of(8),
        None if c.place.load(Relaxed) == REPLY => c.inline_reply().len().next_multiple_of(8),
        None => 0,
    }
}

/// What of a call was taken off a queue.
#[inline(never)]
fn describe_call(call: &Receive<'_>, c: &Call, at: &mut Cursor, drops: bool) -> Result {
    match c.place.load(Relaxed) {
        QUEUED if drops => describe_request_as(call, c, None, at, true),
        QUEUED | SERVED => describe_request(call, c, at),
        REPLY => describe_reply_as(call, c, c.message(), at, drops),
        _ => describe_cancelled(call, c, at),
    }
}

/// What of a call stood in a queue when it was peeked at.
pub(crate) fn describe_peeked(
    call: &Receive<'_>,
    c: &Call,
    peeked: &Peeked,
    at: &mut Cursor,
) -> Result {
    let more = peeked.more.as_ref().map(|m| &m.body);
    match peeked.place {
        REPLY => describe_reply_as(call, c, more, at, false),
        QUEUED => describe_request_as(call, c, more, at, false),
        _ => describe_cancelled(call, c, at),
    }
}

/// Of buf[].
pub(crate) fn size_of_peeked(call: &Receive<'_>, c: &Call, peeked: &Peeked) -> usize {
    match (&peeked.more, peeked.place) {
        (Some(m), _) => Layout::new(call, &m.body, 0).end,
        (None, QUEUED) => c.inline().len().next_multiple_of(8),
        (None, REPLY) => c.inline_reply().len().next_multiple_of(8),
        _ => 0,
    }
}

fn describe_cancelled(call: &Receive<'_>, c: &Call, at: &mut Cursor) -> Result {
    let mut msg = bus1_msg {
        type_: abi::BUS1_MSG_CANCELLED,
        id: c.token.load(Relaxed),
        chain: c.chain,
        ..Default::default()
    };
    write_msg(call, &mut msg, at.n)?;
    at.n += 1;
    Ok(())
}

/// Writes a request, and moves the cursor on.
#[inline(always)]
pub(crate) fn describe_request(call: &Receive<'_>, c: &Call, at: &mut Cursor) -> Result {
    describe_request_as(call, c, c.request().map(|draft| draft.get()), at, false)
}

#[inline(always)]
fn describe_request_as(
    call: &Receive<'_>,
    c: &Call,
    more: Option<&Message>,
    at: &mut Cursor,
    drops: bool,
) -> Result {
    let node = c.node.root();
    let mut msg = bus1_msg {
        type_: abi::BUS1_MSG_CALL,
        id: node.id.load(Relaxed),
        cookie: node.cookie,
        badge: c.node.badge,
        len: u64::from(c.len),
        priority: u32::from(c.terms.priority),
        chain: c.chain,
        n_leases: c.leases.as_ref().map_or(0, |leases| leases.len()),
        ..Default::default()
    };
    if !drops {
        if !call.has(abi::BUS1_RECV_PEEK) {
            msg.token = c.token.load(Relaxed);
        }
        at.used = match more {
            Some(message) => describe_more(call, message, &mut msg, at.used)?,
            None => describe_inline(call, c.inline(), &mut msg, at.used)?,
        };
    }
    write_msg(call, &mut msg, at.n)?;
    at.n += 1;
    Ok(())
}

/// Writes the result of a call, and moves the cursor on.
#[inline(always)]
pub(crate) fn describe_reply(call: &Receive<'_>, c: &Call, at: &mut Cursor) -> Result {
    let draft = c.reply().draft.as_ref().filter(|_| c.reply().has_draft);
    describe_reply_as(call, c, draft.map(|draft| draft.get()), at, false)
}

#[inline(always)]
fn describe_reply_as(
    call: &Receive<'_>,
    c: &Call,
    more: Option<&Message>,
    at: &mut Cursor,
    drops: bool,
) -> Result {
    let reply = c.reply();
    let mut msg = bus1_msg {
        type_: abi::BUS1_MSG_REPLY,
        flags: reply.flags,
        id: c.id.load(Relaxed),
        cookie: c.terms.cookie,
        len: u64::from(reply.len),
        chain: c.chain,
        ..Default::default()
    };
    if let Some(e) = reply.error {
        msg.error = -e.to_errno();
    } else if !drops {
        at.used = match more {
            Some(message) => describe_more(call, message, &mut msg, at.used)?,
            None => describe_inline(call, c.inline_reply(), &mut msg, at.used)?,
        };
    }
    write_msg(call, &mut msg, at.n)?;
    at.n += 1;
    Ok(())
}

/// Writes a payload that is in a call, and returns where it ends in buf[].
#[inline(always)]
fn describe_inline(
    call: &Receive<'_>,
    data: &[u8],
    msg: &mut bus1_msg,
    used: usize,
) -> Result<usize> {
    msg.offset = used as u64;
    if !data.is_empty() {
        copy_out(call.cmd.buf.wrapping_add(used as u64), data)?;
    }
    Ok(used + data.len().next_multiple_of(8))
}

/// Writes the notice that a handle can be sent through again.
pub(crate) fn describe_writable(call: &Receive<'_>, handle: u64) -> Result {
    let mut msg = bus1_msg {
        type_: abi::BUS1_MSG_WRITABLE,
        id: handle,
        ..Default::default()
    };
    write_msg(call, &mut msg, 0)
}

#[inline]
fn write_msg(call: &Receive<'_>, msg: &mut bus1_msg, n: u32) -> Result {
    if call.has(abi::BUS1_RECV_DROP) {
        msg.flags |= abi::BUS1_MSG_F_DROPPED;
    }
    if call.has(abi::BUS1_RECV_PEEK) {
        msg.flags |= abi::BUS1_MSG_F_PEEKED;
    }
    let stride = call.cmd.msg_size as usize;
    let place = call.cmd.msgs.wrapping_add(u64::from(n) * stride as u64);
    write_entry(place, stride, msg)
}

/// Writes what a message brings, and returns where that ends in buf[].
#[inline(always)]
fn describe_content(
    call: &Receive<'_>,
    m: &Message,
    msg: &mut bus1_msg,
    used: usize,
) -> Result<usize> {
    let place = |at: usize| call.cmd.buf.wrapping_add(at as u64);
    let mut end = used;
    if let Some(slice) = m.slice() {
        msg.slice = slice.id;
        msg.offset = slice.offset as u64;
    } else {
        let data = m.inline();
        msg.offset = used as u64;
        if !data.is_empty() {
            copy_out(place(used), data)?;
            end += data.len().next_multiple_of(8);
        }
    }
    if m.is_plain() {
        return Ok(end);
    }
    if m.baggage().is_none() && !call.has(abi::BUS1_RECV_PEEK) {
        // Handles alone, the common case.
        msg.n_handles = m.passed().len() as u32;
        msg.handles = end as u32;
        for passed in m.passed().iter() {
            write_handle(place(end), &passed.describe())?;
            end += size_of::<bus1_handle>();
        }
        return Ok(end);
    }
    describe_extras(call, m, msg, used)
}

/// The same for calls.
#[inline(never)]
fn describe_more(
    call: &Receive<'_>,
    m: &Message,
    msg: &mut bus1_msg,
    used: usize,
) -> Result<usize> {
    describe_content(call, m, msg, used)
}

/// Writes the handles, files and the stamp of a message.
#[inline(never)]
fn describe_extras(
    call: &Receive<'_>,
    m: &Message,
    msg: &mut bus1_msg,
    used: usize,
) -> Result<usize> {
    let place = |at: usize| call.cmd.buf.wrapping_add(at as u64);
    let layout = Layout::new(call, m, used);
    if !m.passed().is_empty() {
        msg.n_handles = m.passed().len() as u32;
        if layout.fds != layout.handles {
            msg.handles = layout.handles as u32;
            for (i, passed) in m.passed().iter().enumerate() {
                let at = layout.handles + i * size_of::<bus1_handle>();
                write_handle(place(at), &passed.describe())?;
            }
        }
    }
    if let Some(baggage) = m.baggage() {
        msg.n_fds = baggage.n_files() as u32;
        if layout.creds != layout.fds {
            msg.fds = layout.fds as u32;
            // They are installed at the very end, when nothing else can fail.
            user::clear(place(layout.fds), layout.creds - layout.fds)?;
        } else if msg.n_fds > 0 && !call.has(abi::BUS1_RECV_PEEK) {
            msg.flags |= abi::BUS1_MSG_F_FDS_CLOSED;
        }
        if let Some(body) = baggage.body() {
            msg.flags |= body.flags;
            msg.body_offset = body.offset;
            msg.body_len = body.len;
        }
        if baggage.is_stamped() {
            msg.flags |= abi::BUS1_MSG_F_CREDS;
            msg.creds = layout.creds as u32;
            baggage.write_creds(place(layout.creds))?;
        }
    }
    Ok(layout.end)
}
