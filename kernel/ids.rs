// SPDX-License-Identifier: GPL-2.0-only

//! A table of values by 64-bit id, in constant time, whose ids are never used twice.
//!
//! An id is the index of a slot plus one, and above it how often the slot was used before: small
//! numbers at first, and stale ones are told from live ones without a search. A slot whose
//! counter is used up is retired.
//!
//! Values can also be found by what they are, if they tell a hash of that: linear hashing, with as many
//! buckets as there are slots, whose heads and chains are in the slots themselves. So it takes no
//! memory of its own, and a chunk that is added splits just the buckets that it makes.
//!
//! The table grows by chunks that the caller allocates before it takes the lock that the table is
//! under: see [`IdTable::growth`]. It never shrinks while it lives.

use core::mem;
use kernel::prelude::*;

const CHUNK: usize = 32;

/// What is in a table.
pub(crate) trait Hashed {
    /// Whether any of them is.
    const HASHED: bool = true;
    /// Of what [`IdTable::find`] looks for, or `None` if it is not to be found. Never changes.
    fn hash(&self) -> Option<u64>;
}

struct Slot<T> {
    uses: u32,
    /// Of a free slot: the next free one. Else: the next one in the same bucket.
    next: u32,
    /// The first one in the bucket with the number of this slot.
    head: u32,
    value: Option<T>,
}

type Chunk<T> = KVec<Slot<T>>;

/// No slot.
const NONE: u32 = u32::MAX;

pub(crate) struct IdTable<T> {
    chunks: KVVec<Chunk<T>>,
    free: u32,
    n_free: usize,
    len: usize,
}

/// Memory for a table that is to grow, allocated outside of its lock.
pub(crate) struct Growth<T> {
    chunk: Chunk<T>,
    /// A larger directory, if the old one is full.
    chunks: Option<KVVec<Chunk<T>>>,
}

/// What a [`Growth`] has to bring: tells the size of the directory.
#[derive(Clone, Copy)]
pub(crate) struct Need(usize, bool);

impl<T> Growth<T> {
    pub(crate) fn new(need: Need) -> Result<Self> {
        let mut chunk = KVec::with_capacity(CHUNK, GFP_KERNEL_ACCOUNT)?;
        while chunk.len() < CHUNK {
            chunk.push_within_capacity(Slot {
                uses: 0,
                next: NONE,
                head: NONE,
                value: None,
            })?;
        }
        let chunks = if need.1 {
            Some(KVVec::with_capacity(
                (need.0 * 2).max(4),
                GFP_KERNEL_ACCOUNT,
            )?)
        } else {
            None
        };
        Ok(Self { chunk, chunks })
    }
}

/// The bucket of a hash, if there are `n`, at least one: those that are not there yet are in the
/// one that they are split from.
fn bucket(hash: u64, n: u32) -> u32 {
    let mask = u32::MAX >> (n - 1).leading_zeros().min(31);
    // The upper half is the better one of a product.
    let number = (hash >> 32) as u32 & mask;
    if number < n {
        number
    } else {
        number & (mask >> 1)
    }
}

