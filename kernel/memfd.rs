// SPDX-License-Identifier: GPL-2.0-only

//! Sealed memfds, and the nodes that stand for their memory: see `memfd.c` for the seals.

use crate::abi;
use crate::baggage::FileRef;
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

/// What makes a node a buffer.
pub(crate) struct Buffer {
    /// Until the node is dead. Under the owner's lock.
    file: UnsafeCell<Option<FileRef>>,
    pub(crate) memory: Memory,
}

// SAFETY: The cell is touched only with the owner's lock held.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(crate) fn new(file: FileRef, shared: bool) -> Result<KBox<Self>> {
        let memory = Memory::of(&file, shared)?;
        let file = UnsafeCell::new(Some(file));
        Ok(KBox::new(Self { file, memory }, GFP_KERNEL_ACCOUNT)?)
    }

    /// The node is dead, and the memory gone but for those who have opened it.
    pub(crate) fn end(&self, _owner: &mut Inner) {
        // SAFETY: The owner's lock is held. To give up a file is allowed under it: that closes it
        // later, if it is the last reference.
        drop(unsafe { (*self.file.get()).take() });
    }

    pub(crate) fn file(&self, _owner: &mut Inner) -> Option<FileRef> {
        // SAFETY: The owner's lock is held.
        unsafe { (*self.file.get()).clone() }
    }
}
