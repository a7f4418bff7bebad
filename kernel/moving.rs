// SPDX-License-Identifier: GPL-2.0-only

//! Counts of handles on their way out of a peer.

use crate::handle::{HandleRef, Retired};
use crate::item::Commit;
use crate::node::Told;
use crate::peer::Peer;
use crate::user::Several;
use core::mem;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Counts that leave one peer, all or none. As long as it is not known whether that comes to pass
/// nobody else can take them, but their handles can be used. Not to be dropped under a lock: then they
/// come back.
pub(crate) struct Moving {
    handles: Several<HandleRef>,
    /// Room for as many.
    retired: Several<Retired>,
}

impl Moving {
    pub(crate) const fn none() -> Self {
        Self {
            handles: Several::None,
            retired: Several::None,
        }
    }

    /// Takes one count away for each of `n` ids. ENXIO, EPERM.
    pub(crate) fn start(
        peer: &Arc<Peer>,
        n: usize,
        ids: impl Iterator<Item = u64>,
    ) -> Result<Self> {
        let mut moving = Self {
            handles: Several::new(n)?,
            retired: Several::new(n)?,
        };
        let mut inner = peer.inner.lock();
        for id in ids {
            let handle = inner.handle(id)?;
            handle.start_move(&mut inner);
            moving.handles.push(handle)?;
        }
        Ok(moving)
    }

    /// They are to be released. ENOMEM.
    pub(crate) fn releasing(self) -> Result<Releasing> {
        let n = self.handles.len();
        let several = if n > 1 {
            let told = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
            Some((Commit::new()?, told))
        } else {
            None
        };
        Ok(Releasing {
            moving: self,
            several,
        })
    }

    /// They are gone. The handles of which they were the last are returned.
    pub(crate) fn finish(mut self) -> Several<Retired> {
        let handles = mem::replace(&mut self.handles, Several::None);
        if let Some(first) = handles.first() {
            let mut inner = first.peer.inner.lock();
            for handle in handles.iter() {
                handle.end_move(&mut inner, true);
            }
            for handle in handles.iter() {
                // One that stands there twice is in the table only the first time.
                if let Some(r) = inner.retire(handle) {
                    // Within the room there is.
                    let _ = self.retired.push(r);
                }
            }
        }
        mem::replace(&mut self.retired, Several::None)
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        let Some(first) = self.handles.first() else {
            return;
        };
        let mut inner = first.peer.inner.lock();
        let mut is_told = false;
        for handle in self.handles.iter() {
            handle.end_move(&mut inner, false);
            is_told |= handle.is_dead();
        }
        drop(inner);
        if is_told {
            // Their notices waited.
            first.peer.wake();
        }
    }
}

/// Counts that are to be released, with all that it takes to do so. As with [`Moving`], they come back
/// on drop.
pub(crate) struct Releasing {
    moving: Moving,
    /// If there are several: the instant for all, and room for the owners.
    several: Option<(Arc<Commit>, KVVec<Told>)>,
}

impl Releasing {
    /// They are released, at one instant.
    pub(crate) fn finish(self) {
        let retired = self.moving.finish();
        let Some((commit, mut told)) = self.several else {
            return drop(retired);
        };
        retired.for_each(|r| {
            // Within the room there is.
            if let Some(t) = r.leave(Some(&commit)) {
                let _ = told.push_within_capacity(t);
            }
        });
        commit.set();
        for t in &told {
            t.settle(&commit);
            t.wake();
        }
    }
}
