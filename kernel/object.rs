// SPDX-License-Identifier: GPL-2.0-only

//! The commands on nodes, handles and slices, but for sending and receiving.

use crate::abi::{self, bus1_cmd_ids, bus1_cmd_info, bus1_cmd_node, bus1_cmd_transfer};
use crate::errno::emediumtype;
use crate::message::{Passed, PassedList, INLINE};
use crate::node::{
    mark_dead, note_passed, settle_told, take_holder, tell, tell_holders, HandleList, HandleRef,
    Node, NodeRef, Retired, Told, Use,
};
use crate::peer::{Inner, Object, Peer};
use crate::queue::{Commit, Entry};
use crate::user::{read_several, write_u64, Several};
use core::ptr::NonNull;
use kernel::list::List;
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};

/// How many items of the queue a destroy looks through for messages that it has made void; those
/// behind them are dropped when they come to the front.
const PRUNE: usize = 1024;

pub(crate) fn create(peer: &Arc<Peer>, cmd: &mut bus1_cmd_node) -> Result {
    if cmd.flags != 0 || cmd.id != 0 {
        return Err(EINVAL);
    }
    let node = Node::new(peer.clone(), cmd.cookie)?;
    cmd.id = peer.insert_node(node)?;
    Ok(())
}

/// Takes back [`create`]: the caller could not be told the id.
pub(crate) fn uncreate(peer: &Arc<Peer>, id: u64) {
    let _ = destroy_ids(peer, &[id], 0);
}

fn read_ids(cmd: &bus1_cmd_ids, flags: u64) -> Result<Several<u64>> {
    if cmd.flags & !flags != 0 || cmd.reserved != 0 || cmd.n_ids == 0 {
        return Err(EINVAL);
    }
    if cmd.n_ids > abi::BUS1_MAX_IDS {
        return Err(EMSGSIZE);
    }
    read_several(cmd.ids, cmd.n_ids as usize)
}

pub(crate) fn destroy(peer: &Arc<Peer>, cmd: &bus1_cmd_ids) -> Result {
    let ids = read_ids(cmd, u64::from(abi::BUS1_DESTROY_UNUSED))?;
    destroy_ids(peer, &ids, cmd.flags)
}

/// The node that is to be destroyed, marked dead.
fn condemn(inner: &mut Inner, id: u64, flags: u64) -> Result<NodeRef> {
    let node = match inner.ids.get(id) {
        Some(Object::Node(node)) => node.clone(),
        Some(Object::Handle(handle)) if handle.count() > 0 => return Err(EPERM),
        _ => return Err(ENXIO),
    };
    // Dead nodes are not in the table: it stands in the array twice.
    if node.is_dead() {
        return Err(EINVAL);
    }
    if flags & u64::from(abi::BUS1_DESTROY_UNUSED) != 0 && !node.is_unused(inner) {
        return Err(EBUSY);
    }
    mark_dead(&node, inner, true);
    Ok(node)
}

/// Destroys one node that nobody holds, or only one peer: then no flag is needed to tell all at one
/// instant, and nothing is allocated. False if there are more.
fn destroy_one(peer: &Arc<Peer>, id: u64, flags: u64) -> Result<bool> {
    let mut garbage = List::new();
    let mut inner = peer.inner.lock();
    let node = condemn(&mut inner, id, flags)?;
    let Some(holders) = take_holder(&node) else {
        mark_dead(&node, &mut inner, false);
        return Ok(false);
    };
    // The table's reference is not the last one.
    drop(inner.ids.remove(id));
    if let Some(notice) = inner.queue.remove(&*node) {
        garbage.push_back(notice);
    }
    inner.nodes -= 1;
    inner.queue.prune(&mut garbage, PRUNE);
    drop(inner);
    tell(holders, None, &mut HandleList::new());
    peer.drop_items(garbage);
    Ok(true)
}

