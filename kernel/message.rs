// SPDX-License-Identifier: GPL-2.0-only

//! Messages, and what else a receiver finds in its queue.

use crate::abi::{self, bus1_handle};
use crate::baggage::Baggage;
use crate::bridge::Stat;
use crate::call::Call;
use crate::handle::{Grade, Handle, HandleRef};
use crate::item::{Commit, Deliver, DynItem, Item, Ready, Tag};
use crate::limits::{Limit, UserRef};
use crate::node::{Grant, Node, NodeRef, Use};
use crate::peer::{Inner, Peer, Woken};
use crate::pool::read_inline;
use crate::quota::Amounts;
use crate::room::{Account, AccountRef};
use crate::slices::{Slice, GRANULE};
use crate::user::Payload;
use core::cell::UnsafeCell;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ops::Deref;
use kernel::list::ListArc;
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Relaxed, Atomic};
use kernel::sync::Arc;
use kernel::types::Opaque;

/// Payloads up to this many bytes travel inside the message. Chosen so that a message fits the
/// allocator's size class of 256 bytes.
pub(crate) const INLINE: usize = 96;

/// What an item in a queue is.
#[derive(Clone, Copy)]
pub(crate) enum Kind<'a> {
    Message(&'a Message),
    /// The notice that the handle's node died.
    Dead(&'a Handle),
    /// The notice that the node is unused.
    Unused(&'a Node),
    /// A request, the reply to one, or the notice that it is cancelled: the call says which.
    Call(&'a Call),
    #[cfg(CONFIG_KUNIT = "y")]
    Test(&'a crate::item::Number),
}

impl<'a> Kind<'a> {
    #[inline]
    pub(crate) fn of(item: &'a DynItem) -> Self {
        let thin = core::ptr::from_ref(item);
        match item.tag() {
            // SAFETY: An item is of the type that its tag names: see `Deliver`.
            Tag::Message => Self::Message(unsafe { &(*thin.cast::<Item<Message>>()).body }),
            // SAFETY: As above.
            Tag::Handle => Self::Dead(unsafe { &(*thin.cast::<Item<Handle>>()).body }),
            // SAFETY: As above.
            Tag::Node => Self::Unused(unsafe { &(*thin.cast::<Item<Node>>()).body }),
            // SAFETY: As above.
            Tag::Call => Self::Call(unsafe { &(*thin.cast::<Item<Call>>()).body }),
            #[cfg(CONFIG_KUNIT = "y")]
            // SAFETY: As above.
            Tag::Test => Self::Test(unsafe { &(*thin.cast::<Item<crate::item::Number>>()).body }),
        }
    }

    /// A request that stands in the queue. Likewise.
    #[inline]
    pub(crate) fn is_request(self) -> bool {
        matches!(self, Self::Call(c) if c.is_queued())
    }

    /// Whether it may be received. With the lock of its home peer held.
    #[inline(always)]
    pub(crate) fn ready(self) -> Ready {
        match self {
            Self::Message(m) if m.node.is_dead() => Ready::Never,
            Self::Message(_) => Ready::Yes,
            Self::Dead(h) => h.ready(),
            Self::Unused(n) => n.ready(),
            Self::Call(c) => c.ready(),
            #[cfg(CONFIG_KUNIT = "y")]
            Self::Test(t) => t.ready(),
        }
    }
}

/// A handle on its way.
pub(crate) enum Passed {
    /// Of the receiver: it is counted as coming.
    Handle(HandleRef),
    /// The receiver owns the node.
    Own(Use),
}

impl Passed {
    /// As user space gets to see it.
    pub(crate) fn describe(&self) -> bus1_handle {
        let (node, id, cookie, flags, grade, dead) = match self {
            Self::Handle(h) => {
                let weak = if h.grade.is_weak() {
                    abi::BUS1_HANDLE_WEAK
                } else {
                    0
                };
                (&h.node, h.id.load(Relaxed), 0, weak, h.grade, h.is_dead())
            }
            Self::Own(u) => {
                let node = u.node();
                let id = node.id.load(Relaxed);
                let own = abi::BUS1_HANDLE_OWN;
                (node, id, node.cookie, own, Grade::OWNER, node.is_gone())
            }
        };
        let once = if node.is_once {
            abi::BUS1_HANDLE_ONCE
        } else {
            0
        };
        let dead = if dead { abi::BUS1_HANDLE_DEAD } else { 0 };
        bus1_handle {
            id,
            cookie,
            flags: flags | once | dead,
            rights: grade.rights(),
        }
    }
}

/// Small, since every message has it.
enum Few {
    None,
    One([Passed; 1]),
    Many(KBox<KVVec<Passed>>),
}

/// Handles on their way to one peer. Unless the receiver [has](Self::finish) them, they are given up
/// on drop, which must not be under a lock.
pub(crate) struct PassedList {
    list: Few,
    taken: Atomic<bool>,
}

impl PassedList {
    #[inline]
    pub(crate) const fn new() -> Self {
        Self {
            list: Few::None,
            taken: Atomic::new(false),
        }
    }

    #[inline]
    fn one(passed: Passed) -> Self {
        Self {
            list: Few::One([passed]),
            taken: Atomic::new(false),
        }
    }

    /// Announces handles to a peer. EHOSTUNREACH if it is closed, EDQUOT if it has too many.
    pub(crate) fn admit(to: &Arc<Peer>, grants: &[Grant]) -> Result<Self> {
        if let [grant] = grants {
            return Ok(Self::one(to.admit(grant)?));
        }
        let list = KVVec::with_capacity(grants.len(), GFP_KERNEL_ACCOUNT)?;
        let mut list = KBox::new(list, GFP_KERNEL_ACCOUNT)?;
        let taken = Atomic::new(false);
        let mut passed = Self {
            list: Few::None,
            taken,
        };
        for grant in grants {
            match to.admit(grant) {
                Ok(p) => list.push_within_capacity(p)?,
                Err(e) => {
                    passed.list = Few::Many(list);
                    return Err(e);
                }
            }
        }
        passed.list = Few::Many(list);
        Ok(passed)
    }

    /// Announces handles to a peer and lets it have them, if `tell` can tell what they are there: its
    /// caller's ids of them stay meanwhile, as in the hand of a receiver.
    pub(crate) fn deliver<T>(
        to: &Arc<Peer>,
        grants: &[Grant],
        tell: impl FnOnce(&[Passed]) -> Result<T>,
    ) -> Result<(Self, T)> {
        let passed = Self::admit(to, grants)?;
        {
            let _inner = to.inner.lock();
            passed.add_in_hand(1);
        }
        let told = tell(&passed);
        let dead = passed.finish(&mut to.inner.lock(), told.is_ok());
        if dead {
            to.wake();
        }
        Ok((passed, told?))
    }

    /// The receiver that has them in its hand is done; it has them now, if it `takes` them: each coming
    /// one becomes a count. True if one of them is dead, and its notice may now be received.
    #[inline(always)]
    pub(crate) fn finish(&self, peer: &mut Inner, takes: bool) -> bool {
        let mut dead = false;
        for passed in self.iter() {
            if let Passed::Handle(h) = passed {
                h.add_in_hand(-1);
                if takes {
                    h.add_coming(-1, peer);
                    h.add_count(1, peer);
                    h.charge();
                    dead |= h.is_dead();
                }
            }
        }
        self.taken.store(takes, Relaxed);
        dead
    }

    /// A receiver takes them into its hand, or is done. With the peer's lock held.
    #[inline]
    pub(crate) fn add_in_hand(&self, n: i64) {
        for passed in self.iter() {
            if let Passed::Handle(h) = passed {
                h.add_in_hand(n);
            }
        }
    }
}

impl Deref for PassedList {
    type Target = [Passed];

    #[inline]
    fn deref(&self) -> &[Passed] {
        match &self.list {
            Few::None => &[],
            Few::One(one) => one,
            Few::Many(many) => many,
        }
    }
}

impl Drop for PassedList {
    #[inline]
    fn drop(&mut self) {
        if !self.taken.load(Relaxed) {
            for passed in self.iter() {
                if let Passed::Handle(h) = passed {
                    h.peer.give_up(h);
                }
            }
        }
    }
}

#[pin_data(PinnedDrop)]
pub(crate) struct Message {
    /// Or the facet that it was sent to.
    pub(crate) node: NodeRef,
    /// Written by a [`Draft`] alone.
    written: UnsafeCell<Written>,
    /// What it is charged to: nothing, if it is null; [a user](FOR_USER) alone, if it is not in the
    /// owner's book; or an account there, and its user. Under the owner's lock, once it is linked.
    charged: Atomic<*mut Account>,
    /// Of a reply it is first how much is set aside for it. Set by a [`Draft`] alone.
    len: Atomic<u32>,
    /// What it is charged for besides its payload: handles, and files in the upper byte. Set by a
    /// [`Draft`] alone.
    extras: Atomic<i16>,
    /// Of the slice, if there is one.
    fate: Atomic<i8>,
    pub(crate) priority: u8,
    /// There is nothing in `extra`, and it need not be looked at. Set by a [`Draft`] alone.
    is_plain: Atomic<bool>,
    /// The first `len` bytes are set, if there is no slice.
    #[pin]
    inline: Opaque<[u8; INLINE]>,
}

// The slab's size class of 256 bytes, with the count of references. Debugging locks are larger.
#[cfg(not(CONFIG_LOCKDEP))]
const _: () = assert!(core::mem::size_of::<Item<Message>>() + 8 <= 256);

struct Written {
    /// In the pool of the node's owner. Its id is 0 if the payload is inline.
    slice: Slice,
    extra: ManuallyDrop<Extra>,
}

/// What only some messages have.
struct Extra {
    passed: PassedList,
    baggage: Option<KBox<Baggage>>,
}

/// In the place of an account, in the lowest bit: the rest is the address of a user.
const FOR_USER: usize = 1;

const _: () = assert!(abi::BUS1_MAX_HANDLES < 256 && abi::BUS1_MAX_FDS < 256);

/// What becomes of a slice when its message is dropped: it is zeroed and freed; freed, since it was
/// sent; or left, since user space has it.
const UNSENT: i8 = 0;
const SENT: i8 = 1;
const TAKEN: i8 = 2;

// SAFETY: `written` and `inline` are written only by a `Draft`, which has the message alone.
unsafe impl Send for Message {}
// SAFETY: As above.
unsafe impl Sync for Message {}

#[pinned_drop]
impl PinnedDrop for Message {
    #[inline]
    fn drop(self: Pin<&mut Self>) {
        if !self.charged.load(Relaxed).is_null() || self.has_own_slice() {
            self.give_back();
        }
        if !self.is_plain() {
            // SAFETY: The only reference, and nobody looks at it after this.
            unsafe { ManuallyDrop::drop(&mut (*self.written.get()).extra) };
        }
    }
}

// SAFETY: The one type of that tag.
unsafe impl Deliver for Message {
    const TAG: Tag = Tag::Message;
}

impl Message {
    #[inline]
    fn written(&self) -> &Written {
        // SAFETY: Not written any more: a `Draft` gives nobody else a reference.
        unsafe { &*self.written.get() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed) as usize
    }

    #[inline]
    pub(crate) fn slice(&self) -> Option<Slice> {
        let slice = self.written().slice;
        (slice.id != 0).then_some(slice)
    }

    /// It brings its payload and nothing else.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.is_plain.load(Relaxed)
    }

    #[inline]
    pub(crate) fn passed(&self) -> &PassedList {
        &self.written().extra.passed
    }

    #[inline]
    pub(crate) fn baggage(&self) -> Option<&Baggage> {
        self.written().extra.baggage.as_deref()
    }

    #[inline]
    pub(crate) fn inline(&self) -> &[u8] {
        let len = if self.slice().is_some() {
            0
        } else {
            self.len()
        };
        // SAFETY: Set by `Draft::fill`, without which no message is linked.
        unsafe { core::slice::from_raw_parts(self.inline.get().cast(), len) }
    }

    /// What it is charged for.
    #[inline(always)]
    fn amounts(&self) -> Amounts {
        let extras = u32::from(self.extras.load(Relaxed) as u16);
        Amounts::of(self.len(), extras & 0xff, extras >> 8)
    }

    /// It is charged for nothing but being one.
    #[inline(always)]
    fn is_small(&self) -> bool {
        self.len() <= INLINE && self.extras.load(Relaxed) == 0
    }

    /// It has a slice that is not user space's.
    #[inline]
    fn has_own_slice(&self) -> bool {
        self.slice().is_some() && self.fate.load(Relaxed) != TAKEN
    }

    /// It was not received.
    #[cold]
    fn give_back(&self) {
        let owner = &self.node.owner;
        let has_slice = self.has_own_slice();
        if let (Some(slice), UNSENT) = (self.slice(), self.fate.load(Relaxed)) {
            owner.zero(slice, self.len());
        }
        if let Some(user) = self.take_user() {
            discharge_user(user, &self.amounts());
        }
        let mut inner = owner.inner.lock();
        self.discharge(&mut inner);
        if let (Some(slice), true) = (self.slice(), has_slice) {
            inner.slices.free(slice.id);
            Stat::Slices.add(-1);
        }
        let trim = owner.note_idle(&mut inner);
        owner.unlock_room(inner);
        if trim {
            owner.trim();
        }
    }

    /// The user it is charged to alone, who is to be discharged.
    fn take_user(&self) -> Option<UserRef> {
        let charged = self.charged.load(Relaxed);
        if charged.addr() & FOR_USER == 0 {
            return None;
        }
        self.charged.store(core::ptr::null_mut(), Relaxed);
        // SAFETY: From `UserRef::as_ptr`, and kept by this charge.
        Some(unsafe { UserRef::from_ptr(charged.wrapping_byte_sub(FOR_USER).cast()) })
    }

    /// It is not in flight any more, if it was.
    #[inline(always)]
    pub(crate) fn discharge(&self, owner: &mut Inner) {
        // SAFETY: Not a user: see `charged`.
        let account = unsafe { AccountRef::from_ptr(self.charged.load(Relaxed)) };
        if let Some(account) = account {
            self.charged.store(core::ptr::null_mut(), Relaxed);
            if self.is_small() {
                owner.discharge(account, &Amounts::MESSAGE);
            } else {
                owner.discharge(account, &self.amounts());
            }
        }
    }

    /// It is in the queue again, after all: at the expense of whose queue it is, whatever that has.
    #[cold]
    fn recharge(&self, owner: &mut Inner) {
        let account = owner.charge_own(&self.amounts());
        self.charged.store(account.as_ptr(), Relaxed);
    }

    /// A receiver takes it into its hand. The slice is user space's.
    #[inline(always)]
    pub(crate) fn take(&self, peer: &mut Inner) {
        self.discharge(peer);
        if let Some(slice) = self.slice() {
            peer.slices.set_users(slice.id, true);
            self.fate.store(TAKEN, Relaxed);
        }
    }

    /// Takes back [`take`](Self::take). False if user space has freed the slice, though it was not told
    /// of it.
    pub(crate) fn untake(&self, peer: &mut Inner) -> bool {
        let untaken = self.untake_reply(peer);
        if untaken {
            self.recharge(peer);
        }
        untaken
    }

    /// The same of the reply to a call, which is not charged by itself.
    pub(crate) fn untake_reply(&self, peer: &mut Inner) -> bool {
        if let Some(slice) = self.slice() {
            if !peer.slices.is_users(slice.id) {
                return false;
            }
            peer.slices.set_users(slice.id, false);
            self.fate.store(SENT, Relaxed);
        }
        true
    }

    /// It was linked, and that is taken back: nobody has seen it.
    pub(crate) fn set_unsent(&self) {
        self.fate.store(UNSENT, Relaxed);
    }
}

impl Amounts {
    /// Of a message with a payload of that many bytes, handles and files.
    #[inline(always)]
    pub(crate) fn of(len: usize, handles: u32, files: u32) -> Self {
        let granules = if len > INLINE {
            len.div_ceil(GRANULE) as u32
        } else {
            0
        };
        Self::new(1, granules, handles, files)
    }
}

/// What was charged to the user who sent it.
#[inline(always)]
pub(crate) fn discharge_user(user: UserRef, what: &Amounts) {
    if what.files() != 0 {
        user.discharge(Limit::Files, what.files() as usize);
    }
    // Last: it keeps the user.
    user.discharge(Limit::Messages, 1 + what.handles() as usize);
}

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
    #[inline]
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