impl<T: Hashed> IdTable<T> {
    pub(crate) const fn new() -> Self {
        Self {
            chunks: KVVec::new(),
            free: NONE,
            n_free: 0,
            len: 0,
        }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What is needed before `n` more values can be inserted, or `None` if nothing is.
    pub(crate) fn growth(&self, n: usize) -> Option<Need> {
        if self.n_free >= n {
            return None;
        }
        let n_chunks = self.chunks.len();
        Some(Need(n_chunks, n_chunks == self.chunks.capacity()))
    }

    /// Takes the memory in, as far as it still fits: the table may have changed since
    /// [`growth`](Self::growth), so ask that again. What is left is the caller's to drop, outside
    /// of the lock.
    pub(crate) fn grow(&mut self, mut growth: Growth<T>) -> Option<Growth<T>> {
        if self.chunks.len() == self.chunks.capacity() {
            match growth.chunks.take() {
                Some(mut chunks) if chunks.capacity() > self.chunks.len() => {
                    for chunk in self.chunks.drain_all() {
                        // There is room: no allocation, and no error.
                        let _ = chunks.push_within_capacity(chunk);
                    }
                    growth.chunks = Some(mem::replace(&mut self.chunks, chunks));
                }
                _ => return Some(growth),
            }
        }
        let base = self.chunks.len() * CHUNK;
        let chunk = mem::replace(&mut growth.chunk, KVec::new());
        if self.chunks.push_within_capacity(chunk).is_err() {
            return Some(growth);
        }
        for index in (base..base + CHUNK).rev() {
            self.put_free(index as u32);
        }
        if base > 0 {
            let n = (base + CHUNK) as u32;
            let half = ((n.next_power_of_two() - 1) >> 1) as usize;
            for number in base..base + CHUNK {
                self.split((number & half) as u32, n);
            }
        }
        Some(growth)
    }

    /// Indices are less than this.
    pub(crate) fn slots(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    /// Sorts what is in a bucket anew, now that there are `n`.
    fn split(&mut self, number: u32, n: u32) {
        let Some(slot) = self.slot_mut(number) else {
            return;
        };
        let mut index = mem::replace(&mut slot.head, NONE);
        while let Some(slot) = self.slot(index) {
            let next = slot.next;
            if let Some(hash) = slot.value.as_ref().and_then(T::hash) {
                self.chain(index, bucket(hash, n));
            }
            index = next;
        }
    }

    /// Puts a slot into a bucket.
    #[inline]
    fn chain(&mut self, index: u32, number: u32) {
        let Some(slot) = self.slot_mut(number) else {
            return;
        };
        let head = mem::replace(&mut slot.head, index);
        if let Some(slot) = self.slot_mut(index) {
            slot.next = head;
        }
    }

    /// Takes a slot out of its bucket.
    #[inline]
    fn unchain(&mut self, index: u32, hash: u64) {
        let number = bucket(hash, self.slots());
        let after = self.slot(index).map_or(NONE, |slot| slot.next);
        let Some(slot) = self.slot_mut(number) else {
            return;
        };
        if slot.head == index {
            slot.head = after;
            return;
        }
        let mut before = slot.head;
        while let Some(slot) = self.slot_mut(before) {
            if slot.next == index {
                slot.next = after;
                return;
            }
            before = slot.next;
        }
    }

    /// A value with a hash for which `is` says so.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&T> {
        if self.chunks.is_empty() {
            return None;
        }
        let mut index = self.slot(bucket(hash, self.slots()))?.head;
        while let Some(slot) = self.slot(index) {
            if let Some(value) = slot.value.as_ref().filter(|value| is(value)) {
                return Some(value);
            }
            index = slot.next;
        }
        None
    }

    /// All values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let slots = self.chunks.iter().flat_map(|chunk| chunk.iter());
        slots.filter_map(|slot| slot.value.as_ref())
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        self.chunks
            .get(index as usize / CHUNK)?
            .get(index as usize % CHUNK)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        self.chunks
            .get_mut(index as usize / CHUNK)?
            .get_mut(index as usize % CHUNK)
    }

    fn put_free(&mut self, index: u32) {
        let free = self.free;
        if let Some(slot) = self.slot_mut(index) {
            slot.next = free;
            self.free = index;
            self.n_free += 1;
        }
    }

    /// The id that the next [`insert`](Self::insert) will give.
    pub(crate) fn next_id(&self) -> Option<u64> {
        let uses = self.slot(self.free)?.uses;
        Some(u64::from(uses) << 32 | u64::from(self.free + 1))
    }

    /// Adds a value and returns its id; gives the value back if there is no free slot, which
    /// [`growth`](Self::growth) tells before.
    pub(crate) fn insert(&mut self, value: T) -> core::result::Result<u64, T> {
        let Some(id) = self.next_id() else {
            return Err(value);
        };
        let index = self.free;
        let Some(slot) = self.slot_mut(index) else {
            return Err(value);
        };
        let hash = value.hash();
        slot.value = Some(value);
        let next = slot.next;
        self.free = next;
        self.n_free -= 1;
        self.len += 1;
        if let Some(hash) = hash {
            self.chain(index, bucket(hash, self.slots()));
        }
        Ok(id)
    }

    /// The index of an id's slot, for [`at`](Self::at).
    pub(crate) fn index(id: u64) -> u32 {
        (id as u32).wrapping_sub(1)
    }

    /// The id of the value at an index.
    pub(crate) fn id_at(&self, index: u32) -> u64 {
        self.slot(index)
            .map_or(0, |s| u64::from(s.uses) << 32 | u64::from(index + 1))
    }

    /// The value at an index, for tables whose values refer to one another.
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.slot(index)?.value.as_ref()
    }

    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slot_mut(index)?.value.as_mut()
    }

    pub(crate) fn get(&self, id: u64) -> Option<&T> {
        let slot = self.slot(Self::index(id))?;
        if slot.uses == (id >> 32) as u32 {
            slot.value.as_ref()
        } else {
            None
        }
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        let slot = self.slot_mut(Self::index(id))?;
        if slot.uses == (id >> 32) as u32 {
            slot.value.as_mut()
        } else {
            None
        }
    }

    /// Gives a value a new id, with the same index. False if there is no id left with that.
    #[inline(always)]
    pub(crate) fn renew(&mut self, id: u64) -> bool {
        match self.slot_mut(Self::index(id)) {
            Some(slot) if slot.uses != u32::MAX => {
                slot.uses += 1;
                true
            }
            _ => false,
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        self.remove_if(id, |_| Ok(()))?.ok()
    }

    /// Removes a value if `may` says so, or returns its error; or `None` if it is not there.
    #[inline(always)]
    pub(crate) fn remove_if(
        &mut self,
        id: u64,
        may: impl FnOnce(&T) -> Result,
    ) -> Option<Result<T>> {
        let index = Self::index(id);
        let mut may = Some(may);
        if T::HASHED {
            let value = self.get(id)?;
            if let Some(Err(e)) = may.take().map(|may| may(value)) {
                return Some(Err(e));
            }
            if let Some(hash) = value.hash() {
                self.unchain(index, hash);
            }
        }
        let free = self.free;
        let slot = self.slot_mut(index)?;
        if slot.uses != (id >> 32) as u32 {
            return None;
        }
        let value = slot.value.as_ref()?;
        if let Some(Err(e)) = may.map(|may| may(value)) {
            return Some(Err(e));
        }
        let value = slot.value.take()?;
        // A slot that started over would give old ids again: it is retired.
        if slot.uses != u32::MAX {
            slot.uses += 1;
            slot.next = free;
            self.free = index;
            self.n_free += 1;
        }
        self.len -= 1;
        Some(Ok(value))
    }

    /// Takes all values out, one after the other.
    pub(crate) fn drain(self) -> impl Iterator<Item = T> {
        self.chunks
            .into_iter()
            .flat_map(|chunk| chunk.into_iter())
            .filter_map(|slot| slot.value)
    }
}