fn destroy_ids(peer: &Arc<Peer>, ids: &[u64], flags: u64) -> Result {
    if let [id] = ids {
        if destroy_one(peer, *id, flags)? {
            return Ok(());
        }
    }
    let commit = Commit::new()?;
    let mut nodes: KVVec<NodeRef> = KVVec::with_capacity(ids.len(), GFP_KERNEL_ACCOUNT)?;
    let mut garbage = List::new();

    let mut inner = peer.inner.lock();
    for id in ids {
        match condemn(&mut inner, *id, flags) {
            Ok(node) => nodes.push_within_capacity(node)?,
            Err(e) => {
                for node in &nodes {
                    mark_dead(node, &mut inner, false);
                }
                drop(inner);
                return Err(e);
            }
        }
    }
    // Nothing fails from here on.
    for (id, node) in ids.iter().zip(&nodes) {
        // The table's reference is not the last one: `nodes` has another.
        drop(inner.ids.remove(*id));
        if let Some(notice) = inner.queue.remove(&**node) {
            garbage.push_back(notice);
        }
    }
    inner.nodes -= nodes.len();
    inner.queue.prune(&mut garbage, PRUNE);
    drop(inner);

    let mut told = HandleList::new();
    for node in &nodes {
        tell_holders(node, Some(&commit), &mut told);
    }
    commit.set();
    settle_told(&mut told);
    peer.drop_items(garbage);
    Ok(())
}

pub(crate) fn release(peer: &Arc<Peer>, cmd: &bus1_cmd_ids) -> Result {
    let ids = read_ids(cmd, 0)?;
    if ids.len() == 1 {
        let mut inner = peer.inner.lock();
        let handle = inner.handle(ids[0])?;
        handle.add_count(-1, &mut inner);
        let retired = inner.retire(&handle);
        drop(inner);
        drop(retired);
        return Ok(());
    }
    release_many(peer, &ids)
}

/// Takes one count away per id, all or none. The handles that are then gone are pushed to `retired`,
/// which has room for all.
fn take_counts(peer: &Arc<Peer>, ids: &[u64], retired: &mut KVVec<Retired>) -> Result {
    let mut handles: KVVec<HandleRef> = KVVec::with_capacity(ids.len(), GFP_KERNEL_ACCOUNT)?;

    let mut inner = peer.inner.lock();
    for id in ids {
        match inner.handle(*id) {
            Ok(handle) => {
                handle.add_count(-1, &mut inner);
                handles.push_within_capacity(handle)?;
            }
            Err(e) => {
                for handle in &handles {
                    handle.add_count(1, &mut inner);
                }
                drop(inner);
                return Err(e);
            }
        }
    }
    for handle in &handles {
        // A handle that stands in the array twice is in the table only the first time.
        if let Some(r) = inner.retire(handle) {
            retired.push_within_capacity(r)?;
        }
    }
    Ok(())
}

fn release_many(peer: &Arc<Peer>, ids: &[u64]) -> Result {
    let commit = Commit::new()?;
    let mut retired: KVVec<Retired> = KVVec::with_capacity(ids.len(), GFP_KERNEL_ACCOUNT)?;
    let mut told: KVVec<Told> = KVVec::with_capacity(ids.len(), GFP_KERNEL_ACCOUNT)?;

    take_counts(peer, ids, &mut retired)?;
    for r in retired {
        if let Some(t) = r.leave(Some(&commit)) {
            told.push_within_capacity(t)?;
        }
    }
    commit.set();
    for t in &told {
        t.settle();
        t.wake();
    }
    Ok(())
}

pub(crate) fn release_slices(peer: &Arc<Peer>, cmd: &bus1_cmd_ids) -> Result {
    peer.release_slices(&read_ids(cmd, 0)?)
}

/// A peer that the caller holds a descriptor of, as long as this lives.
struct OtherPeer {
    file: NonNull<abi::file>,
    peer: Arc<Peer>,
}

impl OtherPeer {
    fn get(fd: i32) -> Result<Self> {
        // SAFETY: May be called with any number.
        let file = NonNull::new(unsafe { abi::bus1_fget(fd) }).ok_or(EBADF)?;
        // SAFETY: We have a reference to the file.
        let Some(peer) = NonNull::new(unsafe { abi::bus1_file_peer(file.as_ptr()) }) else {
            // SAFETY: We have a reference to the file, and give it back.
            unsafe { abi::bus1_fput(file.as_ptr()) };
            return Err(emediumtype());
        };
        // SAFETY: The file owns a reference to its peer.
        let peer = unsafe { ArcBorrow::from_raw(peer.as_ptr().cast::<Peer>()) }.into();
        Ok(Self { file, peer })
    }
}

