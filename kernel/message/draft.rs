// SPDX-License-Identifier: GPL-2.0-only

//! Messages that are being made: who has a [`Draft`] has the message alone, and writes it.

use super::{Extra, Message, Written, FOR_USER, INLINE, SENT, UNSENT};

use crate::baggage::Baggage;
use crate::item::{Commit, Item};
use crate::limits::Limit;
use crate::node::{Grant, NodeRef};
use crate::passed::{Passed, PassedList};
use crate::peer::{Peer, Woken};
use crate::pool::read_inline;
use crate::quota::Amounts;
use crate::room::{Account, AccountRef};
use crate::slices::{Slice, GRANULE};
use crate::user::Payload;
use core::cell::UnsafeCell;
use core::mem::{ManuallyDrop, MaybeUninit};
use kernel::list::ListArc;
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Relaxed, Atomic};
use kernel::sync::Arc;
use kernel::types::Opaque;

/// A message that is not linked yet: nobody else can see it. Not to be dropped under a lock.
pub(crate) struct Draft(ListArc<Item<Message>>);

impl Draft {
    /// EDQUOT if its sender has too many on their way; handles count as messages do.
    #[inline(always)]
    pub(crate) fn new(
        from: &Peer,
        node: NodeRef,
        len: usize,
        priority: u8,
        n_handles: usize,
    ) -> Result<Self> {
        let user = from.user;
        user.charge(Limit::Messages, 1 + n_handles)?;
        let charged = user.as_ptr().cast::<Account>().wrapping_byte_add(FOR_USER);
        Self::charged(charged, node, len, priority, n_handles)
            .inspect_err(|_| user.discharge(Limit::Messages, 1 + n_handles))
    }

    #[inline(always)]
    fn charged(
        charged: *mut Account,
        node: NodeRef,
        len: usize,
        priority: u8,
        n_handles: usize,
    ) -> Result<Self> {
        let memory = node.owner.spare.take()?;
        let message = memory.pin_init_with(Item::new(try_pin_init!(Message {
                node,
                written: UnsafeCell::new(Written {
                    slice: Slice { id: 0, offset: 0 },
                    extra: ManuallyDrop::new(Extra {
                        passed: PassedList::new(),
                        baggage: None,
                    }),
                }),
                charged: Atomic::new(charged),
                len: Atomic::new(len as u32),
                extras: Atomic::new(n_handles as i16),
                fate: Atomic::new(UNSENT),
                priority,
                is_plain: Atomic::new(true),
                inline <- Opaque::ffi_init(|_| ()),
            }? Error)))?;
        Ok(Self(message.into()))
    }

    #[inline]
    fn written(&mut self) -> &mut Written {
        // SAFETY: We have the only reference to the message.
        unsafe { &mut *self.0.written.get() }
    }

    /// It is to bring so many files, too; before it is booked. EDQUOT if its sender has too many on
    /// their way.
    pub(crate) fn charge_files(&self, from: &Peer, n: usize) -> Result {
        if n != 0 {
            from.user.charge(Limit::Files, n)?;
            let n_handles = self.0.extras.load(Relaxed);
            self.0.extras.store((n << 8) as i16 | n_handles, Relaxed);
        }
        Ok(())
    }

    /// Charges it at the receiver, before anything is made for what it brings; unless it takes a slice,
    /// since then that does it. As [`Peer::link`].
    pub(crate) fn book(&self, from: &Peer, account: AccountRef) -> Result {
        if self.len() > INLINE || self.is_booked() {
            return Ok(());
        }
        self.0.node.owner.inner.lock().book_in(self, from, account)
    }

    /// Whether it is charged at the receiver.
    #[inline]
    pub(crate) fn is_booked(&self) -> bool {
        self.0.charged.load(Relaxed).addr() & FOR_USER == 0
    }

    #[inline]
    pub(crate) fn set_booked(&self, account: AccountRef) {
        self.0.charged.store(account.as_ptr(), Relaxed);
    }

    #[inline(always)]
    pub(crate) fn amounts(&self) -> Amounts {
        self.0.amounts()
    }

    #[inline(always)]
    pub(crate) fn is_small(&self) -> bool {
        self.0.is_small()
    }

    /// It is charged for itself and one handle.
    #[inline(always)]
    pub(crate) fn is_one_handle(&self) -> bool {
        self.len() <= INLINE && self.0.extras.load(Relaxed) == 1
    }

    /// Copies the payload, inline or to a slice. EFAULT, and what [`Peer::reserve`] fails with.
    #[inline(always)]
    pub(crate) fn fill(&mut self, from: &Peer, account: AccountRef, payload: &Payload) -> Result {
        let len = payload.len();
        if len <= INLINE {
            let place = self.0.inline.get().cast::<MaybeUninit<u8>>();
            // SAFETY: The place is valid, we have the only reference, and it is as good as
            // uninitialised.
            let to = unsafe { core::slice::from_raw_parts_mut(place, len) };
            return read_inline(payload, to);
        }
        let slice = self.0.node.owner.reserve(self, from, account)?;
        self.written().slice = slice;
        let pool = self.0.node.owner.pool().ok_or(EINVAL)?;
        pool.fill(slice.offset, payload)
    }

