// SPDX-License-Identifier: GPL-2.0-only

//! BUS1_CMD_SEND.
//!
//! A send looks up everything that it names, under the sender's lock; makes its messages, which
//! copies the payload, without a lock; and links them, each under its receiver's lock. Nothing can
//! be seen before that, and nothing fails after it. Many destinations are linked uncommitted,
//! and can be taken back until the flag is set: see `queue.rs`.

use crate::abi::{self, bus1_cmd_send, bus1_pass};
use crate::baggage::{read_files, Baggage, Body, FileRef, Stamp};
use crate::bridge::Sequence;
use crate::buffer::{check_body, find_body, BODY_FLAGS};
use crate::errno::{edquot, ehostunreach, eopnotsupp};
use crate::handle::Grade;
use crate::item::{Commit, Item};
use crate::message::{Draft, Message, PassedList};
use crate::moving::Moving;
use crate::node::{Grant, NodeRef};
use crate::object::{finish_spent, note_all_passed};
use crate::peer::{Inner, Object, Peer};
use crate::user::{clear, read, read_array, read_several, write_s32, Payload, Several};
use core::mem;
use kernel::prelude::*;
use kernel::sync::Arc;

pub(crate) fn send(peer: &Arc<Peer>, cmd: &bus1_cmd_send) -> Result {
    const MANY: u64 = abi::BUS1_SEND_PARTIAL as u64 | abi::BUS1_SEND_ORDERED as u64;
    if cmd.flags & !(MANY | BODY_FLAGS) != 0
        || cmd.reserved != 0
        || cmd.deadline != 0
        || cmd.priority > abi::BUS1_MAX_PRIORITY
    {
        return Err(EINVAL);
    }
    if cmd.n_handles > abi::BUS1_MAX_HANDLES
        || cmd.n_dests > abi::BUS1_MAX_DESTS
        || cmd.n_fds > abi::BUS1_MAX_FDS
    {
        return Err(EMSGSIZE);
    }
    // A pointer without a count.
    if (cmd.n_handles == 0 && cmd.handles != 0) || (cmd.n_fds == 0 && cmd.fds != 0) {
        return Err(EINVAL);
    }
    check_body(cmd)?;
    let payload = Payload::new(cmd)?;
    if cmd.n_dests != 0 {
        if cmd.dest != 0 {
            return Err(EINVAL);
        }
        return send_many(peer, cmd, Load::read(peer, cmd, &payload)?);
    }
    if cmd.flags & MANY != 0 || cmd.dests != 0 || cmd.errors != 0 {
        return Err(EINVAL);
    }
    if cmd.n_fds == 0 && cmd.flags == 0 {
        if cmd.n_handles == 0 {
            let node = peer.inner.lock().resolve(cmd.dest)?.clone();
            if node.is_plain {
                return send_plain(node, &payload, cmd.priority as u8);
            }
        } else if cmd.n_handles == 1 && send_handle(peer, cmd, &payload)? {
            return Ok(());
        }
    }
    send_one(peer, cmd.dest, Load::read(peer, cmd, &payload)?)
}

/// One destination, and bytes alone: the common case.
#[inline]
fn send_plain(node: NodeRef, payload: &Payload, priority: u8) -> Result {
    let mut draft = Draft::new(node, payload.len(), priority)?;
    draft.fill(payload)?;
    if let Some(waiter) = draft.link(None)? {
        waiter.wake();
    }
    Ok(())
}

/// What is to be passed, as the sender has it; with its peer's lock held. EINVAL, ENXIO.
#[inline]
fn grant(inner: &mut Inner, pass: &bus1_pass) -> Result<Grant> {
    let flags = abi::BUS1_PASS_MOVE | abi::BUS1_PASS_WEAK;
    if pass.flags & !flags != 0 || !Grade::are_rights(pass.drop_rights) {
        return Err(EINVAL);
    }
    inner.grant(pass.id)
}

