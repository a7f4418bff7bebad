// SPDX-License-Identifier: GPL-2.0-only

//! BUS1_CMD_SEND.
//!
//! A send looks up everything that it names, under the sender's lock; makes its messages, which
//! copies the payload, without a lock; and links them, each under its receiver's lock. Nothing can
//! be seen before that, and nothing fails after it. Many destinations are linked uncommitted,
//! and can be taken back until the flag is set: see `queue.rs`.

use crate::abi::{self, bus1_cmd_send, bus1_pass};
use crate::errno::{edquot, ehostunreach};
use crate::message::{Draft, Message, PassedList};
use crate::node::{NodeRef, Use};
use crate::object::note_all_passed;
use crate::peer::Peer;
use crate::queue::{Commit, Item};
use crate::user::{clear, read_array, read_several, write_s32, Payload, Several};
use kernel::prelude::*;
use kernel::sync::Arc;

pub(crate) fn send(peer: &Arc<Peer>, cmd: &bus1_cmd_send) -> Result {
    if cmd.flags & !u64::from(abi::BUS1_SEND_PARTIAL) != 0 || cmd.reserved != 0 {
        return Err(EINVAL);
    }
    if cmd.n_handles > abi::BUS1_MAX_HANDLES || cmd.n_dests > abi::BUS1_MAX_DESTS {
        return Err(EMSGSIZE);
    }
    let payload = Payload::new(cmd)?;
    if cmd.n_dests == 0 {
        if cmd.flags != 0 || cmd.dests != 0 || cmd.errors != 0 {
            return Err(EINVAL);
        }
        if cmd.n_handles == 0 {
            if cmd.handles != 0 {
                return Err(EINVAL);
            }
            return send_plain(peer, cmd.dest, &payload);
        }
    } else if cmd.dest != 0 {
        return Err(EINVAL);
    }
    let passes = read_passes(cmd)?;
    if cmd.n_dests == 0 {
        send_one(peer, cmd.dest, &payload, &passes)
    } else {
        send_many(peer, cmd, &payload, &passes)
    }
}

fn read_passes(cmd: &bus1_cmd_send) -> Result<Several<bus1_pass>> {
    if cmd.n_handles == 0 && cmd.handles != 0 {
        return Err(EINVAL);
    }
    let passes: Several<bus1_pass> = read_several(cmd.handles, cmd.n_handles as usize)?;
    if passes.iter().any(|p| p.flags != 0 || p.drop_rights != 0) {
        return Err(EINVAL);
    }
    Ok(passes)
}

/// Uses of all nodes that are to be passed. Dropped by the caller after everything else is done: as
/// long as it lives none of them becomes unused.
fn use_passes(peer: &Arc<Peer>, passes: &[bus1_pass]) -> Result<Several<Use>> {
    let mut uses = Several::new(passes.len())?;
    for pass in passes {
        let u = peer.inner.lock().resolve_use(pass.id)?;
        uses.push(u)?;
    }
    Ok(uses)
}

/// One destination, no handles: the common case.
#[inline]
fn send_plain(peer: &Arc<Peer>, dest: u64, payload: &Payload) -> Result {
    let node = peer.inner.lock().resolve(dest)?.clone();
    let mut draft = Draft::new(node.clone(), payload.len())?;
    draft.fill(payload)?;
    draft.link(&node, None)?;
    node.owner.wake();
    Ok(())
}

fn send_one(peer: &Arc<Peer>, dest: u64, payload: &Payload, passes: &[bus1_pass]) -> Result {
    let node = peer.inner.lock().resolve(dest)?.clone();
    let uses = use_passes(peer, passes)?;
    prepare(&node, payload, &uses)?.link(&node, None)?;
    node.owner.wake();
    note_all_passed(peer, &uses);
    Ok(())
}

/// A message to a node, with everything that it needs.
fn prepare(node: &NodeRef, payload: &Payload, uses: &[Use]) -> Result<Draft> {
    let mut draft = Draft::new(node.clone(), payload.len())?;
    draft.fill(payload)?;
    // Last: what is announced should not wait for the sender's memory.
    draft.set_passed(PassedList::admit(&node.owner, uses)?);
    Ok(draft)
}

/// What becomes of one destination.
enum Fate {
    Failed(Error),
    Ready(Draft),
    Linked(Arc<Item<Message>>),
}

/// Whether an error is that of one destination, not of the command.
fn is_dest_error(e: Error) -> bool {
    [ENXIO, ehostunreach(), EAGAIN, EMSGSIZE, edquot()].contains(&e)
}

fn send_many(
    peer: &Arc<Peer>,
    cmd: &bus1_cmd_send,
    payload: &Payload,
    passes: &[bus1_pass],
) -> Result {
    let n = cmd.n_dests as usize;
    let partial = cmd.flags & u64::from(abi::BUS1_SEND_PARTIAL) != 0;
    let dests: KVVec<u64> = read_array(cmd.dests, n)?;
    if cmd.errors != 0 {
        clear(cmd.errors, n * 4)?;
    }
    let uses = use_passes(peer, passes)?;
    let commit = Commit::new()?;
    let mut fates: KVVec<Fate> = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;

    for dest in &dests {
        let node = peer.inner.lock().resolve(*dest).cloned();
        let fate = match node.and_then(|node| prepare(&node, payload, &uses)) {
            Ok(message) => Fate::Ready(message),
            Err(e) if is_dest_error(e) => Fate::Failed(e),
            Err(e) => return Err(e),
        };
        fates.push_within_capacity(fate)?;
        crate::bridge::resched();
    }
    check(cmd, &fates, partial)?;

    for fate in fates
        .iter_mut()
        .filter(|fate| matches!(fate, Fate::Ready(_)))
    {
        let Fate::Ready(draft) = core::mem::replace(fate, Fate::Failed(EAGAIN)) else {
            continue;
        };
        let message = draft.message();
        *fate = match draft.link(&message.node, Some(&commit)) {
            Ok(()) => Fate::Linked(message),
            Err(e) => Fate::Failed(e),
        };
    }
    if let Err(e) = check(cmd, &fates, partial) {
        for fate in &fates {
            if let Fate::Linked(message) = fate {
                let entry = message.node.owner.inner.lock().queue.remove(&**message);
                message.set_sent(false);
                drop(entry);
            }
        }
        return Err(e);
    }

    commit.set();
    for fate in &fates {
        if let Fate::Linked(message) = fate {
            let owner = &message.node.owner;
            owner.inner.lock().queue.settle(&**message);
            owner.wake();
        }
    }
    note_all_passed(peer, &uses);
    Ok(())
}

/// Writes the errors there are, and fails if the command is to.
fn check(cmd: &bus1_cmd_send, fates: &[Fate], partial: bool) -> Result {
    let mut first = None;
    let mut all = true;
    for (i, fate) in fates.iter().enumerate() {
        let Fate::Failed(e) = fate else {
            all = false;
            continue;
        };
        first = first.or(Some(*e));
        if cmd.errors != 0 {
            // It could be written a moment ago: who unmaps it meanwhile has no use for it.
            let _ = write_s32(cmd.errors.wrapping_add(i as u64 * 4), e.to_errno());
        }
    }
    match first {
        Some(e) if all || !partial => Err(e),
        _ => Ok(()),
    }
}
