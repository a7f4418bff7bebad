// SPDX-License-Identifier: GPL-2.0-only

//! The commands on nodes, handles and slices, but for sending and receiving.

use crate::abi::{
    self, bus1_cmd_ids, bus1_cmd_info, bus1_cmd_mint, bus1_cmd_node, bus1_cmd_setup,
    bus1_cmd_transfer,
};
use crate::baggage::FileRef;
use crate::errno::emediumtype;
use crate::handle::{Grade, HandleList};
use crate::item::{Commit, Items};
use crate::message::INLINE;
use crate::passed::{Passed, PassedList};
use crate::moving::Moving;
use crate::node::{
    detach, mark_dead, settle_told, take_holder, tell, tell_holders, Grant, Node, NodeRef,
};
use crate::peer::{Inner, Object, Peer};
use crate::user::{read_several, write_u64, Several};
use core::ptr::NonNull;
use kernel::list::List;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::{Arc, ArcBorrow};

pub(crate) fn create(peer: &Arc<Peer>, cmd: &mut bus1_cmd_node) -> Result {
    let flags = u64::from(abi::BUS1_NODE_CREDS | abi::BUS1_NODE_NO_INHERIT);
    if cmd.flags & !flags != 0 || cmd.id != 0 {
        return Err(EINVAL);
    }
    let node = Node::new(peer.clone(), cmd.cookie, cmd.flags)?;
    cmd.id = peer.insert_node(node)?;
    Ok(())
}

/// `tell` writes the command back. The facet could not be taken back if that failed later, since
/// another thread may have got it, too: so it comes first.
pub(crate) fn mint(
    peer: &Arc<Peer>,
    cmd: &mut bus1_cmd_mint,
    tell: impl Fn(&bus1_cmd_mint) -> Result,
) -> Result {
    let once = cmd.flags & u64::from(abi::BUS1_MINT_ONCE) != 0;
    if cmd.flags & !u64::from(abi::BUS1_MINT_ONCE) != 0 || cmd.id != 0 {
        return Err(EINVAL);
    }
    if cmd.badge == 0 && !once {
        return Err(EINVAL);
    }
    let (node, badge) = (cmd.node, cmd.badge);
    let minted = peer.mint(node, badge, once, |id| {
        cmd.id = id;
        tell(cmd)
    });
    if minted.is_err() && cmd.id != 0 {
        cmd.id = 0;
        // As it was; it could be written a moment ago.
        let _ = tell(cmd);
    }
    minted
}

pub(crate) fn setup(peer: &Arc<Peer>, cmd: &bus1_cmd_setup) -> Result {
    let by_priority = u64::from(abi::BUS1_PEER_PRIORITY);
    if cmd.flags & !by_priority != 0 {
        return Err(EINVAL);
    }
    let _inner = peer.inner.lock();
    peer.by_priority
        .store(cmd.flags & by_priority != 0, Relaxed);
    Ok(())
}

/// Takes back [`create`]: the caller could not be told the id.
pub(crate) fn uncreate(peer: &Arc<Peer>, id: u64) {
    let _ = destroy_ids(peer, &[id], 0);
}