/// What becomes of it on the way. EPERM.
#[inline]
fn passed(mut grant: Grant, pass: &bus1_pass) -> Result<Grant> {
    if !grant.grade.may_pass() {
        return Err(EPERM);
    }
    grant.grade = grant.grade.without(pass.drop_rights);
    if pass.flags & abi::BUS1_PASS_WEAK != 0 {
        grant = grant.weaken();
    }
    Ok(grant)
}

/// One destination, bytes, and a copy of one handle. False if it is not that simple.
fn send_handle(peer: &Arc<Peer>, cmd: &bus1_cmd_send, payload: &Payload) -> Result<bool> {
    let pass: bus1_pass = read(cmd.handles)?;
    let mut inner = peer.inner.lock();
    let node = inner.resolve(cmd.dest)?.clone();
    if !node.is_plain || pass.flags & abi::BUS1_PASS_MOVE != 0 {
        return Ok(false);
    }
    let grant = grant(&mut inner, &pass);
    drop(inner);
    let grant = passed(grant?, &pass)?;
    let mut draft = Draft::new(node, payload.len(), cmd.priority as u8)?;
    draft.fill(payload)?;
    let waiter = match draft.link_known(&grant) {
        Ok(waiter) => waiter,
        Err(mut draft) => {
            draft.admit(&grant)?;
            draft.link(None)?
        }
    };
    if let Some(waiter) = waiter {
        waiter.wake();
    }
    note_all_passed(peer, core::slice::from_ref(&grant));
    Ok(true)
}

/// Everything that a send brings to each of its destinations.
struct Load<'a> {
    payload: &'a Payload,
    priority: u8,
    passes: Several<bus1_pass>,
    /// Dropped after everything else is done: as long as they live no node becomes unused.
    grants: Several<Grant>,
    files: Several<FileRef>,
    body: Option<Body>,
    /// Made when a node asks for it.
    stamp: Option<Stamp>,
}

impl<'a> Load<'a> {
    fn read(peer: &Arc<Peer>, cmd: &bus1_cmd_send, payload: &'a Payload) -> Result<Self> {
        let passes: Several<bus1_pass> = read_several(cmd.handles, cmd.n_handles as usize)?;
        let files = read_files(cmd.fds, cmd.n_fds as usize)?;
        let mut grants = Several::new(passes.len())?;
        for pass in passes.iter() {
            let grant = grant(&mut peer.inner.lock(), pass)?;
            grants.push(passed(grant, pass)?)?;
        }
        let body = find_body(cmd, &grants, &files)?;
        Ok(Self {
            payload,
            priority: cmd.priority as u8,
            passes,
            grants,
            files,
            body,
            stamp: None,
        })
    }

    /// A message to a node, with all that may take the caller's memory or time.
    fn prepare(&mut self, node: NodeRef) -> Result<Draft> {
        if node.root().buffer.is_some() {
            return Err(eopnotsupp());
        }
        let mut stamp = None;
        if node.root().wants_creds {
            if self.stamp.is_none() {
                self.stamp = Some(Stamp::new()?);
            }
            stamp = self.stamp.clone();
        }
        let mut draft = Draft::new(node, self.payload.len(), self.priority)?;
        if stamp.is_some() || !self.files.is_empty() || self.body.is_some() {
            draft.set_baggage(Baggage::new(&self.files, stamp, self.body)?);
        }
        draft.fill(self.payload)?;
        Ok(draft)
    }

    /// Announces the handles to the receiver. When all of the caller's memory has been read, for all
    /// destinations: what is announced and does not come is in the receiver's way.
    fn announce(&self, draft: &mut Draft) -> Result {
        if !self.grants.is_empty() {
            let passed = PassedList::admit(&draft.node().owner, &self.grants)?;
            draft.set_passed(passed);
        }
        Ok(())
    }

