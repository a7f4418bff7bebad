// SPDX-License-Identifier: GPL-2.0-only

//! Peers: what they hold, and how things get in and out of it.

use crate::bridge::{Counted, Stat, WaitQueue};
use crate::errno::{edquot, ehostunreach};
use crate::ids::{Growth, IdTable};
use crate::message::{Message, Passed};
use crate::node::{mark_dead, tell_holders, Handle, HandleList, HandleRef, NodeRef, Retired, Use};
use crate::pool::Pool;
use crate::queue::{Commit, Entry, Item, Items, Queue};
use crate::slices::{Slice, Slices, GRANULE};
use core::mem;
use core::ptr::NonNull;
use kernel::alloc::flags;
use kernel::bindings;
use kernel::list::{List, ListArc};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::{new_spinlock, Arc, SetOnce, SpinLock};

/// Hard bounds of one peer, and of all peers together.
const MAX_QUEUED: usize = 16384;
const MAX_NODES: usize = 1 << 17;
const MAX_HANDLES: usize = 1 << 17;
const MAX_SLICES: usize = 1 << 16;
const MAX_PEERS: i64 = 1 << 16;

/// What an id names.
pub(crate) enum Object {
    Node(NodeRef),
    Handle(HandleRef),
}

#[pin_data(PinnedDrop)]
pub(crate) struct Peer {
    /// See the head of `module.rs` for what may be done under it.
    #[pin]
    pub(crate) inner: SpinLock<Inner>,
    #[pin]
    pub(crate) wait: WaitQueue,
    /// Set once, under the lock, when the peer is first mapped.
    pool: SetOnce<Pool>,
    _counted: Counted,
}

#[pinned_drop]
impl PinnedDrop for Peer {
    fn drop(self: Pin<&mut Self>) {
        // Those that user space had: the others were freed with their messages.
        Stat::Slices.add(-(self.inner.lock().slices.in_use().0 as i64));
    }
}

pub(crate) struct Inner {
    /// Nothing gets in any more.
    pub(crate) closed: bool,
    pub(crate) queue: Queue,
    pub(crate) ids: IdTable<Object>,
    /// How many of them are nodes.
    pub(crate) nodes: usize,
    /// Each handle, by the address of its node: the same node is the same handle (OBJ-4).
    by_node: RBTree<usize, HandleRef>,
    pub(crate) slices: Slices,
}

fn key(node: &NodeRef) -> usize {
    Arc::as_ptr(node).addr()
}

/// Memory for one more handle, allocated before the lock is taken.
struct Spare {
    handle: ListArc<Item<Handle>, 2>,
    tree: RBTreeNodeReservation<usize, HandleRef>,
}

impl Inner {
    pub(crate) fn n_handles(&self) -> usize {
        self.ids.len() - self.nodes
    }

    /// The node that an id of this peer stands for: its own, or a handle's.
    #[inline]
    pub(crate) fn resolve(&self, id: u64) -> Result<&NodeRef> {
        match self.ids.get(id) {
            Some(Object::Node(node)) => Ok(node),
            Some(Object::Handle(handle)) if handle.count() > 0 => Ok(&handle.node),
            _ => Err(ENXIO),
        }
    }

    /// A use of the node that an id of this peer stands for.
    pub(crate) fn resolve_use(&mut self, id: u64) -> Result<Use> {
        let node = self.resolve(id)?.clone();
        Ok(Use::new(&node, self))
    }

    /// The handle that user space names by an id. ENXIO, or EPERM if it is a node.
    pub(crate) fn handle(&self, id: u64) -> Result<HandleRef> {
        match self.ids.get(id) {
            Some(Object::Handle(handle)) if handle.count() > 0 => Ok(handle.clone()),
            Some(Object::Node(_)) => Err(EPERM),
            _ => Err(ENXIO),
        }
    }

    /// After a handle has lost a count, or one that was coming: if it has become idle it is taken out
    /// of the table.
    pub(crate) fn retire(&mut self, handle: &HandleRef) -> Option<Retired> {
        if !handle.is_idle() {
            if handle.wants_new_id() {
                let object = self.ids.remove(handle.id.load(Relaxed))?;
                // There is always a slot in reserve, so this can not fail.
                if let Ok(id) = self.ids.insert(object) {
                    Handle::rename(handle, id, self);
                }
            }
            return None;
        }
        // Not there if the peer is closed: then that has retired it.
        self.ids.remove(handle.id.load(Relaxed))?;
        self.by_node.remove(&key(&handle.node));
        let notice = self.queue.remove(&**handle);
        Some(Retired::new(handle.clone(), notice))
    }
}

