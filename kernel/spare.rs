// SPDX-License-Identifier: GPL-2.0-only

//! The memory of one message or handle, kept by its peer for the next.
//!
//! Where messages do not pile up each finds the memory of the one before it, which spares the
//! allocator: a tenth of what a small message costs. It stays charged to whom it was charged first,
//! and no peer keeps more than one of each.

use crate::item::Item;
use core::mem::MaybeUninit;
use core::pin::Pin;
use core::ptr;
use kernel::prelude::*;
use kernel::sync::atomic::{ordering, Atomic};
use kernel::sync::{Arc, UniqueArc};

type Memory<T> = MaybeUninit<Item<T>>;

/// Null, or memory of ours, as `Arc::into_raw` gives it.
pub(crate) struct Spare<T>(Atomic<*mut Memory<T>>);

impl<T> Spare<T> {
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(ptr::null_mut()))
    }

    #[inline]
    fn swap(&self, new: *mut Memory<T>) -> *mut Memory<T> {
        // Nobody uses the memory before or after, but for whom this hands it to or from.
        self.0.xchg(new, ordering::Full)
    }

    /// Memory for one.
    #[inline]
    pub(crate) fn take(&self) -> Result<UniqueArc<Memory<T>>> {
        if !self.0.load(ordering::Relaxed).is_null() {
            let memory = self.swap(ptr::null_mut());
            if !memory.is_null() {
                // SAFETY: It is ours, and from `into_raw`.
                let memory = unsafe { Arc::from_raw(memory) };
                if let Some(unique) = Arc::into_unique_or_drop(memory) {
                    // SAFETY: There is nothing in it that could be moved.
                    return Ok(unsafe { Pin::into_inner_unchecked(unique) });
                }
            }
        }
        Ok(UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?)
    }

    /// Drops a reference, and keeps the memory if that was the last one. The caller keeps this
    /// alive, also if what is dropped does not.
    #[inline]
    pub(crate) fn put(&self, item: Arc<Item<T>>) {
        // KASAN is to see what comes too late.
        if cfg!(CONFIG_KASAN) {
            return drop(item);
        }
        let Some(unique) = Arc::into_unique_or_drop(item) else {
            return;
        };
        // SAFETY: It is not moved.
        let unique = unsafe { Pin::into_inner_unchecked(unique) };
        let raw = Arc::into_raw(Arc::from(unique)).cast_mut();
        // SAFETY: The only reference; from here on it is memory.
        unsafe { ptr::drop_in_place(raw) };
        let old = self.swap(raw.cast());
        if !old.is_null() {
            // SAFETY: It was ours, and from `into_raw`.
            drop(unsafe { Arc::from_raw(old) });
        }
    }
}

impl<T> Drop for Spare<T> {
    fn drop(&mut self) {
        let memory = self.swap(ptr::null_mut());
        if !memory.is_null() {
            // SAFETY: It was ours, and from `into_raw`.
            drop(unsafe { Arc::from_raw(memory) });
        }
    }
}