    /// Takes the counts that are to move.
    fn start_moves(&self, peer: &Arc<Peer>) -> Result<Moving> {
        let moves = |pass: &&bus1_pass| pass.flags & abi::BUS1_PASS_MOVE != 0;
        let n = self.passes.iter().filter(moves).count();
        if n == 0 {
            return Ok(Moving::none());
        }
        Moving::start(peer, n, self.passes.iter().filter(moves).map(|p| p.id))
    }
}

/// The count of the one-shot handle that a message is sent through, if it is one: it goes with the
/// message. To be taken when nothing else can stall.
fn start_once(peer: &Arc<Peer>, id: u64, node: &NodeRef) -> Result<Moving> {
    if !node.is_once {
        return Ok(Moving::none());
    }
    if let Some(Object::Node(_)) = peer.inner.lock().ids.get(id) {
        return Ok(Moving::none());
    }
    Moving::start(peer, 1, core::iter::once(id)).map_err(|e| {
        // The last count may be on its way with another message.
        match peer.inner.lock().resolve(id) {
            Ok(_) => ehostunreach(),
            Err(_) => e,
        }
    })
}

/// The message is sent.
fn finish_once(node: &NodeRef, count: Moving) {
    if node.is_once {
        drop(count.finish());
        finish_spent(node);
    }
}

fn send_one(peer: &Arc<Peer>, dest: u64, mut load: Load<'_>) -> Result {
    let node = peer.inner.lock().resolve(dest)?.clone();
    let mut draft = load.prepare(node.clone())?;
    load.announce(&mut draft)?;
    let moving = load.start_moves(peer)?;
    let once = start_once(peer, dest, &node)?;
    if let Some(waiter) = draft.link(None)? {
        waiter.wake();
    }
    drop(moving.finish());
    finish_once(&node, once);
    note_all_passed(peer, &load.grants);
    Ok(())
}

/// What becomes of one destination.
enum Fate {
    Failed(Error),
    Found(NodeRef),
    Ready(Draft),
    Linked(Arc<Item<Message>>),
}

/// The count of a one-shot handle that is one of the destinations.
struct Spent {
    dest: usize,
    count: Moving,
}

/// Whether an error is that of one destination, not of the command.
fn is_dest_error(e: Error) -> bool {
    let own = [ehostunreach(), edquot(), eopnotsupp()];
    [ENXIO, EPERM, EAGAIN, EMSGSIZE].contains(&e) || own.contains(&e)
}

/// Looks the destinations up, some at a time: others want the lock, too.
fn find_many(peer: &Arc<Peer>, dests: &[u64]) -> Result<KVVec<Fate>> {
    let mut fates = KVVec::with_capacity(dests.len(), GFP_KERNEL_ACCOUNT)?;
    for some in dests.chunks(32) {
        let inner = peer.inner.lock();
        for id in some {
            fates.push_within_capacity(match inner.resolve(*id) {
                Ok(node) => Fate::Found(node.clone()),
                Err(e) => Fate::Failed(e),
            })?;
        }
    }
    Ok(fates)
}

/// Makes the messages.
fn prepare_many(fates: &mut [Fate], load: &mut Load<'_>) -> Result {
    for fate in fates {
        *fate = match mem::replace(fate, Fate::Failed(EAGAIN)) {
            Fate::Found(node) => match load.prepare(node) {
                Ok(draft) => Fate::Ready(draft),
                Err(e) if is_dest_error(e) => Fate::Failed(e),
                Err(e) => return Err(e),
            },
            other => other,
        };
        crate::bridge::resched();
    }
    Ok(())
}

/// Announces the handles to all that are ready.
fn announce_many(fates: &mut [Fate], load: &Load<'_>) -> Result {
    if load.grants.is_empty() {
        return Ok(());
    }
    for fate in fates {
        if let Fate::Ready(draft) = fate {
            match load.announce(draft) {
                Ok(()) => (),
                Err(e) if is_dest_error(e) => *fate = Fate::Failed(e),
                Err(e) => return Err(e),
            }
            crate::bridge::resched();
        }
    }
    Ok(())
}

