// SPDX-License-Identifier: GPL-2.0-only

//! Handles as file descriptors (OBJ-12).
//!
//! An exported handle is held by a peer of its own, which has nothing else and takes no commands: its
//! file is what user space gets. So a handle that is exported is like any other: a user of its node
//! until the file is closed, told when the node dies, which is when the file is readable, and polls
//! EPOLLHUP.

use crate::abi::{self, bus1_cmd_export, bus1_cmd_import};
use crate::baggage::FileRef;
use crate::errno::emediumtype;
use crate::handle::Grade;
use crate::passed::PassedList;
use crate::node::Grant;
use crate::object::note_all_passed;
use crate::peer::Peer;
use crate::user;
use core::mem::offset_of;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use kernel::uaccess::UserPtr;

pub(crate) fn export(peer: &Arc<Peer>, cmd: &bus1_cmd_export, arg: UserPtr) -> Result {
    if cmd.flags != 0 || cmd.fd != 0 || !Grade::are_rights(cmd.drop_rights) {
        return Err(EINVAL);
    }
    let mut grant = peer.inner.lock().grant(cmd.id)?;
    if grant.grade.is_weak() || !grant.grade.may_pass() {
        return Err(EPERM);
    }
    grant.grade = grant.grade.without(cmd.drop_rights);

    let holder = Peer::open(peer.user.uid(), true)?;
    PassedList::deliver(&holder, core::slice::from_ref(&grant), |_| Ok(()))?;

    let raw = Arc::into_raw(holder);
    let place = arg.wrapping_byte_add(offset_of!(bus1_cmd_export, fd));
    // SAFETY: The reference goes to the file. The address is checked by the call.
    let r = unsafe { abi::bus1_export(raw.cast_mut().cast(), place.as_mut_ptr().cast()) };
    if r < 0 {
        // SAFETY: It was not taken over.
        unsafe { Arc::from_raw(raw) }.close();
        return Err(Error::from_errno(r));
    }
    note_all_passed(peer, core::slice::from_ref(&grant));
    Ok(())
}

/// The handle that is held by an exported one's file. `file` is any open file.
fn held(file: &FileRef) -> Result<Grant> {
    // SAFETY: We have a reference to the file.
    let Some(holder) = NonNull::new(unsafe { abi::bus1_file_export(file.as_ptr()) }) else {
        return Err(emediumtype());
    };
    // SAFETY: The file owns a reference to its peer.
    let holder = unsafe { ArcBorrow::<Peer>::from_raw(holder.as_ptr().cast()) };
    let grant = holder.inner.lock().only_grant();
    grant
}

pub(crate) fn import(peer: &Arc<Peer>, cmd: &bus1_cmd_import, arg: UserPtr) -> Result {
    let out = &cmd.handle;
    let is_clear = out.id == 0 && out.cookie == 0 && out.flags == 0 && out.rights == 0;
    if cmd.flags != 0 || cmd.reserved != 0 || !is_clear {
        return Err(EINVAL);
    }
    let file = FileRef::get(cmd.fd, false)?;
    let grant = held(&file)?;
    let place = arg.wrapping_byte_add(offset_of!(bus1_cmd_import, handle));
    PassedList::deliver(peer, core::slice::from_ref(&grant), |passed| {
        let one = passed.first().ok_or(EINVAL)?;
        user::write(place.as_const_ptr().addr() as u64, &one.describe())
    })?;
    Ok(())
}
