// SPDX-License-Identifier: GPL-2.0-only

//! The memory behind pools as `backing.c` has it: mappings, charges, pages and their places.

use crate::abi;
use core::ops::Range;
use core::ptr::{self, NonNull};
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::{ordering, Atomic};

/// Where the mappings of one file are found.
pub(crate) struct Mapping(NonNull<abi::address_space>);

// SAFETY: It has locks of its own.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Sleeping is allowed.
        let mapping = NonNull::new(unsafe { abi::bus1_mapping_new() });
        Ok(Self(mapping.ok_or(ENOMEM)?))
    }

    pub(crate) fn raw(&self) -> *mut abi::address_space {
        self.0.as_ptr()
    }

    /// Unmaps pages. May sleep.
    pub(crate) fn unmap(&self, pages: Range<u32>) {
        let n = pages.len();
        // SAFETY: It is initialised, and lives as long as `self`.
        unsafe { abi::bus1_mapping_unmap(self.raw(), pages.start as usize, n) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: Ours. The file that has it keeps the peer which drops it.
        unsafe { abi::bus1_mapping_free(self.raw()) }
    }
}

/// Whom the pages of a pool are charged to, and the pool's place among those that the shrinker
/// looks at.
pub(crate) struct Backing(NonNull<abi::bus1_backing>);

// SAFETY: What is not constant is only used under the peer's lock.
unsafe impl Send for Backing {}
// SAFETY: As above.
unsafe impl Sync for Backing {}

impl Backing {
    /// Charged to the current process.
    pub(crate) fn new(peer: *const impl Sized) -> Result<Self> {
        // SAFETY: Sleeping is allowed. The address is only kept.
        let backing = unsafe { abi::bus1_backing_new(peer.cast_mut().cast()) };
        Ok(Self(NonNull::new(backing).ok_or(ENOMEM)?))
    }

    /// Zeroed pages, `1 << order` of them, side by side. More than one only if they are at hand.
    pub(crate) fn pages(&self, order: u32) -> Result<impl Iterator<Item = OwnedPage>> {
        // SAFETY: Sleeping is allowed.
        let first = unsafe { abi::bus1_backing_pages(self.0.as_ptr(), order) };
        let first: NonNull<bindings::page> = NonNull::new(first.cast()).ok_or(ENOMEM)?;
        // SAFETY: Their descriptors are side by side as well, and each has a reference, now ours.
        Ok((0..1 << order).map(move |i| unsafe { OwnedPage::from_raw(first.add(i)) }))
    }

    /// With the peer's lock held.
    pub(crate) fn set_idle(&self, pages: usize) {
        // SAFETY: Ours.
        unsafe { abi::bus1_backing_set_idle(self.0.as_ptr(), pages) }
    }

    /// The shrinker is to look at the peer.
    ///
    /// # Safety
    ///
    /// The peer's lock is held, and the peer is not closed.
    pub(crate) unsafe fn list(&self) {
        // SAFETY: By the caller.
        unsafe { abi::bus1_backing_list(self.0.as_ptr()) }
    }

    /// It is not to look at it any more. With the peer's lock held.
    pub(crate) fn unlist(&self) {
        // SAFETY: Ours.
        unsafe { abi::bus1_backing_unlist(self.0.as_ptr()) }
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // SAFETY: Ours. A peer is closed, and with that not listed, before it is dropped, and one
        // that is in the shrinker's hand is not dropped.
        unsafe { abi::bus1_backing_free(self.0.as_ptr()) }
    }
}

/// A page, with a reference that is ours.
pub(crate) struct OwnedPage(NonNull<bindings::page>);

impl OwnedPage {
    /// # Safety
    ///
    /// The reference is from [`into_raw`](Self::into_raw), and is taken over.
    pub(crate) unsafe fn from_raw(page: NonNull<bindings::page>) -> Self {
        Self(page)
    }

    pub(crate) fn into_raw(self) -> NonNull<bindings::page> {
        let page = self.0;
        core::mem::forget(self);
        page
    }
}

impl Drop for OwnedPage {
    fn drop(&mut self) {
        // SAFETY: Ours.
        unsafe { abi::bus1_page_free(self.0.as_ptr().cast()) }
    }
}

/// A page's place in a pool: empty, or with a page, which is its own; or with one that is *parked*,
/// on its way out.
///
/// Who has a slice that touches the page may fill the place, and take a page back that is parked
/// ([`claim`](Self::claim)). Who has the peer's lock and sees that no slice touches it may park it,
/// and then, without the lock, but one at a time, free it if it is still parked. So there is
/// nothing to wait for on either side.
pub(crate) struct Place(Atomic<*mut bindings::page>);