#[kernel::macros::kunit_tests(bus1_ids)]
mod tests {
    use super::*;

    impl Hashed for u64 {
        /// Few values, so that there are long chains, too.
        fn hash(&self) -> Option<u64> {
            (*self % 3 != 0).then_some((self / 2) << 32)
        }
    }

    #[test]
    fn what_has_a_hash_is_found() -> Result {
        const N: u64 = 3000;
        let mut t = IdTable::new();
        let mut ids = KVec::new();
        let find = |t: &IdTable<u64>, v: u64| t.find((v / 2) << 32, |x| *x == v).copied();
        for i in 0..N {
            while let Some(need) = t.growth(1) {
                drop(t.grow(Growth::new(need)?));
            }
            assert_eq!(find(&t, i), None);
            ids.push(t.insert(i).map_err(|_| EINVAL)?, GFP_KERNEL)?;
        }
        for i in 0..N {
            assert_eq!(find(&t, i), (i % 3 != 0).then_some(i));
        }
        for (i, id) in ids.iter().enumerate().rev() {
            if i % 5 != 0 {
                assert_eq!(t.remove(*id), Some(i as u64));
            }
        }
        for i in 0..N {
            assert_eq!(find(&t, i), (i % 3 != 0 && i % 5 == 0).then_some(i));
        }
        assert_eq!(t.iter().count(), (N as usize).div_ceil(5));
        Ok(())
    }

    fn grown(n: usize) -> Result<IdTable<u64>> {
        let mut t = IdTable::new();
        while let Some(need) = t.growth(n) {
            drop(t.grow(Growth::new(need)?));
        }
        Ok(t)
    }

    #[test]
    fn ids_start_at_one_and_are_never_reused() -> Result {
        let mut t = grown(1)?;
        let first = t.insert(7).map_err(|_| EINVAL)?;
        assert_eq!(first, 1);
        let mut last = first;
        for _ in 0..100 {
            assert_eq!(t.remove(last), Some(7));
            assert_eq!(t.remove(last), None);
            assert_eq!(t.get(last), None);
            let id = t.insert(7).map_err(|_| EINVAL)?;
            assert!(id != last && id != first && id != 0);
            last = id;
        }
        assert_eq!(t.len(), 1);
        Ok(())
    }

    #[test]
    fn grows_and_keeps_what_it_has() -> Result {
        let mut t = grown(1)?;
        let mut ids = KVec::new();
        for i in 0..1000u64 {
            while let Some(need) = t.growth(1) {
                drop(t.grow(Growth::new(need)?));
            }
            ids.push(t.insert(i).map_err(|_| EINVAL)?, GFP_KERNEL)?;
        }
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(t.get(*id), Some(&(i as u64)));
            assert_eq!(t.at(IdTable::<u64>::index(*id)), Some(&(i as u64)));
        }
        assert_eq!(t.len(), 1000);
        assert_eq!(t.drain().count(), 1000);
        Ok(())
    }

    #[test]
    fn unknown_ids_are_not_found() -> Result {
        let mut t = grown(1)?;
        for id in [0u64, 1, 2, 1 << 32, u64::MAX, u64::from(u32::MAX)] {
            assert_eq!(t.get(id), None);
            assert_eq!(t.remove(id), None);
        }
        Ok(())
    }

    #[test]
    fn a_slot_whose_ids_are_used_up_is_retired() -> Result {
        let mut t = grown(1)?;
        let id = t.insert(1).map_err(|_| EINVAL)?;
        let index = IdTable::<u64>::index(id);
        if let Some(slot) = t.slot_mut(index) {
            slot.uses = u32::MAX;
        }
        let last = t.id_at(index);
        assert_eq!(t.remove(last), Some(1));
        for _ in 0..CHUNK - 1 {
            let id = t.insert(2).map_err(|_| EINVAL)?;
            assert!(IdTable::<u64>::index(id) != index);
        }
        assert!(t.insert(3).is_err());
        Ok(())
    }
}