impl Drop for OtherPeer {
    fn drop(&mut self) {
        // SAFETY: Taken by `get`.
        unsafe { abi::bus1_fput(self.file.as_ptr()) };
    }
}

fn write_ids(out: u64, passed: &[Passed]) -> Result {
    for (i, p) in passed.iter().enumerate() {
        write_u64(out.wrapping_add(i as u64 * 8), p.describe().id)?;
    }
    Ok(())
}

pub(crate) fn transfer(peer: &Arc<Peer>, cmd: &bus1_cmd_transfer) -> Result {
    if cmd.flags & !u64::from(abi::BUS1_TRANSFER_MOVE) != 0 || cmd.n_ids == 0 {
        return Err(EINVAL);
    }
    if cmd.n_ids > abi::BUS1_MAX_IDS {
        return Err(EMSGSIZE);
    }
    let moves = cmd.flags & u64::from(abi::BUS1_TRANSFER_MOVE) != 0;
    let ids: Several<u64> = read_several(cmd.ids, cmd.n_ids as usize)?;
    let to = OtherPeer::get(cmd.peer_fd)?;
    let mut uses: KVec<Use> = KVec::with_capacity(ids.len(), GFP_KERNEL_ACCOUNT)?;
    let n_moved = if moves { ids.len() } else { 0 };
    let mut retired: KVVec<Retired> = KVVec::with_capacity(n_moved, GFP_KERNEL_ACCOUNT)?;
    for id in ids.iter() {
        let mut inner = peer.inner.lock();
        uses.push_within_capacity(inner.resolve_use(*id)?)?;
        if moves {
            let _ = inner.handle(*id)?;
        }
    }
    let passed = PassedList::admit(&to.peer, &uses)?;
    // As in the hand of a receiver: the ids told here stay.
    {
        let _inner = to.peer.inner.lock();
        passed.add_in_hand(1);
    }
    let mut r = write_ids(cmd.out, &passed);
    if moves {
        r = r.and_then(|()| take_counts(peer, &ids, &mut retired));
    }
    // If that went well nothing fails from here on.
    let mut inner = to.peer.inner.lock();
    passed.add_in_hand(-1);
    let dead = r.is_ok() && passed.take(&mut inner);
    drop(inner);
    r?;
    if dead {
        to.peer.wake();
    }
    for (u, p) in uses.iter().zip(passed.iter()) {
        // What the other peer owns itself, it has no use of.
        if matches!(p, Passed::Handle(_)) {
            note_all_passed(peer, core::slice::from_ref(u));
        }
    }
    Ok(())
}

/// The owner's books after its nodes were passed on.
pub(crate) fn note_all_passed(peer: &Arc<Peer>, uses: &[Use]) {
    for u in uses {
        if Arc::ptr_eq(&u.node().owner, peer) {
            let overtaken: Option<Entry> = note_passed(u.node(), &mut peer.inner.lock());
            drop(overtaken);
        }
    }
}

pub(crate) fn info(peer: &Arc<Peer>, cmd: &mut bus1_cmd_info) -> Result {
    if *cmd.as_words() != [0; 7] {
        return Err(EINVAL);
    }
    let inner = peer.inner.lock();
    let (n_slices, pool_used) = inner.slices.in_use();
    if let Some(pool) = peer.pool() {
        cmd.pool_size = pool.size() as u64;
        cmd.pool_pages = pool.n_pages();
    }
    cmd.pool_used = pool_used as u64;
    cmd.n_nodes = inner.nodes as u32;
    cmd.n_handles = inner.n_handles() as u32;
    cmd.n_queued = inner.queue.len() as u32;
    cmd.n_slices = n_slices as u32;
    cmd.max_inline = INLINE as u32;
    Ok(())
}

impl bus1_cmd_info {
    fn as_words(&self) -> &[u64; 7] {
        const _: () = assert!(core::mem::size_of::<bus1_cmd_info>() == 56);
        // SAFETY: Integers without padding, aligned to 8, of that size.
        unsafe { &*(&raw const *self).cast() }
    }
}
