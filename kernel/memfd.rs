// SPDX-License-Identifier: GPL-2.0-only

//! Sealed memfds, and the nodes that stand for their memory: see `memfd.c` for the seals.

use crate::abi;
use crate::baggage::FileRef;
use crate::limits::{Limit, UserRef};
use crate::peer::Inner;
use core::cell::UnsafeCell;
use kernel::prelude::*;

/// Bytes that are sealed.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) size: u64,
    /// Who could write before it was sealed still can.
    pub(crate) is_shared: bool,
}

impl Memory {
    /// What is in a file; only with `shared` may it be that. EBADF, EMEDIUMTYPE, ETXTBSY.
    pub(crate) fn of(file: &FileRef, shared: bool) -> Result<Self> {
        let mut size = 0;
        // SAFETY: We have a reference; `size` is to be written.
        let r = unsafe { abi::bus1_memfd_check(file.as_ptr(), shared, &mut size) };
        kernel::error::to_result(r)?;
        Ok(Self {
            size,
            is_shared: r != 0,
        })
    }
}

/// A file that a user's buffer keeps, though no descriptor may: it is charged as those in messages.
struct Kept {
    file: FileRef,
    user: UserRef,
}

impl Kept {
    /// EDQUOT.
    fn new(file: FileRef, user: UserRef) -> Result<Self> {
        user.charge(Limit::Files, 1)?;
        Ok(Self { file, user })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.user.discharge(Limit::Files, 1);
    }
}

/// What makes a node a buffer.
pub(crate) struct Buffer {
    /// Until the node is dead. Under the owner's lock.
    kept: UnsafeCell<Option<Kept>>,
    pub(crate) memory: Memory,
}

// SAFETY: The cell is touched only with the owner's lock held.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// For a node of the user's. EBADF, EMEDIUMTYPE, ETXTBSY, EDQUOT.
    pub(crate) fn new(file: FileRef, shared: bool, user: UserRef) -> Result<KBox<Self>> {
        let memory = Memory::of(&file, shared)?;
        let kept = UnsafeCell::new(Some(Kept::new(file, user)?));
        Ok(KBox::new(Self { kept, memory }, GFP_KERNEL_ACCOUNT)?)
    }

    /// The node is dead, and the memory gone but for those who have opened it.
    pub(crate) fn end(&self, _owner: &mut Inner) {
        // SAFETY: The owner's lock is held. To give up a file is allowed under it: that closes it
        // later, if it is the last reference.
        drop(unsafe { (*self.kept.get()).take() });
    }

    pub(crate) fn file(&self, _owner: &mut Inner) -> Option<FileRef> {
        // SAFETY: The owner's lock is held.
        let kept = unsafe { &*self.kept.get() };
        kept.as_ref().map(|kept| kept.file.clone())
    }
}
