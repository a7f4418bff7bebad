// SPDX-License-Identifier: GPL-2.0-only

//! Messages, and what else a receiver finds in its queue.

use crate::abi::{self, bus1_handle};
use crate::bridge::{Counted, Stat};
use crate::node::{Handle, HandleRef, Node, NodeRef, Use};
use crate::peer::{Inner, Peer};
use crate::pool::read_inline;
use crate::queue::{Commit, Deliver, Item, Ready};
use crate::slices::Slice;
use crate::user::{Payload, Several};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
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
    Test(u32),
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
        let (id, cookie, own, dead) = match self {
            Self::Handle(h) => (h.id.load(Relaxed), 0, 0, h.is_dead()),
            Self::Own(u) => {
                let node = u.node();
                (
                    node.id.load(Relaxed),
                    node.cookie,
                    abi::BUS1_HANDLE_OWN,
                    node.is_dead(),
                )
            }
        };
        bus1_handle {
            id,
            cookie,
            flags: own | if dead { abi::BUS1_HANDLE_DEAD } else { 0 },
            rights: abi::BUS1_RIGHT_SEND | abi::BUS1_RIGHT_TRANSFER,
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
    pub(crate) fn admit(to: &Arc<Peer>, uses: &[Use]) -> Result<Self> {
        let mut passed = Self {
            list: Several::new(uses.len())?,
            taken: Atomic::new(false),
        };
        for u in uses {
            passed.list.push(to.admit(u)?)?;
        }
        Ok(passed)
    }

    /// The receiver has them now: each coming one becomes a count. True if one of them is dead, and
    /// its notice may now be received.
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

    /// A receiver takes them into its hand, or is done. With the peer's lock held.
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
        if !self.list.is_empty() && !self.taken.load(Relaxed) {
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
    pub(crate) node: NodeRef,
    /// Written by a [`Draft`] alone.
    written: UnsafeCell<Written>,
    len: u32,
    /// Of the slice, if there is one.
    fate: Atomic<i8>,
    _counted: Counted,
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
    passed: PassedList,
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
        if let Some(slice) = self.slice() {
            let fate = self.fate.load(Relaxed);
            if fate != TAKEN {
                self.node.owner.unreserve(slice, self.len(), fate == SENT);
            }
        }
    }
}

impl Deliver for Message {
    fn ready(&self) -> Ready {
        if self.node.is_dead() {
            Ready::Never
        } else {
            Ready::Yes
        }
    }

    fn kind(&self) -> Kind<'_> {
        Kind::Message(self)
    }
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

    #[inline]
    pub(crate) fn passed(&self) -> &PassedList {
        &self.written().passed
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
    pub(crate) fn new(node: NodeRef, len: usize) -> Result<Self> {
        let message = ListArc::pin_init(
            Item::new(try_pin_init!(Message {
                node,
                written: UnsafeCell::new(Written {
                    slice: Slice { id: 0, offset: 0 },
                    passed: PassedList::new(),
                }),
                len: len as u32,
                fate: Atomic::new(UNSENT),
                _counted: Counted::new(Stat::Messages),
                inline <- Opaque::ffi_init(|_| ()),
            }? Error)),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(Self(message))
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

    pub(crate) fn set_passed(&mut self, passed: PassedList) {
        self.written().passed = passed;
    }

    /// Links the message to its node, which the caller names once more, since the message may be
    /// gone at once: it is sent. EHOSTUNREACH, EAGAIN.
    #[inline]
    pub(crate) fn link(self, node: &NodeRef, commit: Option<&Arc<Commit>>) -> Result {
        self.0.set_sent(true);
        node.owner.link(node, self.0, commit)
    }

    /// For [`Message`]s of a multicast: to settle, or to take back.
    pub(crate) fn message(&self) -> Arc<Item<Message>> {
        self.0.clone_arc()
    }
}