pub(crate) fn read_ids(cmd: &bus1_cmd_ids, flags: u64) -> Result<Several<u64>> {
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

/// A node that is to be destroyed, and may be.
fn condemn(inner: &mut Inner, id: u64, flags: u64) -> Result<NodeRef> {
    let node = match inner.ids.get(id) {
        Some(Object::Node(node)) => node.clone(),
        Some(Object::Handle(handle)) if handle.is_held() => return Err(EPERM),
        _ => return Err(ENXIO),
    };
    // What is condemned leaves the table in the same section: it stands in the array twice.
    if node.is_condemned(inner) {
        return Err(EINVAL);
    }
    // The base was destroyed, and this is about to follow it.
    if node.is_dead() {
        return Err(ENXIO);
    }
    if flags & u64::from(abi::BUS1_DESTROY_UNUSED) != 0 && !node.is_unused(inner) {
        return Err(EBUSY);
    }
    Ok(node)
}

/// A condemned node leaves its owner's table, with the notice that it is unused.
fn remove(node: &NodeRef, inner: &mut Inner, garbage: &mut Items) {
    // The table's references are not the last ones: the caller has another.
    if node.base.is_some() {
        drop(inner.remove_facet(node));
    } else {
        drop(inner.remove_node(node));
    }
    if let Some(notice) = inner.queue.remove(&**node) {
        garbage.push_back(notice);
    }
}

/// Destroys one node that nobody holds, or only one peer: then no flag is needed to tell all at one
/// instant, and nothing is allocated. False if it is not that simple.
fn destroy_one(peer: &Arc<Peer>, id: u64, flags: u64) -> Result<bool> {
    let mut garbage = List::new();
    let mut inner = peer.inner.lock();
    let node = condemn(&mut inner, id, flags)?;
    let is_alone = node.base.is_none() && !inner.has_facets(&node);
    let Some(holders) = is_alone.then(|| take_holder(&node)).flatten() else {
        return Ok(false);
    };
    mark_dead(&node, &mut inner);
    remove(&node, &mut inner, &mut garbage);
    inner.prune(&mut garbage);
    peer.unlock_all(inner);
    tell(holders, None, &mut HandleList::new());
    peer.drop_items(garbage, abi::BUS1_WHY_DEAD);
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
            Ok(node) => {
                node.set_condemned(&mut inner, true);
                nodes.push_within_capacity(node)?;
            }
            Err(e) => {
                for node in &nodes {
                    node.set_condemned(&mut inner, false);
                }
                drop(inner);
                return Err(e);
            }
        }
    }
    // Nothing fails from here on.
    for node in &nodes {
        mark_dead(node, &mut inner);
    }
    for node in &nodes {
        remove(node, &mut inner, &mut garbage);
    }
    let mut is_told = false;
    for facet in nodes.iter().filter(|node| node.base.is_some()) {
        is_told |= detach(facet, &mut inner, Some(&commit));
    }
    inner.prune(&mut garbage);
    peer.unlock_all(inner);

    let mut told = HandleList::new();
    for node in &nodes {
        if node.base.is_none() {
            tell_facets(peer, node, &commit, &mut told);
        }
        tell_holders(node, Some(&commit), &mut told);
    }
    commit.set();
    settle_told(&mut told, &commit);
    if is_told {
        for node in &nodes {
            if let Some(base) = &node.base {
                peer.inner.lock().queue.settle(&**base, &commit);
            }
        }
        peer.wake();
    }
    peer.drop_items(garbage, abi::BUS1_WHY_DEAD);
    Ok(())
}

/// The facets of a dead node follow it.
fn tell_facets(peer: &Peer, base: &NodeRef, commit: &Arc<Commit>, told: &mut HandleList) {
    loop {
        let mut garbage = List::new();
        let mut inner = peer.inner.lock();
        let Some(facet) = inner.facet_of(base) else {
            break;
        };
        mark_dead(&facet, &mut inner);
        remove(&facet, &mut inner, &mut garbage);
        drop(inner);
        peer.drop_items(garbage, abi::BUS1_WHY_DEAD);
        tell_holders(&facet, Some(commit), told);
    }
}

/// A one-shot facet has carried its message.
pub(crate) fn finish_spent(facet: &NodeRef) {
    let owner = &facet.owner;
    let mut garbage = List::new();
    let mut inner = owner.inner.lock();
    remove(facet, &mut inner, &mut garbage);
    let is_told = detach(facet, &mut inner, None);
    owner.unlock_all(inner);
    owner.drop_items(garbage, abi::BUS1_WHY_DEAD);
    if is_told {
        owner.wake();
    }
    tell_holders(facet, None, &mut HandleList::new());
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
    Moving::start(peer, ids.len(), ids.iter().copied())?
        .releasing()?
        .finish();
    Ok(())
}

pub(crate) fn release_slices(peer: &Arc<Peer>, cmd: &bus1_cmd_ids) -> Result {
    peer.release_slices(&read_ids(cmd, 0)?)
}

/// A peer that the caller holds a descriptor of, as long as this lives.
struct OtherPeer {
    _file: Option<FileRef>,
    peer: Arc<Peer>,
}

