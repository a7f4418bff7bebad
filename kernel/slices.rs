// SPDX-License-Identifier: GPL-2.0-only

//! The allocator of a pool's address space: slices, in constant time.
//!
//! Two-level segregated fit: free blocks stand in lists by size class (eight classes to each power
//! of two), two levels of bitmaps find the smallest class that must fit, and freed blocks merge
//! with their neighbours at once. Records of the blocks are kept apart from the pool, which user
//! space sees. A slice's id is that of its record, so giving one back needs no search, and a stale
//! or invented id is not found.
//!
//! Where memory is warm is not recorded, but follows: the block freed last is kept for the next
//! slice of its size; else a small block that must fit is taken, the one freed last of its class,
//! from its low end. What was never used is in the largest block, and comes last. So a pool keeps
//! about as much memory as was in use at a time: the tests say how much.
//!
//! Pages that lie in free blocks alone are *idle*. Free blocks with such pages stand in one more
//! list, in the order in which they became so, until they were looked at: see [`Slices::idle`].
//! Where a page had to be passed over the block waits in a list of its own, for
//! [`Slices::look_again`].
//!
//! Sizes and offsets are counted in granules. Memory for records is allocated by the caller, who
//! asks [`Slices::growth`] first.

use crate::ids::Hashed;
use crate::ids::{Growth, IdTable, Need};
use core::ops::Range;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

/// Bytes of a granule. A slice starts at a multiple of it and is padded to one.
pub(crate) const GRANULE: usize = 64;

/// Granules of a page.
const PAGE: u32 = (PAGE_SIZE / GRANULE) as u32;

const NONE: u32 = u32::MAX;
const LEVELS: usize = 24;
const CLASSES: usize = 8;
/// How many blocks of the class just below are tried when no larger class has any.
const TRIES: usize = 16;

#[derive(Clone, Copy, PartialEq)]
enum State {
    Free,
    /// Allocated; the kernel's.
    Kernel,
    /// Received by user space, which may give it back.
    User,
}

/// A list of blocks with idle pages.
#[derive(Clone, Copy, PartialEq)]
enum Idle {
    /// Not all of them were looked at.
    Fresh,
    /// They were, but some were passed over.
    Again,
}

/// The ends of such a list.
#[derive(Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

pub(crate) struct Block {
    start: u32,
    size: u32,
    /// Neighbours by address.
    prev: u32,
    next: u32,
    /// Neighbours in the list of the class, if free.
    free_prev: u32,
    free_next: u32,
    /// Neighbours in a list of those with idle pages, and which, if it stands in one.
    idle_prev: u32,
    idle_next: u32,
    idle: Option<Idle>,
    state: State,
}

impl Block {
    fn new(start: u32, size: u32, prev: u32, next: u32) -> Self {
        Self {
            start,
            size,
            prev,
            next,
            free_prev: NONE,
            free_next: NONE,
            idle_prev: NONE,
            idle_next: NONE,
            idle: None,
            state: State::Free,
        }
    }

    /// The pages that lie wholly within it.
    fn pages(&self) -> Range<u32> {
        self.start.div_ceil(PAGE)..(self.start + self.size) / PAGE
    }
}

/// A slice that was allocated.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Slice {
    /// Never 0.
    pub(crate) id: u64,
    /// Bytes into the pool.
    pub(crate) offset: usize,
}

pub(crate) struct Slices {
    blocks: IdTable<Block>,
    levels: u32,
    classes: [u8; LEVELS],
    heads: [[u32; CLASSES]; LEVELS],
    n_used: usize,
    used: usize,
    /// A block that was freed last and not merged: the next slice is often as large as the last.
    /// Its state is not free, so that no neighbour merges with it.
    spare: u32,
    /// The lists of blocks with idle pages, and how many pages that are.
    idle: [Ends; 2],
    idle_pages: usize,
    /// Pages before this one were looked at in the first that is fresh, and whether one of them was
    /// passed over.
    looked: u32,
    passed: bool,
}

