// SPDX-License-Identifier: GPL-2.0-only

//! What few messages carry: files, the stamp of who sent them, and where their body is.

use crate::abi::{self, bus1_creds};
use crate::errno::eloop;
use crate::user::{self, read_several, write, Several};
use core::mem::size_of;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::uaccess::UserSlice;

/// A reference to an open file.
pub(crate) struct FileRef(NonNull<abi::file>);

// SAFETY: The reference count of a file may be used from anywhere.
unsafe impl Send for FileRef {}
// SAFETY: As above.
unsafe impl Sync for FileRef {}

impl FileRef {
    /// A file that can be used, or with `path` one of O_PATH, too. EBADF.
    pub(crate) fn get(fd: i32, path: bool) -> Result<Self> {
        // SAFETY: May be called with any number.
        NonNull::new(unsafe { abi::bus1_fget(fd, path) })
            .map(Self)
            .ok_or(EBADF)
    }

    pub(crate) fn as_ptr(&self) -> *mut abi::file {
        self.0.as_ptr()
    }

    /// Whether it may be held by a message.
    fn is_refused(&self) -> bool {
        // SAFETY: We have a reference.
        unsafe { abi::bus1_file_holds_files(self.as_ptr()) }
    }
}

impl Clone for FileRef {
    fn clone(&self) -> Self {
        // SAFETY: We have a reference.
        unsafe { abi::bus1_get_file(self.as_ptr()) };
        Self(self.0)
    }
}

impl Drop for FileRef {
    fn drop(&mut self) {
        // SAFETY: We have a reference, and give it back.
        unsafe { abi::bus1_fput(self.as_ptr()) };
    }
}

/// The files that a sender names. EBADF, ELOOP; `n` was checked against its bound.
pub(crate) fn read_files(fds: u64, n: usize) -> Result<Several<FileRef>> {
    let fds: Several<i32> = read_several(fds, n)?;
    let mut files = Several::new(n)?;
    for fd in fds.iter() {
        let file = FileRef::get(*fd, true)?;
        if file.is_refused() {
            return Err(eloop());
        }
        files.push(file)?;
    }
    Ok(files)
}

/// Who sends: the current thread, for good.
pub(crate) struct Stamp(NonNull<abi::bus1_stamp>);

// SAFETY: Not changed any more, and its count of references is atomic.
unsafe impl Send for Stamp {}
// SAFETY: As above.
unsafe impl Sync for Stamp {}

impl Stamp {
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: In a system call.
        NonNull::new(unsafe { abi::bus1_stamp_new() })
            .map(Self)
            .ok_or(ENOMEM)
    }

    fn label(&self) -> &[u8] {
        let mut len = 0;
        // SAFETY: We have a reference, and the label is as long as it says.
        unsafe {
            let label = abi::bus1_stamp_label(self.0.as_ptr(), &mut len);
            core::slice::from_raw_parts(label.cast(), len as usize)
        }
    }
}

impl Clone for Stamp {
    fn clone(&self) -> Self {
        // SAFETY: We have a reference.
        unsafe { abi::bus1_stamp_get(self.0.as_ptr()) };
        Self(self.0)
    }
}

impl Drop for Stamp {
    fn drop(&mut self) {
        // SAFETY: We have a reference, and give it back.
        unsafe { abi::bus1_stamp_put(self.0.as_ptr()) };
    }
}

/// The part of a buffer, or memfd, that belongs to a message: of its first handle, or file.
#[derive(Clone, Copy)]
pub(crate) struct Body {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// `BUS1_MSG_F_*`.
    pub(crate) flags: u32,
}

pub(crate) struct Baggage {
    files: Several<FileRef>,
    stamp: Option<Stamp>,
    body: Option<Body>,
}

impl Baggage {
    pub(crate) fn new(
        files: &[FileRef],
        stamp: Option<Stamp>,
        body: Option<Body>,
    ) -> Result<KBox<Self>> {
        let mut list = Several::new(files.len())?;
        for file in files {
            list.push(file.clone())?;
        }
        let baggage = Self {
            files: list,
            stamp,
            body,
        };
        Ok(KBox::new(baggage, GFP_KERNEL_ACCOUNT)?)
    }

    pub(crate) fn n_files(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn body(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    /// Its one file is a memfd that is its body.
    pub(crate) fn is_memfd(&self) -> bool {
        self.body
            .is_some_and(|body| body.flags & abi::BUS1_MSG_F_MEMFD != 0)
    }

    /// Bytes in a receiver's buffer for its file descriptors.
    pub(crate) fn size_of_fds(&self) -> usize {
        (self.files.len() * size_of::<i32>()).next_multiple_of(8)
    }

    /// And for the stamp.
    pub(crate) fn size_of_creds(&self) -> usize {
        self.stamp.as_ref().map_or(0, |s| {
            size_of::<bus1_creds>() + s.label().len().next_multiple_of(8)
        })
    }

    pub(crate) fn is_stamped(&self) -> bool {
        self.stamp.is_some()
    }

    /// Writes the stamp as the current thread's namespaces see it.
    pub(crate) fn write_creds(&self, place: u64) -> Result {
        let Some(stamp) = &self.stamp else {
            return Ok(());
        };
        let mut creds = bus1_creds::default();
        // SAFETY: We have a reference; `creds` is to be written.
        unsafe { abi::bus1_stamp_describe(stamp.0.as_ptr(), &mut creds) };
        let label = stamp.label();
        creds.label_len = label.len() as u32;
        write(place, &creds)?;
        let place = place.wrapping_add(size_of::<bus1_creds>() as u64);
        UserSlice::new(user::ptr(place), label.len())
            .writer()
            .write_slice(label)?;
        let padding = label.len().next_multiple_of(8) - label.len();
        user::clear(place.wrapping_add(label.len() as u64), padding)
    }

    /// Installs the files and writes their descriptors, or errors; to a place that could be
    /// written a moment ago.
    pub(crate) fn install(&self, place: u64) {
        for (i, file) in self.files.iter().enumerate() {
            let place = place.wrapping_add((i * size_of::<i32>()) as u64);
            // SAFETY: We have a reference. The address is checked by the call.
            unsafe { abi::bus1_install(file.as_ptr(), user::ptr(place).as_mut_ptr().cast()) };
        }
    }
}
