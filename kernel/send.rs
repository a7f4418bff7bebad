// SPDX-License-Identifier: GPL-2.0-only

//! BUS1_CMD_SEND.
//!
//! A send looks up everything that it names, under the sender's lock; makes its messages, which
//! copies the payload, without a lock; and links them, each under its receiver's lock. Nothing can
//! be seen before that, and nothing fails after it. Many destinations are linked uncommitted,
//! and can be taken back until the flag is set: see `queue.rs`.

use crate::abi::{self, bus1_cmd_send, bus1_pass};
use crate::baggage::{read_files, Baggage, Body, FileRef, Stamp};
use crate::bridge::{self, Sequence};
use crate::buffer::{check_body, find_body, BODY_FLAGS};
use crate::errno::{edquot, ehostunreach, eopnotsupp};
use crate::handle::Grade;
use crate::item::{Commit, Item};
use crate::message::{Draft, Message};
use crate::moving::Moving;
use crate::node::{Grant, NodeRef};
use crate::passed::PassedList;
use crate::object::{finish_spent, note_all_passed};
use crate::peer::{Inner, Object, Peer, Target};
use crate::quota::Amounts;
use crate::room::{self, AccountRef, Entered, Gate, Waiter};
use crate::trace;
use crate::user::{
    clear, read_array, read_pass, read_several, write_s32, Payload, Several, MAX_PAYLOAD,
};
use core::mem;
use kernel::prelude::*;
use kernel::sync::barrier::smp_mb;
use kernel::sync::Arc;

pub(crate) const WAIT: u64 = abi::BUS1_SEND_WAIT as u64;
pub(crate) const NOTIFY: u64 = abi::BUS1_SEND_NOTIFY as u64;
const PARTIAL: u64 = abi::BUS1_SEND_PARTIAL as u64;
const ORDERED: u64 = abi::BUS1_SEND_ORDERED as u64;

/// Flags that a request can not have.
pub(crate) const NOT_FOR_CALLS: u64 = PARTIAL | ORDERED;