/// The class whose blocks are at least as large as its lower bound, for a block of `size`.
fn class_of(size: u32) -> (usize, usize) {
    if (size as usize) < CLASSES {
        return (0, size as usize);
    }
    let log = size.ilog2();
    (
        (log - 2) as usize,
        (size >> (log - 3)) as usize & (CLASSES - 1),
    )
}

/// The first class all of whose blocks are at least `size`.
fn class_for(size: u32) -> (usize, usize) {
    if (size as usize) < CLASSES {
        return (0, size as usize);
    }
    class_of(size + (1 << (size.ilog2() - 3)) - 1)
}

impl Hashed for Block {
    const HASHED: bool = false;

    fn hash(&self) -> Option<u64> {
        None
    }
}

impl Slices {
    pub(crate) const fn new() -> Self {
        Self {
            blocks: IdTable::new(),
            levels: 0,
            classes: [0; LEVELS],
            heads: [[NONE; CLASSES]; LEVELS],
            n_used: 0,
            used: 0,
            spare: NONE,
            idle: [Ends {
                first: NONE,
                last: NONE,
            }; 2],
            idle_pages: 0,
            looked: 0,
            passed: false,
        }
    }

    /// Slices that are allocated, and their bytes.
    pub(crate) fn in_use(&self) -> (usize, usize) {
        (self.n_used, self.used * GRANULE)
    }

    /// The same in granules.
    #[inline]
    pub(crate) fn granules(&self) -> u32 {
        self.used as u32
    }

    /// What is needed before the next [`alloc`](Self::alloc) or [`extend`](Self::extend).
    pub(crate) fn growth(&self) -> Option<Need> {
        // One more than that, so that freeing finds a slot though its own may be retired.
        self.blocks.growth(2)
    }

    pub(crate) fn grow(&mut self, growth: Growth<Block>) -> Option<Growth<Block>> {
        self.blocks.grow(growth)
    }

    fn link(&mut self, index: u32) {
        let Some(b) = self.blocks.at(index) else {
            return;
        };
        let (l, c) = class_of(b.size);
        let head = self.heads[l][c];
        if let Some(b) = self.blocks.at_mut(index) {
            b.state = State::Free;
            b.free_prev = NONE;
            b.free_next = head;
        }
        if let Some(h) = self.blocks.at_mut(head) {
            h.free_prev = index;
        }
        self.heads[l][c] = index;
        self.classes[l] |= 1 << c;
        self.levels |= 1 << l;
        self.link_idle(index, Idle::Fresh);
    }

    fn unlink(&mut self, index: u32) {
        self.unlink_idle(index);
        let Some(b) = self.blocks.at(index) else {
            return;
        };
        let (prev, next) = (b.free_prev, b.free_next);
        let (l, c) = class_of(b.size);
        if let Some(n) = self.blocks.at_mut(next) {
            n.free_prev = prev;
        }
        if let Some(p) = self.blocks.at_mut(prev) {
            p.free_next = next;
            return;
        }
        self.heads[l][c] = next;
        if next == NONE {
            self.classes[l] &= !(1 << c);
            if self.classes[l] == 0 {
                self.levels &= !(1 << l);
            }
        }
    }

    fn link_idle(&mut self, index: u32, list: Idle) {
        let last = self.idle[list as usize].last;
        let Some(b) = self.blocks.at_mut(index) else {
            return;
        };
        let n = b.pages().len();
        if n == 0 {
            return;
        }
        b.idle = Some(list);
        b.idle_prev = last;
        b.idle_next = NONE;
        self.idle_pages += n;
        self.idle[list as usize].last = index;
        match self.blocks.at_mut(last) {
            Some(l) => l.idle_next = index,
            None => self.idle[list as usize].first = index,
        }
    }