/// In the address of a page that is parked.
const PARKED: usize = 1;

fn is_parked(page: *mut bindings::page) -> bool {
    page.addr() & PARKED != 0
}

fn plain(page: *mut bindings::page) -> Option<NonNull<bindings::page>> {
    NonNull::new(page.map_addr(|a| a & !PARKED))
}

impl Place {
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(ptr::null_mut()))
    }

    /// The page, if there is one that is not parked.
    #[inline]
    pub(crate) fn get(&self) -> Option<NonNull<bindings::page>> {
        // Pairs with `fill`: the page's zeroes are there before its address.
        let page = self.0.load(ordering::Acquire);
        if is_parked(page) {
            None
        } else {
            NonNull::new(page)
        }
    }

    /// Whether there is no page, not even a parked one.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(ordering::Relaxed).is_null()
    }

    /// Whether the page is this one, and not parked.
    #[inline]
    pub(crate) fn is(&self, page: *mut bindings::page) -> bool {
        // As in `get`.
        self.0.load(ordering::Acquire) == page
    }

    /// The page, for who has a slice that touches it; from here on it stays. If it is `None`, only
    /// [`fill`](Self::fill) changes that.
    pub(crate) fn claim(&self) -> Option<NonNull<bindings::page>> {
        let old = self.0.load(ordering::Acquire);
        if !is_parked(old) {
            return NonNull::new(old);
        }
        let page = plain(old)?;
        match self.0.cmpxchg(old, page.as_ptr(), ordering::Full) {
            Ok(_) => Some(page),
            // Claimed by another, or freed. It is not parked anew while there is a slice.
            Err(now) => NonNull::new(now),
        }
    }

    /// Sets a page where there is none, or gives it back with the one that is there.
    pub(crate) fn fill(
        &self,
        page: OwnedPage,
    ) -> core::result::Result<NonNull<bindings::page>, (OwnedPage, *mut bindings::page)> {
        let page = page.into_raw();
        match self
            .0
            .cmpxchg(ptr::null_mut(), page.as_ptr(), ordering::Full)
        {
            Ok(_) => Ok(page),
            // SAFETY: It was not set.
            Err(other) => Err((unsafe { OwnedPage::from_raw(page) }, other)),
        }
    }

    /// Parks the page, if there is one. With the peer's lock held, and no slice that touches it.
    pub(crate) fn park(&self) -> bool {
        let Some(page) = self.get() else {
            return false;
        };
        let parked = page.as_ptr().map_addr(|a| a | PARKED);
        self.0
            .cmpxchg(page.as_ptr(), parked, ordering::Full)
            .is_ok()
    }

    /// Whether a page that was parked may be unmapped and freed. If not, it is put back.
    ///
    /// By who has parked it.
    pub(crate) fn settle(&self) -> bool {
        let old = self.0.load(ordering::Acquire);
        let Some(page) = plain(old).filter(|_| is_parked(old)) else {
            // It was claimed.
            return false;
        };
        // SAFETY: The page is alive: only we free it.
        if unsafe { abi::bus1_page_settle(page.as_ptr().cast()) } {
            return true;
        }
        let _ = self.0.cmpxchg(old, page.as_ptr(), ordering::Full);
        false
    }

    /// Takes a page out that was parked and is not mapped any more, unless it was claimed or, if
    /// that is not `anyway`, somebody has pinned it: then it stays.
    ///
    /// By who has parked it.
    pub(crate) fn take(&self, anyway: bool) -> Option<OwnedPage> {
        let old = self.0.load(ordering::Acquire);
        let page = plain(old).filter(|_| is_parked(old))?;
        // What pins it has found it in a page table, and so before it was unmapped.
        // SAFETY: The page is alive: only we free it.
        if !anyway && unsafe { abi::bus1_page_is_shared(page.as_ptr().cast()) } {
            let _ = self.0.cmpxchg(old, page.as_ptr(), ordering::Full);
            return None;
        }
        self.0
            .cmpxchg(old, ptr::null_mut(), ordering::Full)
            .ok()
            // SAFETY: The place had it from `fill`.
            .map(|_| unsafe { OwnedPage::from_raw(page) })
    }

    /// Takes the page out, parked or not. Nobody else uses the place.
    pub(crate) fn take_last(&mut self) -> Option<OwnedPage> {
        let page = plain(self.0.xchg(ptr::null_mut(), ordering::Full))?;
        // SAFETY: As above.
        Some(unsafe { OwnedPage::from_raw(page) })
    }
}
