// SPDX-License-Identifier: GPL-2.0-only

//! Messages, and what else a receiver finds in its queue.

use crate::abi::{self, bus1_handle};
use crate::baggage::Baggage;
use crate::bridge::Stat;
use crate::handle::{Grade, Handle, HandleRef};
use crate::item::{Commit, Deliver, DynItem, Item, Ready, Tag};
use crate::node::{Grant, Node, NodeRef, Use};
use crate::peer::{Inner, Peer};
use crate::pool::read_inline;
use crate::slices::Slice;
use crate::user::{Payload, Several};
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
            #[cfg(CONFIG_KUNIT = "y")]
            // SAFETY: As above.
            Tag::Test => Self::Test(unsafe { &(*thin.cast::<Item<crate::item::Number>>()).body }),
        }
    }

    /// Whether it may be received. With the lock of its home peer held.
    #[inline]
    pub(crate) fn ready(self) -> Ready {
        match self {
            Self::Message(m) if m.node.is_dead() => Ready::Never,
            Self::Message(_) => Ready::Yes,
            Self::Dead(h) => h.ready(),
            Self::Unused(n) => n.ready(),
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

/// Handles on their way to one peer. Unless it is [taken](Self::take), they are given up on drop,
/// which must not be under a lock.
pub(crate) struct PassedList {
    list: Several<Passed>,
    taken: Atomic<bool>,
}

impl PassedList {
    #[inline]
    pub(crate) const fn new() -> Self {
        Self {
            list: Several::None,
            taken: Atomic::new(false),
        }
    }

    /// Announces handles to a peer. EHOSTUNREACH if it is closed, EDQUOT if it has too many.
    pub(crate) fn admit(to: &Arc<Peer>, grants: &[Grant]) -> Result<Self> {
        let mut passed = Self {
            list: Several::new(grants.len())?,
            taken: Atomic::new(false),
        };
        for grant in grants {
            passed.list.push(to.admit(grant)?)?;
        }
        Ok(passed)
    }

    /// The receiver has them now: each coming one becomes a count. True if one of them is dead, and
    /// its notice may now be received.
    #[inline]
    pub(crate) fn take(&self, peer: &mut Inner) -> bool {
        let mut dead = false;
        for passed in self.list.iter() {
            if let Passed::Handle(h) = passed {
                h.add_coming(-1, peer);
                h.add_count(1, peer);
                dead |= h.is_dead();
            }
        }
        self.taken.store(true, Relaxed);
        dead
    }

    /// The receiver that has them in its hand is done; it has them now, if it `takes` them. As
    /// [`take`](Self::take).
    #[inline]
    pub(crate) fn finish(&self, peer: &mut Inner, takes: bool) -> bool {
        let mut dead = false;
        for passed in self.list.iter() {
            if let Passed::Handle(h) = passed {
                h.add_in_hand(-1);
                if takes {
                    h.add_coming(-1, peer);
                    h.add_count(1, peer);
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
        for passed in self.list.iter() {
            if let Passed::Handle(h) = passed {
                h.add_in_hand(n);
            }
        }
    }
}

impl Deref for PassedList {
    type Target = [Passed];

    fn deref(&self) -> &[Passed] {
        &self.list
    }
}

impl Drop for PassedList {
    #[inline]
    fn drop(&mut self) {
        if !self.taken.load(Relaxed) {
            for passed in self.list.iter() {
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
    len: u32,
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
    fn drop(self: Pin<&mut Self>) {
        Stat::Messages.add(-1);
        if !self.is_plain() {
            // SAFETY: The only reference, and nobody looks at it after this.
            unsafe { ManuallyDrop::drop(&mut (*self.written.get()).extra) };
        }
        if let Some(slice) = self.slice() {
            let fate = self.fate.load(Relaxed);
            if fate != TAKEN {
                self.node.owner.unreserve(slice, self.len(), fate == SENT);
            }
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
        self.len as usize
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

    /// A receiver takes the slice: it is user space's.
    #[inline]
    pub(crate) fn take_slice(&self, peer: &mut Inner) {
        if let Some(slice) = self.slice() {
            peer.slices.set_users(slice.id, true);
            self.fate.store(TAKEN, Relaxed);
        }
    }

    /// Takes back [`take_slice`](Self::take_slice). False if user space has freed the slice, though
    /// it was not told of it.
    pub(crate) fn untake_slice(&self, peer: &mut Inner) -> bool {
        let Some(slice) = self.slice() else {
            return true;
        };
        if !peer.slices.is_users(slice.id) {
            return false;
        }
        peer.slices.set_users(slice.id, false);
        self.fate.store(SENT, Relaxed);
        true
    }

    /// The message is linked, or that is taken back.
    #[inline]
    pub(crate) fn set_sent(&self, sent: bool) {
        if self.slice().is_some() {
            self.fate.store(if sent { SENT } else { UNSENT }, Relaxed);
        }
    }
}

/// A message that is not linked yet: nobody else can see it. Not to be dropped under a lock.
pub(crate) struct Draft(ListArc<Item<Message>>);

impl Draft {
    #[inline]
    pub(crate) fn new(node: NodeRef, len: usize, priority: u8) -> Result<Self> {
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
                len: len as u32,
                fate: Atomic::new(UNSENT),
                priority,
                is_plain: Atomic::new(true),
                inline <- Opaque::ffi_init(|_| ()),
            }? Error)))?;
        Stat::Messages.add(1);
        Ok(Self(message.into()))
    }

    #[inline]
    fn written(&mut self) -> &mut Written {
        // SAFETY: We have the only reference to the message.
        unsafe { &mut *self.0.written.get() }
    }

    /// Copies the payload, inline or to a slice. EFAULT, and what [`Peer::reserve`] fails with.
    #[inline]
    pub(crate) fn fill(&mut self, payload: &Payload) -> Result {
        let len = payload.len();
        if len <= INLINE {
            // SAFETY: The place is valid, we have the only reference, and it is as good as
            // uninitialised.
            let to = unsafe {
                core::slice::from_raw_parts_mut(self.0.inline.get().cast::<MaybeUninit<u8>>(), len)
            };
            return read_inline(payload, to);
        }
        let slice = self.0.node.owner.reserve(&self.0.node, len)?;
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
        let list = &raw mut self.written().extra.passed.list;
        // SAFETY: There is none in it yet, so that nothing is to be dropped.
        unsafe { list.write(Several::One([passed])) };
    }

    #[inline]
    pub(crate) fn into_message(self) -> ListArc<Item<Message>> {
        self.0.set_sent(true);
        self.0
    }

    /// Links the message, which brings a handle that the receiver has already. Gives it back if it
    /// is not that simple.
    #[inline]
    pub(crate) fn link_known(
        self,
        from: &Peer,
        grant: &Grant,
    ) -> core::result::Result<Option<Arc<Peer>>, Self> {
        let owner = Arc::as_ptr(&self.0.node.owner);
        // SAFETY: As in `link`.
        unsafe { (*owner).link_known(from, self, grant) }
    }

    pub(crate) fn set_passed(&mut self, passed: PassedList) {
        self.0.is_plain.store(false, Relaxed);
        self.written().extra.passed = passed;
    }

    pub(crate) fn set_baggage(&mut self, baggage: KBox<Baggage>) {
        self.0.is_plain.store(false, Relaxed);
        self.written().extra.baggage = Some(baggage);
    }

    pub(crate) fn node(&self) -> &NodeRef {
        &self.0.node
    }

    /// Links the message to its node: it is sent. Returns who is to be woken. EHOSTUNREACH, EAGAIN.
    #[inline]
    pub(crate) fn link(
        self,
        from: &Peer,
        commit: Option<&Arc<Commit>>,
    ) -> Result<Option<Arc<Peer>>> {
        let message = self.0;
        let owner = Arc::as_ptr(&message.node.owner);
        // SAFETY: The message keeps its node, and that its owner. Once it is linked it may be
        // gone, but not before the lock is given back, and that is the last we do with the owner.
        unsafe { (*owner).link(from, message, commit) }
    }

    /// For [`Message`]s of a multicast: to settle, or to take back.
    pub(crate) fn message(&self) -> Arc<Item<Message>> {
        self.0.clone_arc()
    }
}