    /// Announces one handle to the receiver. EHOSTUNREACH, EDQUOT.
    #[inline]
    pub(crate) fn admit(&mut self, grant: &Grant) -> Result {
        let passed = self.0.node.owner.admit(grant)?;
        self.set_only(passed);
        Ok(())
    }

    #[inline]
    pub(crate) fn set_only(&mut self, passed: Passed) {
        self.0.is_plain.store(false, Relaxed);
        let list = &raw mut self.written().extra.passed;
        // SAFETY: There is none in it yet, so that nothing is to be dropped.
        unsafe { list.write(PassedList::one(passed)) };
    }

    /// What a reply to a call of a peer's may take at most, set aside: it is charged to nobody
    /// but by what it is. EMSGSIZE if there is never so much, EAGAIN if it is not there now.
    pub(crate) fn for_reply(caller: &Arc<Peer>, len: usize) -> Result<Self> {
        let mut draft = Self::charged(core::ptr::null_mut(), caller.reply_node()?, len, 0, 0)?;
        let granules = draft.amounts().granules();
        if granules != 0 {
            draft.written().slice = caller.reserve_reply(granules)?;
            // Nothing is copied there yet.
            draft.set_sent();
        }
        Ok(draft)
    }

    /// Copies a payload of a reply, of no more than it was made for. EFAULT; EDQUOT and ENOMEM, of the
    /// memory of the pool.
    pub(crate) fn fill_reply(&mut self, payload: &Payload) -> Result {
        self.0.fate.store(UNSENT, Relaxed);
        self.0.len.store(payload.len() as u32, Relaxed);
        if let Some(slice) = self.0.slice() {
            let pool = self.0.node.owner.pool().ok_or(EINVAL)?;
            return pool.fill(slice.offset, payload);
        }
        let place = self.0.inline.get().cast::<MaybeUninit<u8>>();
        // SAFETY: As in `fill`.
        let to = unsafe { core::slice::from_raw_parts_mut(place, payload.len().min(INLINE)) };
        read_inline(payload, to)
    }

    /// It could not be completed: nothing of it is to be seen.
    pub(crate) fn clear_reply(&self) {
        if let Some(slice) = self.0.slice() {
            self.0.node.owner.zero(slice, self.len());
        }
        self.set_sent();
    }

    /// It is what its caller gets: what is left of the space, which was for `most` bytes, goes back.
    pub(crate) fn finish_reply(&self, most: usize) {
        self.set_sent();
        let granules = self.len().div_ceil(GRANULE).max(1);
        if granules == most.div_ceil(GRANULE) {
            return;
        }
        if let Some(slice) = self.0.slice() {
            let owner = &self.0.node.owner;
            let granules = granules as u32;
            let mut inner = owner.inner.lock();
            inner.slices.shrink(slice.id, granules);
            owner.unlock_room(inner);
        }
    }

    /// It is sent, though it is in no queue.
    pub(crate) fn set_sent(&self) {
        if self.0.slice().is_some() {
            self.0.fate.store(SENT, Relaxed);
        }
    }

    pub(crate) fn get(&self) -> &Message {
        &self.0
    }

    /// It was received, by the peer whose node it is for, or will not be: its memory is for the next.
    #[inline]
    pub(crate) fn recycle(self, owner: &Peer) {
        owner.spare.put(self.0.into_arc());
    }

    /// It is booked, and about to be linked.
    #[inline]
    pub(crate) fn into_message(self) -> ListArc<Item<Message>> {
        self.set_sent();
        self.0
    }

    /// Links the message, which brings a handle that the receiver has already. Gives it back if it
    /// is not that simple.
    #[inline(always)]
    pub(crate) fn link_known(
        self,
        from: &Peer,
        account: AccountRef,
        grant: &Grant,
    ) -> core::result::Result<Woken, Self> {
        let owner = Arc::as_ptr(&self.0.node.owner);
        // SAFETY: As in `link`.
        unsafe { (*owner).link_known(self, from, account, grant) }
    }

    pub(crate) fn set_passed(&mut self, passed: PassedList) {
        self.0.is_plain.store(false, Relaxed);
        self.written().extra.passed = passed;
    }

    pub(crate) fn set_baggage(&mut self, baggage: KBox<Baggage>) {
        self.0.is_plain.store(false, Relaxed);
        self.written().extra.baggage = Some(baggage);
    }

    #[inline]
    pub(crate) fn node(&self) -> &NodeRef {
        &self.0.node
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(crate) fn priority(&self) -> u8 {
        self.0.priority
    }

    /// Links the message to its node: it is sent. Returns who is to be woken. As [`Peer::link`].
    #[inline(always)]
    pub(crate) fn link(
        self,
        from: &Peer,
        account: AccountRef,
        commit: Option<&Arc<Commit>>,
    ) -> Result<Woken> {
        let owner = Arc::as_ptr(&self.0.node.owner);
        // SAFETY: The message keeps its node, and that its owner. Once it is linked it may be
        // gone, but not before the lock is given back, and that is the last we do with the owner.
        unsafe { (*owner).link(self, from, account, commit) }
    }

    /// For [`Message`]s of a multicast: to settle, or to take back.
    pub(crate) fn message(&self) -> Arc<Item<Message>> {
        self.0.clone_arc()
    }
}
