// SPDX-License-Identifier: GPL-2.0-only

//! Buffers, and the bodies of messages (MSG-5).
//!
//! A buffer is a node with the file of a sealed memfd. Who holds it, and for how long, is what it is
//! for all nodes. Its size and what may become of its bytes are fixed when it is made, since seals are
//! never taken away.

use crate::abi::{self, bus1_cmd_buffer, bus1_cmd_open, bus1_cmd_send};
use crate::baggage::{Body, FileRef};
use crate::errno::{ehostunreach, emediumtype};
use crate::memfd::{Buffer, Memory};
use crate::node::{Grant, Node};
use crate::peer::Peer;
use crate::user;
use core::mem::offset_of;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::uaccess::UserPtr;

pub(crate) fn create(peer: &Arc<Peer>, cmd: &mut bus1_cmd_buffer) -> Result {
    let shared = u64::from(abi::BUS1_BUFFER_SHARED);
    if cmd.flags & !shared != 0 || cmd.id != 0 || cmd.size != 0 || cmd.reserved != 0 {
        return Err(EINVAL);
    }
    let file = FileRef::get(cmd.fd, false)?;
    let buffer = Buffer::new(file, cmd.flags & shared != 0, peer.user)?;
    let size = buffer.memory.size;
    let node = Node::new_buffer(peer.clone(), cmd.cookie, buffer)?;
    cmd.id = peer.insert_node(node)?;
    cmd.size = size;
    Ok(())
}

pub(crate) fn open(peer: &Arc<Peer>, cmd: &mut bus1_cmd_open, arg: UserPtr) -> Result {
    if cmd.flags != 0 || cmd.size != 0 || cmd.fd != 0 || cmd.reserved != 0 {
        return Err(EINVAL);
    }
    let node = peer.inner.lock().resolve(cmd.id)?.0.clone();
    let buffer = node.root().buffer.as_ref().ok_or(emediumtype())?;
    let file = {
        let mut owner = node.owner.inner.lock();
        if owner.closed || node.is_dead() {
            return Err(ehostunreach());
        }
        buffer.file(&mut owner).ok_or(ehostunreach())?
    };
    let place = |offset| arg.wrapping_byte_add(offset);
    let tell = |flags, size| {
        let addr = |offset| place(offset).as_const_ptr().addr() as u64;
        user::write_u64(addr(offset_of!(bus1_cmd_open, flags)), flags)?;
        user::write_u64(addr(offset_of!(bus1_cmd_open, size)), size)
    };
    let flags = if buffer.memory.is_shared {
        u64::from(abi::BUS1_BUFFER_SHARED)
    } else {
        0
    };
    let fd = place(offset_of!(bus1_cmd_open, fd)).as_mut_ptr().cast();
    // The descriptor is last: it can not be taken back.
    tell(flags, buffer.memory.size)
        // SAFETY: We have a reference to the file. The address is checked by the call.
        .and_then(|()| kernel::error::to_result(unsafe { abi::bus1_memfd_open(file.as_ptr(), fd) }))
        .inspect_err(|_| {
            // As it was, if it can be written at all.
            let _ = tell(0, 0);
        })
}

const BODY: u64 = abi::BUS1_SEND_BODY as u64;
const MEMFD: u64 = abi::BUS1_SEND_MEMFD as u64;
const SHARED: u64 = abi::BUS1_SEND_SHARED as u64;

/// The flags of a send that say of its body.
pub(crate) const BODY_FLAGS: u64 = BODY | MEMFD | SHARED;

/// Whether what a send says of its body makes sense. EINVAL.
#[inline]
pub(crate) fn check_body(cmd: &bus1_cmd_send) -> Result {
    let is_right = match cmd.flags & BODY_FLAGS {
        0 => cmd.body_offset | cmd.body_len == 0,
        BODY => cmd.n_handles != 0,
        flags => flags & !SHARED == MEMFD && cmd.n_fds == 1,
    };
    if is_right {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// The body that a send has, of its handles and files. EPERM, EBADF, EMEDIUMTYPE, ETXTBSY, EHOSTUNREACH,
/// ERANGE.
pub(crate) fn find_body(
    cmd: &bus1_cmd_send,
    grants: &[Grant],
    files: &[FileRef],
) -> Result<Option<Body>> {
    let (memory, flag) = if cmd.flags & BODY != 0 {
        let grant = grants.first().ok_or(EINVAL)?;
        (buffer_of(grant)?, abi::BUS1_MSG_F_BODY)
    } else if cmd.flags & MEMFD != 0 {
        let file = files.first().ok_or(EINVAL)?;
        let memory = Memory::of(file, cmd.flags & SHARED != 0)?;
        (memory, abi::BUS1_MSG_F_MEMFD)
    } else {
        return Ok(None);
    };
    let (offset, len) = (cmd.body_offset, cmd.body_len);
    if offset > memory.size || len > memory.size - offset {
        return Err(ERANGE);
    }
    let shared = if memory.is_shared {
        abi::BUS1_MSG_F_SHARED
    } else {
        0
    };
    Ok(Some(Body {
        offset,
        len,
        flags: flag | shared,
    }))
}

/// Of a handle to a buffer, as it is to arrive: who gets it has to be able to open it. That it is
/// alive is as good as told: it may die on the way.
fn buffer_of(grant: &Grant) -> Result<Memory> {
    let node = grant.node();
    let buffer = node.root().buffer.as_ref().ok_or(emediumtype())?;
    if !grant.grade.sends() {
        return Err(EPERM);
    }
    if node.is_dead() {
        return Err(ehostunreach());
    }
    Ok(buffer.memory)
}