#[inline]
pub(crate) fn check(cmd: &bus1_cmd_send) -> Result {
    const MANY: u64 = PARTIAL | ORDERED;

    if cmd.flags & !(MANY | WAIT | NOTIFY | BODY_FLAGS) != 0
        || cmd.reserved != 0
        || cmd.priority > abi::BUS1_MAX_PRIORITY
    {
        return Err(EINVAL);
    }
    // A thread that waits needs no notice, and gets no part of it done.
    if cmd.flags & WAIT != 0 {
        if cmd.flags & (NOTIFY | PARTIAL) != 0 {
            return Err(EINVAL);
        }
    } else if cmd.deadline != 0 {
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
    if cmd.n_dests != 0 {
        if cmd.dest != 0 {
            return Err(EINVAL);
        }
    } else if cmd.flags & MANY != 0 || cmd.dests != 0 || cmd.errors != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

/// Nothing is asked for but bytes, in one part, to one destination; `n_handles` and `flags` apart.
#[inline(always)]
pub(crate) fn is_common(cmd: &bus1_cmd_send, flags: u64) -> bool {
    let none = (cmd.flags & !flags)
        | cmd.dests
        | cmd.errors
        | cmd.iovs
        | cmd.fds
        | cmd.deadline
        | cmd.body_offset
        | cmd.body_len
        | u64::from(cmd.n_dests | cmd.n_iovs | cmd.n_fds | cmd.reserved);
    none == 0 && cmd.priority <= abi::BUS1_MAX_PRIORITY && cmd.len <= MAX_PAYLOAD
}

#[inline(always)]
pub(crate) fn send(peer: &Arc<Peer>, cmd: &bus1_cmd_send) -> Result {
    if is_common(cmd, 0) {
        let payload = Payload::One(cmd.data, cmd.len as usize);
        if cmd.n_handles == 1 {
            if send_handle(peer, cmd, &payload)? {
                return Ok(());
            }
        } else if cmd.handles | u64::from(cmd.n_handles) == 0 {
            let to = target(peer, cmd.dest)?;
            if to.node.is_plain {
                return send_plain(peer, to, &payload, cmd.priority as u8);
            }
        }
    }
    send_any(peer, cmd)
}

#[inline(never)]
fn send_any(peer: &Arc<Peer>, cmd: &bus1_cmd_send) -> Result {
    check(cmd)?;
    let payload = Payload::new(cmd)?;
    if cmd.flags & (WAIT | NOTIFY) != 0 {
        return send_or_wait(peer, cmd, &payload);
    }
    try_send(peer, cmd, &payload, &mut None)
}

/// Sends if there is room. If there is none `full` may be set to the destination that has none.
fn try_send(
    peer: &Arc<Peer>,
    cmd: &bus1_cmd_send,
    payload: &Payload,
    full: &mut Option<u64>,
) -> Result {
    let load = Load::read(peer, cmd, payload)?;
    if cmd.n_dests != 0 {
        send_many(peer, cmd, load, full)
    } else {
        send_one(peer, cmd.dest, load)
    }
}

/// What a message would take at a receiver.
pub(crate) fn need(cmd: &bus1_cmd_send, payload: &Payload) -> Amounts {
    Amounts::of(payload.len(), cmd.n_handles, cmd.n_fds)
}

/// The same for who wants to know when there is room, or waits for it.
#[cold]
#[inline(never)]
fn send_or_wait(peer: &Arc<Peer>, cmd: &bus1_cmd_send, payload: &Payload) -> Result {
    let need = need(cmd, payload);
    let mut gate: Option<Arc<Gate>> = None;
    loop {
        let mut full = (cmd.n_dests == 0).then_some(cmd.dest);
        let r = try_send(peer, cmd, payload, &mut full);
        if let Some(gate) = gate.take() {
            gate.pass_on();
        }
        let (Err(EAGAIN), Some(dest)) = (r, full) else {
            return r;
        };
        if cmd.flags & NOTIFY != 0 {
            if cmd.n_dests == 0 {
                notify(peer, dest, &need)?;
            }
            return r;
        }
        gate = wait(peer, dest, &need, cmd.deadline)?;
    }
}

/// Enters a handle that found no room; tells at once if there is some by now. Nothing for a node of
/// one's own: whoever owns it knows when room comes. ENOMEM.
pub(crate) fn notify(peer: &Arc<Peer>, dest: u64, need: &Amounts) -> Result {
    let handle = {
        let mut inner = peer.inner.lock();
        let Ok(Some(handle)) = inner.handle_to_send(dest) else {
            return Ok(());
        };
        inner.n_waiting += 1;
        handle
    };
    room::enter_handle(&handle, need)
}

/// Waits until it is worth to try again. EINTR, ETIMEDOUT, ENOMEM, and those of the destination.
pub(crate) fn wait(
    peer: &Arc<Peer>,
    dest: u64,
    need: &Amounts,
    deadline: u64,
) -> Result<Option<Arc<Gate>>> {
    let to = target(peer, dest)?;
    let mut gate = Gate::new()?;
    let waiter = Waiter::Thread(&mut gate);
    if room::enter(&to.node, to.account, peer.id, need, waiter)? != Entered::Waits {
        // Others may take the room each time.
        bridge::may_go_on(deadline)?;
        return Ok(None);
    }
    if let Err(e) = gate.wait(deadline) {
        gate.pass_on();
        return Err(e);
    }
    Ok(Some(gate))
}

/// Where a message to an id goes. ENXIO, EPERM; at the first one through a handle EHOSTUNREACH and
/// ENOMEM, too.
#[inline(always)]
pub(crate) fn target(peer: &Arc<Peer>, dest: u64) -> Result<Target> {
    let inner = peer.inner.lock();
    let (node, account) = inner.resolve(dest)?;
    let node = node.clone();
    drop(inner);
    let account = match account {
        Some(account) => account,
        None => peer.open_account(dest)?,
    };
    Ok(Target { node, account })
}

/// One destination, and bytes alone: the common case.
#[inline(always)]
fn send_plain(peer: &Peer, to: Target, payload: &Payload, priority: u8) -> Result {
    let Target { node, account } = to;
    let mut draft = Draft::new(peer, node, payload.len(), priority, 0)?;
    draft.fill(peer, account, payload)?;
    draft.link(peer, account, None)?.wake();
    Ok(())
}

/// What is to be passed, as the sender has it; with its peer's lock held. EINVAL, ENXIO.
#[inline(always)]
fn grant(inner: &mut Inner, pass: &bus1_pass) -> Result<Grant> {
    let flags = abi::BUS1_PASS_MOVE | abi::BUS1_PASS_WEAK;
    if pass.flags & !flags != 0 || !Grade::are_rights(pass.drop_rights) {
        return Err(EINVAL);
    }
    inner.grant(pass.id)
}

/// What becomes of it on the way. EPERM.
#[inline]
fn restrict(grant: &mut Grant, pass: &bus1_pass) -> Result {
    if !grant.grade.may_pass() {
        return Err(EPERM);
    }
    grant.grade = grant.grade.without(pass.drop_rights);
    if pass.flags & abi::BUS1_PASS_WEAK != 0 {
        grant.weaken();
    }
    Ok(())
}

/// One destination, bytes, and a copy of one handle. False if it is not that simple.
fn send_handle(peer: &Arc<Peer>, cmd: &bus1_cmd_send, payload: &Payload) -> Result<bool> {
    let pass = read_pass(cmd.handles)?;
    let mut inner = peer.inner.lock();
    let (node, account) = inner.resolve(cmd.dest)?;
    let Some(account) = account else {
        return Ok(false);
    };
    let node = node.clone();
    if !node.is_plain || pass.flags & abi::BUS1_PASS_MOVE != 0 {
        return Ok(false);
    }
    let grant = grant(&mut inner, &pass);
    drop(inner);
    let mut grant = grant?;
    restrict(&mut grant, &pass)?;
    let mut draft = Draft::new(peer, node, payload.len(), cmd.priority as u8, 1)?;
    draft.fill(peer, account, payload)?;
    let woken = match draft.link_known(peer, account, &grant) {
        Ok(woken) => woken,
        Err(mut draft) => {
            draft.book(peer, account)?;
            draft.admit(&grant)?;
            draft.link(peer, account, None)?
        }
    };
    woken.wake();
    note_all_passed(peer, core::slice::from_ref(&grant));
    Ok(true)
}

/// Everything that a send brings to each of its destinations.
pub(crate) struct Load<'a> {
    payload: &'a Payload,
    priority: u8,
    passes: Several<bus1_pass>,
    /// Dropped after everything else is done: as long as they live no node becomes unused.
    pub(crate) grants: Several<Grant>,
    pub(crate) files: Several<FileRef>,
    pub(crate) body: Option<Body>,
    /// Made when a node asks for it.
    stamp: Option<Stamp>,
}

impl<'a> Load<'a> {
    pub(crate) fn read(
        peer: &Arc<Peer>,
        cmd: &bus1_cmd_send,
        payload: &'a Payload,
    ) -> Result<Self> {
        let passes: Several<bus1_pass> = read_several(cmd.handles, cmd.n_handles as usize)?;
        let files = read_files(cmd.fds, cmd.n_fds as usize)?;
        let mut grants = Several::new(passes.len())?;
        for pass in passes.iter() {
            let mut grant = grant(&mut peer.inner.lock(), pass)?;
            restrict(&mut grant, pass)?;
            grants.push(grant)?;
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

    /// There is more to it for that node than its payload.
    pub(crate) fn is_more_than_bytes(&self, node: &NodeRef) -> bool {
        let root = node.root();
        !self.grants.is_empty()
            || !self.files.is_empty()
            || self.body.is_some()
            || root.wants_creds
            || root.buffer.is_some()
    }

    /// A message to a node, with all that may take the caller's memory or time.
    pub(crate) fn prepare(&mut self, peer: &Peer, to: Target) -> Result<Draft> {
        if to.node.root().buffer.is_some() {
            return Err(eopnotsupp());
        }
        let mut stamp = None;
        if to.node.root().wants_creds {
            if self.stamp.is_none() {
                self.stamp = Some(Stamp::new()?);
            }
            stamp = self.stamp.clone();
        }
        let Target { node, account } = to;
        let (n_handles, n_files) = (self.grants.len(), self.files.len());
        let mut draft = Draft::new(peer, node, self.payload.len(), self.priority, n_handles)?;
        if n_handles | n_files != 0 {
            draft.charge_files(peer, n_files)?;
            draft.book(peer, account)?;
        }
        draft.fill(peer, account, self.payload)?;
        if stamp.is_some() || n_files != 0 || self.body.is_some() {
            draft.set_baggage(Baggage::new(&self.files, stamp, self.body)?);
        }
        Ok(draft)
    }

    /// Announces the handles to the receiver. When all of the caller's memory has been read, for all
    /// destinations: what is announced and does not come is in the receiver's way.
    pub(crate) fn announce(&self, draft: &mut Draft) -> Result {
        if !self.grants.is_empty() {
            let passed = PassedList::admit(&draft.node().owner, &self.grants)?;
            draft.set_passed(passed);
        }
        Ok(())
    }

    /// Takes the counts that are to move.
    pub(crate) fn start_moves(&self, peer: &Arc<Peer>) -> Result<Moving> {
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
pub(crate) fn start_once(peer: &Arc<Peer>, id: u64, node: &NodeRef) -> Result<Moving> {
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
pub(crate) fn finish_once(node: &NodeRef, count: Moving) {
    if node.is_once {
        drop(count.finish());
        finish_spent(node);
    }
}

fn send_one(peer: &Arc<Peer>, dest: u64, mut load: Load<'_>) -> Result {
    let to = target(peer, dest)?;
    let (node, account) = (to.node.clone(), to.account);
    let mut draft = load.prepare(peer, to)?;
    load.announce(&mut draft)?;
    let moving = load.start_moves(peer)?;
    let once = start_once(peer, dest, &node)?;
    draft.link(peer, account, None)?.wake();
    drop(moving.finish());
    finish_once(&node, once);
    note_all_passed(peer, &load.grants);
    Ok(())
}

/// What becomes of one destination.
enum Fate {
    Failed(Error),
    /// As [`Inner::resolve`] tells.
    Found(NodeRef, Option<AccountRef>),
    Ready(Draft, AccountRef),
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
                Ok((node, account)) => Fate::Found(node.clone(), account),
                Err(e) => Fate::Failed(e),
            })?;
        }
    }
    Ok(fates)
}

/// Makes the messages.
fn prepare_many(
    peer: &Arc<Peer>,
    dests: &[u64],
    fates: &mut [Fate],
    load: &mut Load<'_>,
) -> Result {
    for (id, fate) in dests.iter().zip(fates) {
        *fate = match mem::replace(fate, Fate::Failed(EAGAIN)) {
            Fate::Found(node, account) => {
                let account = match account {
                    Some(account) => Ok(account),
                    None => peer.open_account(*id),
                };
                let draft = account.and_then(|account| {
                    Ok((load.prepare(peer, Target { node, account })?, account))
                });
                match draft {
                    Ok((draft, account)) => Fate::Ready(draft, account),
                    Err(e) if is_dest_error(e) => Fate::Failed(e),
                    Err(e) => return Err(e),
                }
            }
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
        if let Fate::Ready(draft, _) = fate {
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
            Fate::Ready(draft, _) if draft.node().is_once => {
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
fn link_many(peer: &Peer, fates: &mut [Fate], commit: &Arc<Commit>) {
    for fate in fates {
        if let Fate::Ready(..) = fate {
            let Fate::Ready(draft, account) = mem::replace(fate, Fate::Failed(EAGAIN)) else {
                continue;
            };
            let message = draft.message();
            *fate = match draft.link(peer, account, Some(commit)) {
                Ok(_) => Fate::Linked(message),
                Err(e) => Fate::Failed(e),
            };
        }
    }
}

fn send_many(
    peer: &Arc<Peer>,
    cmd: &bus1_cmd_send,
    mut load: Load<'_>,
    full: &mut Option<u64>,
) -> Result {
    let dests: KVVec<u64> = read_array(cmd.dests, cmd.n_dests as usize)?;
    if cmd.errors != 0 {
        clear(cmd.errors, dests.len() * 4)?;
    }
    let mut fates = find_many(peer, &dests)?;
    let r = link_all(peer, cmd, &mut load, &dests, &mut fates);
    if cmd.flags & (WAIT | NOTIFY) == 0 {
        return r;
    }
    for (id, fate) in dests.iter().zip(&fates) {
        if let Fate::Failed(EAGAIN) = fate {
            if cmd.flags & NOTIFY != 0 {
                notify(peer, *id, &need(cmd, load.payload))?;
            }
            *full = Some(*id);
        }
    }
    r
}

fn link_all(
    peer: &Arc<Peer>,
    cmd: &bus1_cmd_send,
    load: &mut Load<'_>,
    dests: &[u64],
    fates: &mut [Fate],
) -> Result {
    let n = dests.len();
    let partial = cmd.flags & PARTIAL != 0;
    let commit = Commit::new()?;
    prepare_many(peer, dests, fates, load)?;
    tell_errors(cmd, fates, partial)?;
    // From here on the caller's memory is not touched until all is sent, or taken back.
    announce_many(fates, load)?;
    let spent = start_many(peer, dests, fates)?;
    let moving = load.start_moves(peer)?;

    // From the first link to the commit, or until all is taken back (ORD-4).
    let ordered = cmd.flags & ORDERED != 0;
    let sequence = ordered.then(Sequence::begin).transpose()?;
    link_many(peer, fates, &commit);
    let n_linked = fates
        .iter()
        .filter(|fate| matches!(fate, Fate::Linked(_)))
        .count();
    if n_linked == 0 || (n_linked < n && !partial) {
        fates.iter().for_each(take_back);
        drop(sequence);
        drop((spent, moving));
        return tell_errors(cmd, fates, partial);
    }
    commit.set();
    drop(sequence);

    // The copies are settled by whoever next comes to their queues. Who waits there looks at the flag
    // after he has entered the wait queue: pairs with the barrier in prepare_to_wait_event().
    smp_mb();
    for fate in fates.iter() {
        if let Fate::Linked(message) = fate {
            let owner = &message.node.owner;
            if owner.has_waiters() {
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
        return tell_errors(cmd, fates, partial);
    }
    Ok(())
}

/// What was linked was not sent after all.
fn take_back(fate: &Fate) {
    let Fate::Linked(message) = fate else {
        return;
    };
    let owner = &message.node.owner;
    let mut inner = owner.inner.lock();
    let entry = inner.queue.remove(&**message);
    message.node.set_spent(&mut inner, false);
    message.discharge(&mut inner);
    owner.unlock_room(inner);
    message.set_unsent();
    if let Some(entry) = entry {
        trace::dropped(&entry, abi::BUS1_WHY_TAKEN_BACK);
    }
}

/// Writes the errors there are, and fails if the command is to.
fn tell_errors(cmd: &bus1_cmd_send, fates: &[Fate], partial: bool) -> Result {
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
