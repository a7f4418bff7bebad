// SPDX-License-Identifier: GPL-2.0-only

//! The pages of a pool: memory that senders copy into, once, and the receiver maps read-only.
//!
//! Pages are added as slices first reach them, zeroed, and stay until the peer ends. What a
//! page shows is only ever what was sent to this peer, or zero: the tail of a slice's last granule is
//! zeroed, and so is a slice whose copying failed (MSG-4). A freed slice keeps the bytes that
//! its receiver has seen already.
//!
//! Copying is done without any lock, by whoever has allocated the slice: slices do not overlap.

use crate::bridge::Stat;
use crate::limits::{Limit, UserRef};
use crate::slices::GRANULE;
use crate::user::{copy_in, Payload};
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;
use kernel::alloc::KVVec;
use kernel::bindings;
use kernel::page::{BorrowedPage, Page, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::atomic::{ordering, Atomic};
use kernel::types::ScopeGuard;

pub(crate) struct Pool {
    /// Each is null, or a page of ours, set once.
    pages: KVVec<Atomic<*mut bindings::page>>,
    n_pages: Atomic<u64>,
    /// Whose peer it is of.
    user: UserRef,
}

impl Pool {
    pub(crate) fn new(n: usize, user: UserRef) -> Result<Self> {
        let mut pages = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..n {
            pages.push_within_capacity(Atomic::new(core::ptr::null_mut()))?;
        }
        Ok(Self {
            pages,
            n_pages: Atomic::new(0),
            user,
        })
    }

    /// In bytes.
    pub(crate) fn size(&self) -> usize {
        self.pages.len() * PAGE_SIZE
    }

    pub(crate) fn n_pages(&self) -> u64 {
        self.n_pages.load(ordering::Relaxed)
    }

    /// The page at an index, if it is there.
    pub(crate) fn page_ptr(&self, index: usize) -> Option<NonNull<bindings::page>> {
        // Pairs with the exchange in `page`: the page's zeroes are there before its address.
        NonNull::new(self.pages.get(index)?.load(ordering::Acquire))
    }

    /// The page at an index, added if it is not there yet.
    #[inline]
    fn page(&self, index: usize) -> Result<BorrowedPage<'_>> {
        let page = match self.page_ptr(index) {
            Some(page) => page,
            None => self.add_page(index)?,
        };
        // SAFETY: A page that is set stays until the pool is dropped.
        Ok(unsafe { BorrowedPage::from_raw(page) })
    }

    #[cold]
    fn add_page(&self, index: usize) -> Result<NonNull<bindings::page>> {
        let place = self.pages.get(index).ok_or(EINVAL)?;
        self.user.charge(Limit::Pages, 1)?;
        let charged = ScopeGuard::new(|| self.user.discharge(Limit::Pages, 1));
        let page = ManuallyDrop::new(Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?);
        match place.cmpxchg(core::ptr::null_mut(), page.as_ptr(), ordering::Full) {
            Ok(_) => {
                charged.dismiss();
                Stat::PoolPages.add(1);
                self.n_pages.add(1, ordering::Relaxed);
                NonNull::new(page.as_ptr()).ok_or(ENOMEM)
            }
            Err(other) => {
                // Another sender was first.
                drop(ManuallyDrop::into_inner(page));
                NonNull::new(other).ok_or(ENOMEM)
            }
        }
    }

    /// Copies a payload to `offset`, and zeroes what is left of its last granule. On failure
    /// everything that was copied is zeroed.
    pub(crate) fn fill(&self, offset: usize, payload: &Payload) -> Result {
        let copied = payload.read(|from, before, len| {
            let mut done = 0;
            while done < len {
                let at = offset + before + done;
                let within = at % PAGE_SIZE;
                let n = (len - done).min(PAGE_SIZE - within);
                let page = self.page(at / PAGE_SIZE)?;
                copy_to_page(&page, within, n, from.wrapping_add(done as u64))?;
                done += n;
            }
            Ok(())
        });
        let len = payload.len();
        let padded = len.next_multiple_of(GRANULE);
        match copied {
            Ok(()) => self.zero(offset + len, padded - len),
            Err(_) => self.zero(offset, padded),
        }
        copied
    }

    /// Zeroes a range as far as it has pages.
    pub(crate) fn zero(&self, offset: usize, len: usize) {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let within = at % PAGE_SIZE;
            let n = (end - at).min(PAGE_SIZE - within);
            if let Some(page) = self.page_ptr(at / PAGE_SIZE) {
                // SAFETY: The page stays; the range is within a slice that is ours alone.
                let _ = unsafe { BorrowedPage::from_raw(page).fill_zero_raw(within, n) };
            }
            at += n;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for place in &self.pages {
            if let Some(page) = NonNull::new(place.load(ordering::Acquire)) {
                // SAFETY: Set by `add_page`, which left it to the pool. `Page` has the layout of
                // the pointer, as `BorrowedPage` relies on, too.
                let page = unsafe { BorrowedPage::from_raw(page) };
                // SAFETY: As above, and nobody borrows from a pool that is dropped.
                drop(unsafe { core::ptr::read::<Page>(&raw const *page) });
                Stat::PoolPages.add(-1);
                self.user.discharge(Limit::Pages, 1);
            }
        }
    }
}

/// Copies to a part of a page that is the caller's alone: it is in a slice that is not linked yet.
/// (The receiver may look at it all the same, and sees what it would be sent anyway.)
#[inline]
fn copy_to_page(page: &Page, within: usize, n: usize, from: u64) -> Result {
    if within > PAGE_SIZE || n > PAGE_SIZE - within {
        return Err(EINVAL);
    }
    // SAFETY: The page lives. It is unmapped below.
    let map = unsafe { bindings::kmap_local_page(page.as_ptr()) };
    // SAFETY: Within the page, as checked above, which nobody else writes there.
    let to =
        unsafe { core::slice::from_raw_parts_mut(map.cast::<MaybeUninit<u8>>().add(within), n) };
    let copied = copy_in(to, from);
    // SAFETY: Mapped above, by this thread, and `to` is not used any more.
    unsafe { bindings::kunmap_local(map) };
    copied
}

/// Copies a payload into memory of the kernel's, of which it is the beginning.
#[inline]
pub(crate) fn read_inline(payload: &Payload, to: &mut [MaybeUninit<u8>]) -> Result {
    if let Payload::One(addr, len) = payload {
        return copy_in(to.get_mut(..*len).ok_or(EINVAL)?, *addr);
    }
    payload.read(|from, before, len| {
        let part = to.get_mut(before..before + len).ok_or(EINVAL)?;
        copy_in(part, from)
    })
}
