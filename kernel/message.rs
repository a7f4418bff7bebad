// SPDX-License-Identifier: GPL-2.0-only

//! Messages, and what else a receiver finds in its queue.

use crate::abi;
use crate::baggage::Baggage;
use crate::bridge::Stat;
use crate::call::Call;
use crate::handle::Handle;
use crate::item::{Deliver, DynItem, Item, Ready, Tag};
use crate::limits::{Limit, UserRef};
use crate::node::{Node, NodeRef};
use crate::passed::PassedList;
use crate::peer::Inner;
use crate::quota::Amounts;
use crate::room::{Account, AccountRef};
use crate::slices::{Slice, GRANULE};
use core::cell::UnsafeCell;
use core::mem::ManuallyDrop;
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Relaxed, Atomic};
use kernel::types::Opaque;

mod draft;

pub(crate) use draft::Draft;

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
    #[inline(always)]
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