/// Takes the counts of the one-shot handles among the destinations.
fn start_many(peer: &Arc<Peer>, dests: &[u64], fates: &mut [Fate]) -> Result<KVVec<Spent>> {
    let mut spent = KVVec::new();
    for (dest, (id, fate)) in dests.iter().zip(fates).enumerate() {
        match fate {
            Fate::Ready(draft) if draft.node().is_once => {
                match start_once(peer, *id, draft.node()) {
                    Ok(count) => spent.push(Spent { dest, count }, GFP_KERNEL_ACCOUNT)?,
                    Err(e) => *fate = Fate::Failed(e),
                }
            }
            _ => (),
        }
    }
    Ok(spent)
}

/// Links what is ready, uncommitted.
fn link_many(fates: &mut [Fate], commit: &Arc<Commit>) {
    for fate in fates {
        if let Fate::Ready(_) = fate {
            let Fate::Ready(draft) = mem::replace(fate, Fate::Failed(EAGAIN)) else {
                continue;
            };
            let message = draft.message();
            *fate = match draft.link(Some(commit)) {
                Ok(_) => Fate::Linked(message),
                Err(e) => Fate::Failed(e),
            };
        }
    }
}

fn send_many(peer: &Arc<Peer>, cmd: &bus1_cmd_send, mut load: Load<'_>) -> Result {
    let n = cmd.n_dests as usize;
    let partial = cmd.flags & u64::from(abi::BUS1_SEND_PARTIAL) != 0;
    let dests: KVVec<u64> = read_array(cmd.dests, n)?;
    if cmd.errors != 0 {
        clear(cmd.errors, n * 4)?;
    }
    let commit = Commit::new()?;
    let mut fates = find_many(peer, &dests)?;
    prepare_many(&mut fates, &mut load)?;
    check(cmd, &fates, partial)?;
    // From here on the caller's memory is not touched until all is sent, or taken back.
    announce_many(&mut fates, &load)?;
    let spent = start_many(peer, &dests, &mut fates)?;
    let moving = load.start_moves(peer)?;

    // From the first link to the commit, or until all is taken back (ORD-4).
    let ordered = cmd.flags & u64::from(abi::BUS1_SEND_ORDERED) != 0;
    let sequence = ordered.then(Sequence::begin).transpose()?;
    link_many(&mut fates, &commit);
    let n_linked = fates
        .iter()
        .filter(|fate| matches!(fate, Fate::Linked(_)))
        .count();
    if n_linked == 0 || (n_linked < n && !partial) {
        fates.iter().for_each(take_back);
        drop(sequence);
        drop((spent, moving));
        return check(cmd, &fates, partial);
    }
    commit.set();
    drop(sequence);

    for fate in &fates {
        if let Fate::Linked(message) = fate {
            let owner = &message.node.owner;
            let mut inner = owner.inner.lock();
            inner.queue.settle(&**message, &commit);
            let is_waited = owner.wait.is_active();
            drop(inner);
            if is_waited {
                owner.wake();
            }
        }
    }
    for Spent { dest, count } in spent {
        // Of those that failed the count comes back.
        if let Some(Fate::Linked(message)) = fates.get(dest) {
            finish_once(&message.node, count);
        }
    }
    drop(moving.finish());
    note_all_passed(peer, &load.grants);
    if n_linked < n {
        return check(cmd, &fates, partial);
    }
    Ok(())
}

/// What was linked was not sent after all.
fn take_back(fate: &Fate) {
    let Fate::Linked(message) = fate else {
        return;
    };
    let mut inner = message.node.owner.inner.lock();
    let entry = inner.queue.remove(&**message);
    message.node.set_spent(&mut inner, false);
    drop(inner);
    message.set_sent(false);
    drop(entry);
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