    fn unlink_idle(&mut self, index: u32) {
        let Some(b) = self.blocks.at_mut(index) else {
            return;
        };
        let Some(list) = b.idle.take() else {
            return;
        };
        let (prev, next, n) = (b.idle_prev, b.idle_next, b.pages().len());
        self.idle_pages -= n;
        match self.blocks.at_mut(next) {
            Some(n) => n.idle_prev = prev,
            None => self.idle[list as usize].last = prev,
        }
        match self.blocks.at_mut(prev) {
            Some(p) => p.idle_next = next,
            None => {
                self.idle[list as usize].first = next;
                if list == Idle::Fresh {
                    self.looked = 0;
                    self.passed = false;
                }
            }
        }
    }

    /// About how many of the pool's pages, if it has `n_pages`, are idle and were not looked at, or
    /// passed over: not 0 if there are any.
    #[inline]
    pub(crate) fn max_idle(&self, n_pages: usize) -> usize {
        // Slices touch at least as many as they fill. The spare block may share pages with
        // free ones beside it.
        let spare = self.blocks.at(self.spare).map_or(0, |b| b.size);
        n_pages
            .saturating_sub(self.used.div_ceil(PAGE as usize))
            .min(self.idle_pages + spare.div_ceil(PAGE) as usize)
    }

    /// Some idle pages that were not looked at since they became so, and the block that they are
    /// in. No slice touches them until the lock is released.
    pub(crate) fn idle(&mut self) -> Option<(u32, Range<usize>)> {
        if self.spare != NONE {
            self.merge_spare();
        }
        let first = self.idle[Idle::Fresh as usize].first;
        let pages = self.blocks.at(first)?.pages();
        Some((
            first,
            pages.start.max(self.looked) as usize..pages.end as usize,
        ))
    }

    /// Those before `end` were looked at, of what [`idle`](Self::idle) gave.
    pub(crate) fn looked_at(&mut self, end: usize) {
        let first = self.idle[Idle::Fresh as usize].first;
        match self.blocks.at(first) {
            Some(b) if end < b.pages().end as usize => self.looked = end as u32,
            _ => {
                let passed = self.passed;
                self.unlink_idle(first);
                if passed {
                    self.link_idle(first, Idle::Again);
                }
            }
        }
    }

    /// A page that was looked at, in this block then, had to be left where it is. If it is not to be
    /// looked at anyway, it is after [`look_again`](Self::look_again).
    pub(crate) fn passed_over(&mut self, block: u32, page: u32) {
        // What was allocated, split or merged since is fresh, or will be when it is free.
        let here = |b: &&Block| b.state == State::Free && b.pages().contains(&page);
        let Some(b) = self.blocks.at(block).filter(here) else {
            return;
        };
        match b.idle {
            None => self.link_idle(block, Idle::Again),
            Some(Idle::Fresh) if block == self.idle[Idle::Fresh as usize].first => {
                self.passed |= page < self.looked;
            }
            Some(_) => (),
        }
    }

    /// Blocks where pages were passed over are to be looked at like those that have just become
    /// idle. (The first fresh one, as far as it was looked at, only after its end, so that pages that
    /// are passed over each time do not hide those behind them.) Some at a time: others want the lock, too.
    /// False if there are none.
    pub(crate) fn look_again(&mut self) -> bool {
        let mut any = false;
        for _ in 0..256 {
            let first = self.idle[Idle::Again as usize].first;
            if first == NONE {
                break;
            }
            self.unlink_idle(first);
            self.link_idle(first, Idle::Fresh);
            any = true;
        }
        any
    }

    /// The slice at an index, if user space has it, or `None` behind the last one.
    pub(crate) fn users_at(&self, index: u32) -> Option<Option<u64>> {
        if index >= self.blocks.slots() {
            return None;
        }
        let block = self.blocks.at(index).filter(|b| b.state == State::User);
        Some(block.map(|_| self.blocks.id_at(index)))
    }

    /// Adds `granules` of free space: the whole pool, once, when it is made.
    pub(crate) fn extend(&mut self, granules: u32) -> Result {
        let block = Block::new(0, granules, NONE, NONE);
        let id = self.blocks.insert(block).map_err(|_| ENOMEM)?;
        self.link(IdTable::<Block>::index(id));
        Ok(())
    }

