// SPDX-License-Identifier: GPL-2.0-only

//! The pages of a pool: memory that senders copy into, once, and the receiver maps read-only.
//!
//! Pages are added as slices first reach them, zeroed, and charged to who made the pool. They stay
//! until they are idle, that is, until no slice touches them, and memory is short, or the peer is
//! closed: see `reclaim.rs`. What a page shows is only ever what was sent to this peer, or zero:
//! the tail of a slice's last granule is zeroed, and so is a slice whose copying failed (MSG-4). A
//! freed slice keeps the bytes that its receiver has seen already.
//!
//! Copying is done without any lock, by whoever has allocated the slice: slices do not overlap, and
//! no page that a slice touches goes back.

use crate::backing::{Backing, Mapping, OwnedPage, Place};
use crate::bridge::Stat;
use crate::errno::edquot;
use crate::limits::{Limit, UserRef};
use crate::slices::{Slices, GRANULE};
use crate::user::{copy_in, Payload};
use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::NonNull;
use kernel::alloc::KVVec;
use kernel::bindings;
use kernel::page::{BorrowedPage, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::atomic::{ordering, Atomic};
use kernel::types::ScopeGuard;

/// Places that are counted together, so that empty ones need not be looked at one by one.
const GROUP: usize = 64;

/// Pages are added up to so many at a time (as an order), side by side if that can be had.
const BLOCK: u32 = 3;

/// Whether pages can be copied to as one if their descriptors are side by side: they are mapped,
/// once for all, in the order of their descriptors, and their addresses bear no tags.
const ADJOIN: bool = cfg!(all(
    any(CONFIG_SPARSEMEM_VMEMMAP, CONFIG_FLATMEM),
    not(any(
        CONFIG_KMAP_LOCAL,
        CONFIG_KASAN_SW_TAGS,
        CONFIG_KASAN_HW_TAGS
    )),
));

pub(crate) struct Pool {
    places: KVVec<Place>,
    /// How many pages there are in each group of places.
    groups: KVVec<Atomic<i32>>,
    n_pages: Atomic<u64>,
    /// Whose peer it is of.
    user: UserRef,
    pub(crate) backing: Backing,
}

impl Pool {
    /// Of `n` pages, for a peer. Charged to its user, and to the current process.
    pub(crate) fn new(n: usize, peer: *const impl Sized, user: UserRef) -> Result<Self> {
        let mut places = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..n {
            places.push_within_capacity(Place::new())?;
        }
        let mut groups = KVVec::with_capacity(n.div_ceil(GROUP), GFP_KERNEL_ACCOUNT)?;
        for _ in 0..n.div_ceil(GROUP) {
            groups.push_within_capacity(Atomic::new(0))?;
        }
        Ok(Self {
            places,
            groups,
            n_pages: Atomic::new(0),
            user,
            backing: Backing::new(peer)?,
        })
    }

    /// In bytes.
    pub(crate) fn size(&self) -> usize {
        self.places.len() * PAGE_SIZE
    }

    #[inline]
    pub(crate) fn n_pages(&self) -> u64 {
        self.n_pages.load(ordering::Relaxed)
    }

    /// The page at an index, if it is there. It stays only if a slice touches it, or as long as the
    /// peer's lock is held.
    pub(crate) fn page_ptr(&self, index: usize) -> Option<NonNull<bindings::page>> {
        self.places.get(index)?.get()
    }

    /// The page at an index that the caller's slice touches, added if it is not there yet.
    #[inline]
    fn page(&self, index: usize) -> Result<NonNull<bindings::page>> {
        match self.page_ptr(index) {
            Some(page) => Ok(page),
            None => self.add_pages(index..index + 1),
        }
    }

    /// The first of a range of pages that the caller's slice touches, and how many of them can be
    /// copied to as one.
    fn run(&self, range: Range<usize>) -> Result<(NonNull<bindings::page>, usize)> {
        let first = match self.page_ptr(range.start) {
            Some(page) => page,
            None => self.add_pages(range.clone())?,
        };
        let mut n = 1;
        if ADJOIN {
            let mut next = first.as_ptr();
            for place in self.places.get(range).ok_or(EINVAL)?.iter().skip(1) {
                next = next.wrapping_add(1);
                if !place.is(next) {
                    break;
                }
                n += 1;
            }
        }
        Ok((first, n))
    }

    /// Adds the first of a range of pages, which is not there, and as many more as come with it.
    #[cold]
    fn add_pages(&self, range: Range<usize>) -> Result<NonNull<bindings::page>> {
        let places = self.places.get(range.clone()).ok_or(EINVAL)?;
        let first = places.first().ok_or(EINVAL)?;
        if let Some(page) = first.claim() {
            return Ok(page);
        }
        let n = places.iter().take_while(|place| place.is_empty()).count();
        let order = n.max(1).ilog2().min(BLOCK);
        if order == 0 || self.add_block(range.start, order).is_err() {
            self.add_block(range.start, 0)?;
        }
        // By us or another sender.
        first.claim().ok_or(ENOMEM)
    }

    fn add_block(&self, index: usize, order: u32) -> Result {
        // Only the last of them may be refused: if others are, one will do, and nobody was refused.
        let others = (1 << order) - 1;
        self.user.charge_anyway(Limit::Pages, others);
        let mut charged = ScopeGuard::new_with_data(others, |n| {
            self.user.discharge(Limit::Pages, n);
        });
        if order > 0 && self.user.is_full(Limit::Pages) {
            return Err(edquot());
        }
        self.user.charge(Limit::Pages, 1)?;
        *charged += 1;
        for (at, page) in (index..).zip(self.backing.pages(order)?) {
            // Another sender may be first.
            if self
                .places
                .get(at)
                .is_some_and(|place| place.fill(page).is_ok())
            {
                *charged -= 1;
                Stat::PoolPages.add(1);
                self.n_pages.add(1, ordering::Relaxed);
                if let Some(group) = self.groups.get(at / GROUP) {
                    group.add(1, ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// A page is out of its place.
    fn free_page(&self, index: usize, page: OwnedPage) {
        drop(page);
        self.n_pages.fetch_sub(1, ordering::Relaxed);
        if let Some(group) = self.groups.get(index / GROUP) {
            group.add(-1, ordering::Relaxed);
        }
        Stat::PoolPages.add(-1);
        self.user.discharge(Limit::Pages, 1);
    }

    /// Parks idle pages until `parked`, which is empty, is full; false if there are no more. With
    /// the lock held that `slices` are under, so only so much is looked at.
    pub(crate) fn park_idle(&self, slices: &mut Slices, parked: &mut Parked) -> bool {
        let mut steps = 16 * GROUP;
        while steps > 0 && parked.n < parked.max {
            let Some((block, idle)) = slices.idle() else {
                return false;
            };
            let mut at = idle.start;
            while at < idle.end && steps > 0 && parked.n < parked.max {
                steps -= 1;
                // Who adds a page has a slice there until after it is counted.
                let group = self.groups.get(at / GROUP);
                if group.is_none_or(|n| n.load(ordering::Relaxed) <= 0) {
                    at = (at / GROUP + 1) * GROUP;
                    continue;
                }
                if self.places.get(at).is_some_and(Place::park) {
                    parked.at[parked.n] = Spot {
                        page: at as u32,
                        block,
                    };
                    parked.n += 1;
                }
                at += 1;
            }
            slices.looked_at(at);
        }
        true
    }

    /// Unmaps and frees what is parked, as far as nobody wants it back, and returns how much that
    /// is. What is left in `parked` is for [`pass_over`](Self::pass_over). One thread at a time,
    /// without a lock.
    ///
    /// Without a mapping, which is when the peer was closed, it is mapped nowhere, and goes though
    /// somebody has it pinned: nothing is sent there any more.
    pub(crate) fn free_parked(&self, parked: &mut Parked, mapping: Option<&Mapping>) -> usize {
        let closed = mapping.is_none();
        let place = |spot: &Spot| self.places.get(spot.page as usize);
        // A bit for each that may go.
        let mut settled = 0u64;
        for (i, spot) in parked.all().iter().enumerate() {
            if place(spot).is_some_and(|place| closed || place.settle()) {
                settled |= 1 << i;
            }
        }
        if let Some(mapping) = mapping {
            // In runs: each costs the owner a flush of the TLB.
            let mut run = 0..0u32;
            for (i, spot) in parked.all().iter().enumerate() {
                if settled & 1 << i == 0 {
                    continue;
                }
                if spot.page != run.end {
                    if !run.is_empty() {
                        mapping.unmap(run.clone());
                    }
                    run.start = spot.page;
                }
                run.end = spot.page + 1;
            }
            if !run.is_empty() {
                mapping.unmap(run);
            }
        }
        let (mut freed, mut left) = (0, 0);
        for i in 0..parked.n {
            let spot = parked.at[i];
            let place = place(&spot).filter(|_| settled & 1 << i != 0);
            if let Some(page) = place.and_then(|place| place.take(closed)) {
                self.free_page(spot.page as usize, page);
                freed += 1;
            } else {
                parked.at[left] = spot;
                left += 1;
            }
        }
        parked.n = left;
        freed
    }

    /// What [`free_parked`](Self::free_parked) has left is to be looked at again. With the lock held
    /// that `slices` are under.
    pub(crate) fn pass_over(&self, slices: &mut Slices, parked: &mut Parked) {
        for spot in parked.all() {
            slices.passed_over(spot.block, spot.page);
        }
        parked.n = 0;
    }

    /// Copies a payload to `offset`, and zeroes what is left of its last granule. On failure
    /// everything that was copied is zeroed.
    pub(crate) fn fill(&self, offset: usize, payload: &Payload) -> Result {
        let copied = payload.read(|from, before, len| {
            let at = offset + before;
            if len != 0 && len <= PAGE_SIZE - at % PAGE_SIZE {
                let page = self.page(at / PAGE_SIZE)?;
                return copy_to_pages(page, 1, at % PAGE_SIZE, len, from);
            }
            self.copy(at, len, from)
        });
        let len = payload.len();
        let padded = len.next_multiple_of(GRANULE);
        match copied {
            Ok(()) => self.zero(offset + len, padded - len),
            Err(_) => self.zero(offset, padded),
        }
        copied
    }

    /// Copies a part of a payload, run by run.
    #[inline(never)]
    fn copy(&self, offset: usize, len: usize, from: u64) -> Result {
        let end = (offset + len).div_ceil(PAGE_SIZE);
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let (page, n_pages) = self.run(at / PAGE_SIZE..end)?;
            let n = (len - done).min(n_pages * PAGE_SIZE - at % PAGE_SIZE);
            copy_to_pages(
                page,
                n_pages,
                at % PAGE_SIZE,
                n,
                from.wrapping_add(done as u64),
            )?;
            done += n;
        }
        Ok(())
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
        for index in 0..self.places.len() {
            if let Some(page) = self.places.get_mut(index).and_then(Place::take_last) {
                self.free_page(index, page);
            }
        }
    }
}

/// The index of a page, and the block that it was in when it was parked.
#[derive(Clone, Copy)]
struct Spot {
    page: u32,
    block: u32,
}

/// Pages that were parked together.
pub(crate) struct Parked {
    at: [Spot; Self::MAX],
    n: usize,
    max: usize,
}

impl Parked {
    /// As many as a word has bits.
    const MAX: usize = u64::BITS as usize;

    pub(crate) fn new() -> Self {
        Self {
            at: [Spot { page: 0, block: 0 }; Self::MAX],
            n: 0,
            max: Self::MAX,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.n
    }

    /// No more than this many at a time.
    pub(crate) fn limit(&mut self, max: usize) {
        self.max = max.min(Self::MAX);
    }

    fn all(&self) -> &[Spot] {
        &self.at[..self.n]
    }
}

/// Copies to a part of `n_pages` that can be copied to as one. It is the caller's alone, in a slice
/// that is not linked yet, and so the pages stay. (The receiver may look at it all the same, and
/// sees what it would be sent anyway.)
#[inline]
fn copy_to_pages(
    page: NonNull<bindings::page>,
    n_pages: usize,
    within: usize,
    n: usize,
    from: u64,
) -> Result {
    let size = n_pages * PAGE_SIZE;
    if within > size || n > size - within {
        return Err(EINVAL);
    }
    // SAFETY: The page lives. It is unmapped below.
    let map = unsafe { bindings::kmap_local_page(page.as_ptr()) };
    // SAFETY: Within the pages, as checked above, which nobody else writes there. Where there are
    // several, the mapping is of them all: see `ADJOIN`.
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
