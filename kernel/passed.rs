// SPDX-License-Identifier: GPL-2.0-only

//! Handles on their way to one peer.

use crate::abi::{self, bus1_handle};
use crate::handle::{Grade, HandleRef};
use crate::node::{Grant, Use};
use crate::peer::{Inner, Peer};
use core::ops::Deref;
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Relaxed, Atomic};
use kernel::sync::Arc;

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
    pub(crate) fn one(passed: Passed) -> Self {
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