    fn find(&self, size: u32) -> Option<u32> {
        let (l, c) = class_for(size);
        if l < LEVELS {
            let here = u32::from(self.classes[l]) & (u32::MAX << c);
            if here != 0 {
                return Some(self.heads[l][here.trailing_zeros() as usize]);
            }
            let above = self.levels & (u32::MAX << (l + 1));
            if above != 0 {
                let l = above.trailing_zeros() as usize;
                return Some(self.heads[l][self.classes[l].trailing_zeros() as usize]);
            }
        }
        // Blocks of the size's own class may fit or not.
        let (l, c) = class_of(size);
        let mut index = self.heads[l][c];
        for _ in 0..TRIES {
            let b = self.blocks.at(index)?;
            if b.size >= size {
                return Some(index);
            }
            index = b.free_next;
        }
        None
    }

    /// Whether [`alloc`](Self::alloc) would find that many granules.
    pub(crate) fn could_alloc(&mut self, size: u32) -> bool {
        if self.find(size).is_some() {
            return true;
        }
        if self.spare != NONE {
            self.merge_spare();
        }
        self.find(size).is_some()
    }

    /// Allocates `size` granules, or returns `None` if no block is large enough. Needs the growth.
    #[inline(always)]
    pub(crate) fn alloc(&mut self, size: u32) -> Option<Slice> {
        if let Some(b) = self.blocks.at_mut(self.spare) {
            if b.size == size {
                let offset = b.start as usize * GRANULE;
                let id = self.blocks.id_at(self.spare);
                self.spare = NONE;
                self.n_used += 1;
                self.used += size as usize;
                return Some(Slice { id, offset });
            }
            self.merge_spare();
        }
        self.alloc_block(size)
    }

    fn alloc_block(&mut self, size: u32) -> Option<Slice> {
        let index = self.find(size)?;
        self.unlink(index);
        let b = self.blocks.at_mut(index)?;
        b.state = State::Kernel;
        let (start, rest, next) = (b.start, b.size - size, b.next);
        if rest > 0 {
            let tail = Block::new(start + size, rest, index, next);
            // Without the growth the block goes out whole.
            if let Ok(tail) = self.blocks.insert(tail) {
                let tail = IdTable::<Block>::index(tail);
                if let Some(b) = self.blocks.at_mut(index) {
                    b.size = size;
                    b.next = tail;
                }
                if let Some(n) = self.blocks.at_mut(next) {
                    n.prev = tail;
                }
                self.link(tail);
            }
        }
        self.n_used += 1;
        self.used += self.blocks.at(index)?.size as usize;
        Some(Slice {
            id: self.blocks.id_at(index),
            offset: start as usize * GRANULE,
        })
    }

    /// Tells whether user space has this slice.
    pub(crate) fn is_users(&self, id: u64) -> bool {
        self.blocks.get(id).is_some_and(|b| b.state == State::User)
    }

    /// Gives a slice to user space, which may then give it back, or takes that back.
    pub(crate) fn set_users(&mut self, id: u64, users: bool) {
        if let Some(b) = self.blocks.get_mut(id) {
            b.state = if users { State::User } else { State::Kernel };
        }
    }

    /// Frees what a slice that user space has not got has above that size, if there are records to spare.
    pub(crate) fn shrink(&mut self, id: u64, size: u32) {
        let index = IdTable::<Block>::index(id);
        let Some(b) = self.blocks.get(id) else {
            return;
        };
        let (start, rest, next) = (b.start, b.size.saturating_sub(size), b.next);
        if rest == 0 || b.state != State::Kernel || self.growth().is_some() {
            return;
        }
        let mut tail = Block::new(start + size, rest, index, next);
        tail.state = State::Kernel;
        let Ok(tail) = self.blocks.insert(tail) else {
            return;
        };
        let at = IdTable::<Block>::index(tail);
        if let Some(b) = self.blocks.at_mut(index) {
            b.size = size;
            b.next = at;
        }
        if let Some(n) = self.blocks.at_mut(next) {
            n.prev = at;
        }
        self.used -= rest as usize;
        self.merge(tail);
    }

