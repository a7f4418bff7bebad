// SPDX-License-Identifier: GPL-2.0-only

//! What a command gives back before it receives: slices and handles.

use crate::describe::Receive;
use crate::handle::Retired;
use crate::moving::Moving;
use crate::peer::{Inner, Peer};
use crate::user::{self, Several};
use kernel::prelude::*;
use kernel::sync::Arc;

/// What the caller gives back: a slice, a handle, or 0. It is given back in the
/// section that messages are taken in.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct GiveBack {
    slice: u64,
    handle: u64,
}

impl GiveBack {
    pub(crate) const NOTHING: Self = Self {
        slice: 0,
        handle: 0,
    };

    /// What a command names. As [`read`](Self::read).
    #[inline(always)]
    pub(crate) fn of(peer: &Arc<Peer>, call: &Receive<'_>) -> Result<Self> {
        if call.cmd.n_release | call.cmd.n_drop == 0 {
            return Ok(Self::NOTHING);
        }
        Self::read(peer, call)
    }

    /// Reads the ids if there are few, or else gives all of them back. The caller's counts of them
    /// become 0: it must not happen twice.
    #[inline(always)]
    fn read(peer: &Arc<Peer>, call: &Receive<'_>) -> Result<Self> {
        let (n_release, n_drop) = (call.cmd.n_release, call.cmd.n_drop);
        if n_release > 1 || n_drop > 1 || call.cmd.n_msgs == 0 {
            return give_back(peer, call);
        }
        let mut back = Self::NOTHING;
        if n_release != 0 {
            back.slice = read_id(call.cmd.release)?;
        }
        if n_drop != 0 {
            back.handle = read_id(call.cmd.drop)?;
        }
        // First, to be told before anything is done if it can not be written.
        call.write_given(0, 0)?;
        Ok(back)
    }

    /// A handle that is gone by that becomes `retired`.
    #[inline(always)]
    pub(crate) fn apply(
        self,
        peer: &Peer,
        inner: &mut Inner,
        retired: &mut Option<Retired>,
    ) -> Result {
        if self.handle != 0 {
            *retired = self.apply_handle(peer, inner)?;
            return Ok(());
        }
        if self.slice == 0 || peer.release_slice(inner, self.slice) {
            Ok(())
        } else {
            Err(ENXIO)
        }
    }

    #[inline(always)]
    fn apply_handle(self, peer: &Peer, inner: &mut Inner) -> Result<Option<Retired>> {
        let handle = inner.handle(self.handle)?;
        if self.slice != 0 && !peer.release_slice(inner, self.slice) {
            return Err(ENXIO);
        }
        handle.add_count(-1, inner);
        Ok(inner.retire_now(&handle))
    }
}

/// An id that may be one: 0 is none.
#[inline]
fn read_id(place: u64) -> Result<u64> {
    match user::read_u64(place)? {
        0 => Err(ENXIO),
        id => Ok(id),
    }
}

/// Gives any number of ids back. By itself, so that the common case has a small frame.
#[cold]
#[inline(never)]
pub(crate) fn give_back(peer: &Arc<Peer>, call: &Receive<'_>) -> Result<GiveBack> {
    let (n_release, n_drop) = (call.cmd.n_release, call.cmd.n_drop);
    let slices: Several<u64> = user::read_several(call.cmd.release, n_release as usize)?;
    let handles: Several<u64> = user::read_several(call.cmd.drop, n_drop as usize)?;
    call.write_given(0, 0)?;
    Moving::start(peer, handles.len(), handles.iter().copied())
        .and_then(Moving::releasing)
        .and_then(|releasing| {
            if !slices.is_empty() {
                peer.release_slices(&slices)?;
            }
            // Nothing fails from here on.
            releasing.finish();
            Ok(())
        })
        .inspect_err(|_| call.restore_given())?;
    Ok(GiveBack::NOTHING)
}
