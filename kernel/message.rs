// SPDX-License-Identifier: GPL-2.0-only

//! Messages, and what else a receiver finds in its queue.

use crate::abi::{self, bus1_handle};
use crate::bridge::{Counted, Stat};
use crate::node::{Handle, HandleRef, Node, NodeRef, Use};
use crate::peer::{Inner, Peer};
use crate::pool::read_inline;
use crate::queue::{Deliver, Item, Ready};
use crate::slices::Slice;
use crate::user::{Payload, Several};
use core::mem::{size_of, MaybeUninit};
use core::ops::Deref;
use kernel::list::ListArc;
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Relaxed, Atomic};
use kernel::sync::Arc;

/// Payloads up to this many bytes travel inside the message. Chosen so that a message fits the
/// allocator's size class of 256 bytes.
pub(crate) const INLINE: usize = 80;

/// What an item in a queue is.
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

#[pin_data]
pub(crate) struct Message {
    pub(crate) node: NodeRef,
    content: Content,
    pub(crate) passed: PassedList,
    _counted: Counted,
}

/// The payload: in the message, or in the pool of the node's owner. Unless it is
/// [taken](Self::take), its slice is freed on drop, which must not be under a lock.
pub(crate) struct Content {
    slice: Option<Reserved>,
    len: u32,
    /// The first `len` bytes are set, if there is no slice.
    inline: [MaybeUninit<u8>; INLINE],
}

struct Reserved {
    slice: Slice,
    owner: Arc<Peer>,
    len: u32,
    fate: Atomic<i8>,
}

/// What is to become of a [`Reserved`] slice if it is dropped: zeroed and freed; freed, since it was
/// sent; nothing, since user space has it.
const UNSENT: i8 = 0;
const SENT: i8 = 1;
const TAKEN: i8 = 2;

impl Drop for Reserved {
    fn drop(&mut self) {
        let fate = self.fate.load(Relaxed);
        if fate != TAKEN {
            self.owner
                .unreserve(self.slice, self.len as usize, fate == SENT);
        }
    }
}

// The slab's size class of 256 bytes, with the count of references. Debugging locks are larger.
#[cfg(not(CONFIG_LOCKDEP))]
const _: () = assert!(size_of::<Item<Message>>() + 8 <= 256);

impl Content {
    /// Copies a payload for a node. EFAULT, and what [`Peer::reserve`] fails with.
    #[inline]
    pub(crate) fn read(node: &NodeRef, payload: &Payload) -> Result<Self> {
        let len = payload.len();
        let mut content = Self {
            slice: None,
            len: len as u32,
            inline: [const { MaybeUninit::uninit() }; INLINE],
        };
        if len <= INLINE {
            read_inline(payload, &mut content.inline)?;
        } else {
            let (slice, pool) = node.owner.reserve(node, len)?;
            content.slice = Some(Reserved {
                slice,
                owner: node.owner.clone(),
                len: len as u32,
                fate: Atomic::new(UNSENT),
            });
            pool.fill(slice.offset, payload)?;
        }
        Ok(content)
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn slice(&self) -> Option<Slice> {
        self.slice.as_ref().map(|s| s.slice)
    }

    pub(crate) fn inline(&self) -> &[u8] {
        let len = if self.slice.is_some() { 0 } else { self.len() };
        // SAFETY: Set by `read`.
        unsafe { core::slice::from_raw_parts(self.inline.as_ptr().cast(), len) }
    }

    /// The receiver has the slice now.
    pub(crate) fn take(&self, peer: &mut Inner) {
        if let Some(s) = &self.slice {
            peer.slices.set_users(s.slice.id, true);
            s.fate.store(TAKEN, Relaxed);
        }
    }

    /// The message is linked, or that is taken back.
    pub(crate) fn set_sent(&self, sent: bool) {
        if let Some(s) = &self.slice {
            s.fate.store(if sent { SENT } else { UNSENT }, Relaxed);
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
    pub(crate) fn new(
        node: NodeRef,
        content: Content,
        passed: PassedList,
    ) -> Result<ListArc<Item<Message>>> {
        ListArc::pin_init(
            Item::new(try_pin_init!(Self {
                node,
                content,
                passed,
                _counted: Counted::new(Stat::Messages),
            }? Error)),
            GFP_KERNEL_ACCOUNT,
        )
    }

    pub(crate) fn content(&self) -> &Content {
        &self.content
    }
}