    /// Frees a slice that user space has not got. An id that is not known does nothing.
    pub(crate) fn free(&mut self, id: u64) {
        let Some(b) = self.blocks.get_mut(id) else {
            return;
        };
        if b.state == State::Kernel && IdTable::<Block>::index(id) != self.spare {
            let size = b.size;
            self.set_aside(id, size);
        }
    }

    /// Frees a slice that user space has, and tells whether it has it.
    #[inline]
    pub(crate) fn release(&mut self, id: u64) -> bool {
        match self.blocks.get_mut(id) {
            Some(b) if b.state == State::User => {
                b.state = State::Kernel;
                let size = b.size;
                self.set_aside(id, size);
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn set_aside(&mut self, id: u64, size: u32) {
        self.n_used -= 1;
        self.used -= size as usize;
        if self.spare != NONE {
            self.merge_spare();
        }
        // The old id must not be found again.
        if self.blocks.renew(id) {
            self.spare = IdTable::<Block>::index(id);
        } else {
            self.merge(id);
        }
    }

    fn merge_spare(&mut self) {
        let id = self.blocks.id_at(self.spare);
        self.spare = NONE;
        self.merge(id);
    }

    /// Frees a block for good. The record of the freed space is the one of the first block of it,
    /// but under a new id.
    fn merge(&mut self, id: u64) {
        let Some(mut b) = self.blocks.remove(id) else {
            return;
        };
        // The slot just left is there: nothing is allocated. It may be another, if retired.
        if let Some(n) = self.blocks.at(b.next) {
            if n.state == State::Free {
                let (size, next) = (n.size, n.next);
                self.unlink(b.next);
                self.blocks.remove(self.blocks.id_at(b.next));
                b.size += size;
                b.next = next;
            }
        }
        if let Some(p) = self.blocks.at(b.prev) {
            if p.state == State::Free {
                let prev = b.prev;
                self.unlink(prev);
                if let Some(p) = self.blocks.at_mut(prev) {
                    p.size += b.size;
                    p.next = b.next;
                }
                if let Some(n) = self.blocks.at_mut(b.next) {
                    n.prev = prev;
                }
                self.link(prev);
                return;
            }
        }
        let (prev, next) = (b.prev, b.next);
        if let Ok(id) = self.blocks.insert(b) {
            let index = IdTable::<Block>::index(id);
            if let Some(p) = self.blocks.at_mut(prev) {
                p.next = index;
            }
            if let Some(n) = self.blocks.at_mut(next) {
                n.prev = index;
            }
            self.link(index);
        }
    }
}

#[kernel::macros::kunit_tests(bus1_slices)]
mod tests {
    use super::*;

    fn pool(granules: u32) -> Result<Slices> {
        let mut s = Slices::new();
        grow(&mut s)?;
        s.extend(granules)?;
        Ok(s)
    }

    fn grow(s: &mut Slices) -> Result {
        while let Some(need) = s.growth() {
            drop(s.grow(Growth::new(need)?));
        }
        Ok(())
    }

    fn alloc(s: &mut Slices, size: u32) -> Result<Option<Slice>> {
        grow(s)?;
        Ok(s.alloc(size))
    }

    /// The sizes by address, checked: no gap, no overlap, no two free neighbours.
    fn check(s: &Slices, granules: u32) -> bool {
        let mut at = 0;
        let mut seen = 0;
        let mut was_free = false;
        while at < granules {
            let mut found = false;
            for i in 0..4096 {
                let Some(b) = s.blocks.at(i) else { continue };
                if b.start == at {
                    if was_free && b.state == State::Free {
                        return false;
                    }
                    was_free = b.state == State::Free;
                    at += b.size;
                    seen += 1;
                    found = true;
                    break;
                }
            }
            if !found {
                return false;
            }
        }
        at == granules && seen == s.blocks.len()
    }

    #[test]
    fn classes_are_monotonic_and_fit() {
        let mut last = (0, 0);
        for size in 1..100_000u32 {
            let c = class_of(size);
            assert!(c >= last);
            assert!(class_for(size) >= c);
            // Any block of the class for a size is at least that size.
            let (l, i) = class_for(size);
            let lower = if l == 0 {
                i as u32
            } else {
                (8 + i as u32) << (l - 1)
            };
            assert!(lower >= size);
            last = c;
        }
    }

    #[test]
    fn whole_pool_in_one_slice() -> Result {
        let mut s = pool(1000)?;
        let a = alloc(&mut s, 1000)?.ok_or(EINVAL)?;
        assert_eq!(a.offset, 0);
        assert_eq!(alloc(&mut s, 1)?, None);
        s.free(a.id);
        assert_eq!(alloc(&mut s, 1001)?, None);
        let b = alloc(&mut s, 1000)?.ok_or(EINVAL)?;
        assert!(b.id != a.id);
        Ok(())
    }

    #[test]
    fn a_slice_shrinks() -> Result {
        let mut s = pool(100)?;
        let a = alloc(&mut s, 40)?.ok_or(EINVAL)?;
        let b = alloc(&mut s, 20)?.ok_or(EINVAL)?;
        grow(&mut s)?;
        s.shrink(a.id, 10);
        assert!(check(&s, 100));
        assert_eq!(s.granules(), 30);
        s.shrink(a.id, 10);
        s.shrink(b.id, 30);
        assert_eq!(s.granules(), 30);
        let c = alloc(&mut s, 30)?.ok_or(EINVAL)?;
        assert_eq!(c.offset, 10 * GRANULE);
        grow(&mut s)?;
        // Beside free space it joins that.
        s.shrink(b.id, 5);
        assert!(check(&s, 100));
        s.set_users(c.id, true);
        s.shrink(c.id, 1);
        assert_eq!(s.granules(), 45);
        s.set_users(c.id, false);
        for slice in [a, b, c] {
            s.free(slice.id);
        }
        assert!(check(&s, 100));
        assert_eq!(alloc(&mut s, 100)?.map(|slice| slice.offset), Some(0));
        Ok(())
    }

    #[test]
    fn stale_and_foreign_ids_do_nothing() -> Result {
        let mut s = pool(100)?;
        let a = alloc(&mut s, 10)?.ok_or(EINVAL)?;
        let b = alloc(&mut s, 10)?.ok_or(EINVAL)?;
        assert!(!s.is_users(a.id));
        s.set_users(a.id, true);
        assert!(s.is_users(a.id));
        // The kernel does not free what user space has.
        s.free(a.id);
        assert!(s.is_users(a.id));
        assert!(s.release(a.id));
        assert!(!s.release(a.id));
        let before = s.in_use();
        for id in [0, a.id, b.id + (1 << 32), u64::MAX, 3] {
            assert!(!s.is_users(id));
            s.free(id);
        }
        assert_eq!(s.in_use(), before);
        assert!(check(&s, 100));
        Ok(())
    }

    /// A random mix against a map of what is taken: no overlap ever, all merged at the end, and
    /// requests refused only when no gap is large enough, but for the bounded search.
    #[test]
    fn random_mix_against_a_reference() -> Result {
        const N: usize = 2048;
        let mut s = pool(N as u32)?;
        let mut taken = KVec::from_elem(false, N, GFP_KERNEL)?;
        let mut live: KVec<(Slice, usize)> = KVec::new();
        let mut seed = 12345u64;
        let mut refused_full = 0;
        for _ in 0..20_000 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let r = (seed >> 33) as usize;
            if r % 5 < 3 {
                let size = 1 + (r >> 8) % if r & 0x80 != 0 { 8 } else { 200 };
                match alloc(&mut s, size as u32)? {
                    Some(slice) => {
                        let at = slice.offset / GRANULE;
                        for t in &mut taken[at..at + size] {
                            assert!(!*t);
                            *t = true;
                        }
                        live.push((slice, size), GFP_KERNEL)?;
                    }
                    None => {
                        let (mut run, mut longest) = (0, 0);
                        for t in &taken {
                            run = if *t { 0 } else { run + 1 };
                            longest = longest.max(run);
                        }
                        // Good fit gives up an eighth at most.
                        assert!(longest < size + size / 8 + 1);
                        refused_full += 1;
                    }
                }
            } else if !live.is_empty() {
                let at = (r >> 8) % live.len();
                let last = live.len() - 1;
                live.swap(at, last);
                if let Some((slice, size)) = live.pop() {
                    let at = slice.offset / GRANULE;
                    taken[at..at + size].fill(false);
                    s.free(slice.id);
                }
            }
        }
        assert!(refused_full > 0);
        assert!(check(&s, N as u32));
        while let Some((slice, _)) = live.pop() {
            s.free(slice.id);
        }
        assert_eq!(s.in_use(), (0, 0));
        assert!(alloc(&mut s, N as u32)?.is_some());
        assert_eq!(s.blocks.len(), 1);
        Ok(())
    }

    /// A generator of numbers, the same each time.
    struct Random(u64);

    impl Random {
        fn next(&mut self, n: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (self.0 >> 33) as usize % n
        }
    }

    /// How much of a pool is in use when a slice is refused that is small beside it: slices of
    /// all sizes up to a 64th of it come and go, in no order, while it is kept full.
    #[test]
    fn how_full_a_pool_gets() -> Result {
        const N: usize = 16384;
        let mut s = pool(N as u32)?;
        let mut live = KVec::new();
        let mut random = Random(3);
        let (mut worst, mut sum, mut refused) = (N, 0, 0);
        for _ in 0..40_000 {
            // As many small ones as large ones, as messages are.
            let most = 1 << random.next(9);
            match alloc(&mut s, 1 + random.next(most) as u32)? {
                Some(slice) => live.push(slice, GFP_KERNEL)?,
                None => {
                    let used = s.in_use().1 / GRANULE;
                    worst = worst.min(used);
                    sum += used;
                    refused += 1;
                    for _ in 0..1 + random.next(8) {
                        let at = random.next(live.len());
                        let last = live.len() - 1;
                        live.swap(at, last);
                        if let Some(slice) = live.pop() {
                            s.free(slice.id);
                        }
                    }
                }
            }
        }
        assert!(refused > 1000);
        kernel::pr_info!(
            "slices: refused when {}.{} % of the pool are in use at worst, {}.{} % on average\n",
            worst * 100 / N,
            worst * 1000 / N % 10,
            sum / refused * 100 / N,
            sum / refused * 1000 / N % 10
        );
        assert!(worst * 100 >= N * 75);
        while let Some(slice) = live.pop() {
            s.free(slice.id);
        }
        assert!(alloc(&mut s, N as u32)?.is_some());
        Ok(())
    }

    /// A few slices at a time, of all sizes, in a pool that is much larger: how many of its pages
    /// they ever touch.
    #[test]
    fn a_steady_load_stays_where_it_is() -> Result {
        const PAGES: usize = 4096;
        const LIVE: usize = 12;
        let mut s = pool(PAGES as u32 * PAGE)?;
        let mut touched = KVec::from_elem(false, PAGES, GFP_KERNEL)?;
        let mut live = KVec::from_elem(0, LIVE, GFP_KERNEL)?;
        let mut random = Random(4);
        let mut most = 0;
        for _ in 0..20_000 {
            let at = random.next(LIVE);
            s.free(live[at]);
            let size = 1 + random.next(320);
            let slice = alloc(&mut s, size as u32)?.ok_or(ENOMEM)?;
            live[at] = slice.id;
            let start = slice.offset / GRANULE;
            touched[start / PAGE as usize..=(start + size - 1) / PAGE as usize].fill(true);
            most = most.max(s.in_use().1.div_ceil(PAGE_SIZE));
        }
        let n = touched.iter().filter(|t| **t).count();
        kernel::pr_info!("slices: {} pages touched for {} in use at most\n", n, most);
        assert!(n <= most * 3 / 2);
        Ok(())
    }

    /// What is told to be idle is what no slice touches, all of it, and once, but for what was
    /// passed over: that is told again, once it is asked for.
    #[test]
    fn idle_pages_against_a_reference() -> Result {
        const PAGES: usize = 32;
        const N: usize = PAGES * PAGE as usize;
        let mut s = pool(N as u32)?;
        let mut users = KVec::from_elem(0u32, PAGES, GFP_KERNEL)?;
        // Those that became idle since they were told of, or were passed over.
        let mut fresh = KVec::from_elem(true, PAGES, GFP_KERNEL)?;
        let mut again = KVec::from_elem(false, PAGES, GFP_KERNEL)?;
        // Those that are to be passed over, when some more has happened.
        let mut held: KVec<(u32, usize)> = KVec::new();
        let mut n_again = 0;
        let mut live: KVec<(Slice, usize)> = KVec::new();
        let mut random = Random(5);
        let pages = |slice: &Slice, size: usize| {
            let start = slice.offset / GRANULE;
            start / PAGE as usize..(start + size - 1) / PAGE as usize + 1
        };
        for round in 0..30_000 {
            if random.next(5) < 3 {
                let most = 1 << random.next(9);
                let size = 1 + random.next(most);
                if let Some(slice) = alloc(&mut s, size as u32)? {
                    for page in pages(&slice, size) {
                        users[page] += 1;
                        fresh[page] = false;
                        again[page] = false;
                    }
                    live.push((slice, size), GFP_KERNEL)?;
                }
            } else if !live.is_empty() {
                let at = random.next(live.len());
                let last = live.len() - 1;
                live.swap(at, last);
                if let Some((slice, size)) = live.pop() {
                    for page in pages(&slice, size) {
                        users[page] -= 1;
                        fresh[page] = users[page] == 0;
                    }
                    s.free(slice.id);
                }
            }
            let n_idle = users.iter().filter(|n| **n == 0).count();
            assert!(s.max_idle(PAGES) > 0 || fresh.iter().all(|fresh| !*fresh));
            while let Some((block, page)) = held.pop() {
                s.passed_over(block, page as u32);
                // Not if it was wanted meanwhile.
                if users[page] == 0 {
                    again[page] = true;
                }
            }
            assert!(s.max_idle(PAGES) > 0 || again.iter().all(|again| !*again));
            if round % 14 == 0 {
                // To the end first.
                while let Some((_, idle)) = s.idle() {
                    fresh[idle.clone()].fill(false);
                    again[idle.clone()].fill(false);
                    s.looked_at(idle.end);
                }
                s.look_again();
                for page in 0..PAGES {
                    n_again += usize::from(again[page]);
                    fresh[page] |= again[page];
                    again[page] = false;
                }
            }
            if round % 7 != 0 {
                continue;
            }
            // A part of it, or all.
            let mut left = if round % 2 == 0 { 3 } else { PAGES };
            while left > 0 {
                let Some((block, idle)) = s.idle() else {
                    // Nothing was missed.
                    assert!(fresh.iter().all(|fresh| !*fresh));
                    let waits = again.iter().any(|again| *again) || !held.is_empty();
                    assert!(s.max_idle(PAGES) == 0 || waits);
                    break;
                };
                let end = idle.end.min(idle.start + left);
                for page in idle.start..end {
                    assert_eq!(users[page], 0);
                    fresh[page] = false;
                    again[page] = false;
                    if random.next(2) == 0 {
                        held.push((block, page), GFP_KERNEL)?;
                    }
                }
                left -= end - idle.start;
                s.looked_at(end);
            }
            assert!(fresh.iter().filter(|fresh| **fresh).count() <= n_idle);
        }
        kernel::pr_info!("slices: {} pages were looked at again\n", n_again);
        assert!(n_again > 10);
        Ok(())
    }
}