impl OtherPeer {
    fn get(this: &Arc<Peer>, fd: i32) -> Result<Self> {
        if fd == -1 {
            return Ok(Self {
                _file: None,
                peer: this.clone(),
            });
        }
        let file = FileRef::get(fd, false)?;
        // SAFETY: We have a reference to the file.
        let Some(peer) = NonNull::new(unsafe { abi::bus1_file_peer(file.as_ptr()) }) else {
            return Err(emediumtype());
        };
        // SAFETY: The file owns a reference to its peer.
        let peer = unsafe { ArcBorrow::from_raw(peer.as_ptr().cast::<Peer>()) }.into();
        Ok(Self {
            _file: Some(file),
            peer,
        })
    }
}

fn write_ids(out: u64, passed: &[Passed]) -> Result {
    for (i, p) in passed.iter().enumerate() {
        write_u64(out.wrapping_add(i as u64 * 8), p.describe().id)?;
    }
    Ok(())
}

pub(crate) fn transfer(peer: &Arc<Peer>, cmd: &bus1_cmd_transfer) -> Result {
    let has = |flag: u32| cmd.flags & u64::from(flag) != 0;
    let known = abi::BUS1_TRANSFER_MOVE | abi::BUS1_TRANSFER_WEAK | abi::BUS1_TRANSFER_STRONG;
    let (weak, strong) = (has(abi::BUS1_TRANSFER_WEAK), has(abi::BUS1_TRANSFER_STRONG));
    if cmd.flags & !u64::from(known) != 0 || cmd.n_ids == 0 || cmd.reserved != 0 {
        return Err(EINVAL);
    }
    if (weak && strong) || !Grade::are_rights(cmd.drop_rights) {
        return Err(EINVAL);
    }
    if cmd.n_ids > abi::BUS1_MAX_IDS {
        return Err(EMSGSIZE);
    }
    let ids: Several<u64> = read_several(cmd.ids, cmd.n_ids as usize)?;
    let to = OtherPeer::get(peer, cmd.peer_fd)?;
    let is_self = Arc::ptr_eq(&to.peer, peer);
    let moves = has(abi::BUS1_TRANSFER_MOVE);
    let mut grants: KVec<Grant> = KVec::with_capacity(ids.len(), GFP_KERNEL_ACCOUNT)?;
    for id in ids.iter() {
        let mut grant = {
            let mut inner = peer.inner.lock();
            if moves {
                let _ = inner.handle(*id)?;
            }
            inner.grant(*id)?
        };
        if !is_self && !grant.grade.may_pass() {
            return Err(EPERM);
        }
        if strong {
            grant.strengthen()?;
        }
        grant.grade = grant.grade.without(cmd.drop_rights);
        if weak {
            grant.weaken();
        }
        grants.push_within_capacity(grant)?;
    }
    let (passed, moving) = PassedList::deliver(&to.peer, &grants, |passed| {
        write_ids(cmd.out, passed)?;
        if moves {
            return Moving::start(peer, ids.len(), ids.iter().copied());
        }
        Ok(Moving::none())
    })?;
    drop(moving.finish());
    if strong {
        for grant in &grants {
            grant.note_passed();
        }
    }
    for (grant, p) in grants.iter().zip(passed.iter()) {
        // What the other peer owns itself, it has no use of.
        if matches!(p, Passed::Handle(_)) {
            note_all_passed(peer, core::slice::from_ref(grant));
        }
    }
    Ok(())
}

/// The owner's books after its nodes were passed on.
#[inline(always)]
pub(crate) fn note_all_passed(peer: &Arc<Peer>, grants: &[Grant]) {
    for grant in grants {
        if Arc::ptr_eq(&grant.node().owner, peer) && !grant.node().is_in_use() {
            grant.note_passed();
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
    cmd.n_calls = inner.n_calls() as u32;
    Ok(())
}

impl bus1_cmd_info {
    fn as_words(&self) -> &[u64; 7] {
        const _: () = assert!(core::mem::size_of::<bus1_cmd_info>() == 56);
        // SAFETY: Integers without padding, aligned to 8, of that size.
        unsafe { &*(&raw const *self).cast() }
    }
}