// What is left of a growth is dropped where it is overwritten: after the lock.
#[allow(unused_assignments)]
impl Peer {
    pub(crate) fn open() -> Result<Arc<Self>> {
        let counted = Counted::new_within(Stat::Peers, MAX_PEERS)?;
        Arc::pin_init(
            try_pin_init!(Self {
                inner <- new_spinlock!(
                    Inner {
                        closed: false,
                        queue: Queue::new(),
                        ids: IdTable::new(),
                        nodes: 0,
                        by_node: RBTree::new(),
                        slices: Slices::new(),
                    },
                    "bus1_peer"
                ),
                wait <- WaitQueue::new(),
                pool: SetOnce::new(),
                _counted: counted,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Ends the peer (OBJ-1). Each notice that is due stands for itself: this can not fail.
    pub(crate) fn close(&self) {
        let (ids, by_node, items) = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            inner.nodes = 0;
            (
                mem::replace(&mut inner.ids, IdTable::new()),
                mem::replace(&mut inner.by_node, RBTree::new()),
                inner.queue.close(),
            )
        };
        for object in ids.drain() {
            match object {
                Object::Node(node) => {
                    mark_dead(&node, &mut self.inner.lock(), true);
                    tell_holders(&node, None, &mut HandleList::new());
                }
                Object::Handle(handle) => drop(Retired::new(handle, None)),
            }
            crate::bridge::resched();
        }
        drop(by_node);
        self.drop_items(items);
    }

    /// Drops what was taken off the queue. Each may hold the last use of something.
    pub(crate) fn drop_items(&self, mut items: Items) {
        while let Some(item) = items.pop_front() {
            drop(item);
            crate::bridge::resched();
        }
    }

    #[inline]
    pub(crate) fn pool(&self) -> Option<&Pool> {
        self.pool.as_ref()
    }

    #[inline]
    pub(crate) fn wake(&self) {
        self.wait.wake();
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.inner.lock().queue.has_next()
    }

    /// Drops what waits at the front of the queue and can never be received.
    pub(crate) fn clean(&self) {
        let mut garbage = List::new();
        let entry = self.inner.lock().queue.next(&mut garbage, |_| false);
        drop(entry);
        if !garbage.is_empty() {
            self.drop_items(garbage);
        }
    }

    /// Adds a node of this peer's to its table.
    pub(crate) fn insert_node(&self, node: NodeRef) -> Result<u64> {
        let mut growth = None;
        loop {
            let mut inner = self.inner.lock();
            if let Some(g) = growth.take() {
                growth = inner.ids.grow(g);
            }
            if inner.nodes >= MAX_NODES {
                return Err(edquot());
            }
            if let (None, Some(id)) = (inner.ids.growth(2), inner.ids.next_id()) {
                node.id.store(id, Relaxed);
                inner.nodes += 1;
                // There is a free slot, so this can not fail.
                let _ = inner.ids.insert(Object::Node(node));
                return Ok(id);
            }
            let need = inner.ids.growth(2);
            drop(inner);
            growth = need.map(Growth::new).transpose()?;
        }
    }

    /// Announces a handle to this peer: found, or made, and counted as coming.
    pub(crate) fn admit(self: &Arc<Self>, u: &Use) -> Result<Passed> {
        let node = u.node();
        if Arc::ptr_eq(&node.owner, self) {
            return Ok(Passed::Own(u.clone_use()));
        }
        let mut growth = None;
        let mut spare: Option<Spare> = None;
        loop {
            let mut inner = self.inner.lock();
            if inner.closed {
                return Err(ehostunreach());
            }
            if let Some(handle) = inner.by_node.get(&key(node)).cloned() {
                handle.add_coming(1, &mut inner);
                return Ok(Passed::Handle(handle));
            }
            if inner.n_handles() >= MAX_HANDLES {
                return Err(edquot());
            }
            if let Some(g) = growth.take() {
                growth = inner.ids.grow(g);
            }
            let need = inner.ids.growth(2);
            if need.is_none() {
                if let Some(Spare { handle, tree }) = spare.take() {
                    return Ok(Passed::Handle(Self::add_handle(&mut inner, handle, tree)));
                }
            }
            drop(inner);
            growth = need.map(Growth::new).transpose()?;
            if spare.is_none() {
                spare = Some(Spare {
                    handle: Handle::new(self.clone(), node.clone())?,
                    tree: RBTreeNodeReservation::new(flags::GFP_KERNEL_ACCOUNT)?,
                });
            }
        }
    }

    fn add_handle(
        inner: &mut Inner,
        link: ListArc<Item<Handle>, 2>,
        tree: RBTreeNodeReservation<usize, HandleRef>,
    ) -> HandleRef {
        let handle = link.clone_arc();
        // There is a free slot, so this can not fail.
        if let Ok(id) = inner.ids.insert(Object::Handle(handle.clone())) {
            handle.id.store(id, Relaxed);
        }
        inner
            .by_node
            .insert(tree.into_node(key(&handle.node), handle.clone()));
        handle.add_coming(1, inner);
        Handle::hold(link, inner);
        handle
    }

    /// A handle that was announced does not come.
    pub(crate) fn give_up(&self, handle: &HandleRef) {
        let mut inner = self.inner.lock();
        handle.add_coming(-1, &mut inner);
        let retired = inner.retire(handle);
        drop(inner);
        drop(retired);
    }

    /// Allocates a slice of the pool for a message to `node`, which this peer owns.
    ///
    /// EHOSTUNREACH if it is dead, EMSGSIZE if the pool can never hold it, EAGAIN if it can not now.
    pub(crate) fn reserve(&self, node: &NodeRef, len: usize) -> Result<Slice> {
        let mut growth = None;
        loop {
            let mut inner = self.inner.lock();
            if inner.closed || node.is_dead() {
                return Err(ehostunreach());
            }
            if self.pool().is_none_or(|pool| len > pool.size()) {
                return Err(EMSGSIZE);
            }
            if inner.slices.in_use().0 >= MAX_SLICES || inner.queue.len() >= MAX_QUEUED {
                return Err(EAGAIN);
            }
            if let Some(g) = growth.take() {
                growth = inner.slices.grow(g);
            }
            let Some(need) = inner.slices.growth() else {
                let slice = inner
                    .slices
                    .alloc(len.div_ceil(GRANULE) as u32)
                    .ok_or(EAGAIN)?;
                drop(inner);
                Stat::Slices.add(1);
                return Ok(slice);
            };
            drop(inner);
            growth = Some(Growth::new(need)?);
        }
    }

    /// Frees a slice that user space never got. What was copied for a message that was not sent is
    /// zeroed before.
    pub(crate) fn unreserve(&self, slice: Slice, len: usize, sent: bool) {
        if !sent {
            if let Some(pool) = self.pool() {
                pool.zero(slice.offset, len);
            }
        }
        self.inner.lock().slices.free(slice.id);
        Stat::Slices.add(-1);
    }

    /// Gives slices back, all or none.
    pub(crate) fn release_slices(&self, ids: &[u64]) -> Result {
        let mut inner = self.inner.lock();
        if let [id] = ids {
            if !inner.slices.release(*id) {
                return Err(ENXIO);
            }
            drop(inner);
            Stat::Slices.add(-1);
            return Ok(());
        }
        for (i, id) in ids.iter().enumerate() {
            if !inner.slices.is_users(*id) {
                // Unknown, or the second time in the array: undo the mark of those before.
                for id in &ids[..i] {
                    inner.slices.set_users(*id, true);
                }
                return Err(ENXIO);
            }
            inner.slices.set_users(*id, false);
        }
        for id in ids {
            inner.slices.free(*id);
        }
        drop(inner);
        Stat::Slices.add(-(ids.len() as i64));
        Ok(())
    }

    /// Links a message to a node of this peer's, or fails: EHOSTUNREACH, EAGAIN.
    #[inline]
    pub(crate) fn link(
        &self,
        node: &NodeRef,
        message: ListArc<Item<Message>>,
        commit: Option<&Arc<Commit>>,
    ) -> Result {
        let mut inner = self.inner.lock();
        let refused = if inner.closed || node.is_dead() {
            ehostunreach()
        } else if inner.queue.len() >= MAX_QUEUED {
            EAGAIN
        } else {
            inner.queue.push(message as Entry, commit);
            return Ok(());
        };
        drop(inner);
        message.set_sent(false);
        drop(message);
        Err(refused)
    }

    /// Makes the pool, if there is none, and checks a mapping of it.
    pub(crate) fn map(&self, pgoff: usize, pages: usize) -> Result {
        let end = pgoff.checked_add(pages).ok_or(EINVAL)?;
        let have = || self.pool().map(|p| p.size() / PAGE_SIZE);
        let check = |n: usize| if end <= n { Ok(()) } else { Err(EINVAL) };
        if let Some(n) = have() {
            return check(n);
        }
        if pgoff != 0 || pages == 0 || pages > crate::abi::BUS1_MAX_POOL as usize / PAGE_SIZE {
            return Err(EINVAL);
        }
        let pool = Pool::new(pages)?;
        let mut growth = None;
        loop {
            let mut inner = self.inner.lock();
            if let Some(n) = have() {
                return check(n);
            }
            if let Some(g) = growth.take() {
                growth = inner.slices.grow(g);
            }
            let Some(need) = inner.slices.growth() else {
                inner
                    .slices
                    .extend((pages * (PAGE_SIZE / GRANULE)) as u32)?;
                self.pool.populate(pool);
                return Ok(());
            };
            drop(inner);
            growth = Some(Growth::new(need)?);
        }
    }

    pub(crate) fn page(&self, pgoff: usize) -> Option<NonNull<bindings::page>> {
        self.pool()?.page_ptr(pgoff)
    }
}
