// SPDX-License-Identifier: GPL-2.0-only

//! Peers: what they hold, and how things get in and out of it.

use crate::abi;
use crate::backing::Mapping;
use crate::bridge::{self, Counted, Stat, WaitQueue};
use crate::call::Call;
use crate::ending;
use crate::errno::{edquot, ehostunreach};
use crate::handle::{Handle, HandleList, HandleRef, Retired};
use crate::ids::{Growth, IdTable};
use crate::item::{Commit, Entry, Items};
use crate::limits::{Limit, Opened, UserRef};
use crate::message::{Draft, Message};
use crate::node::{mark_dead, tell_holders, Grant, Node, NodeRef};
use crate::park::{Parked, Waker};
use crate::passed::Passed;
use crate::pool::Pool;
use crate::queue::Queue;
use crate::quota;
use crate::reclaim::Reclaim;
use crate::room::{self, AccountRef, Book, NewAccount, Ring};
use crate::slices::{Slice, Slices, GRANULE};
use crate::spare::Spare;
use crate::trace;
use core::mem;
use core::ptr::NonNull;
use kernel::alloc::flags;
use kernel::bindings;
use kernel::list::List;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::atomic::{ordering::Relaxed, Atomic};
use kernel::sync::{new_spinlock, Arc, SetOnce, SpinLock};

mod inner;

pub(crate) use inner::{Inner, Object};
use inner::{addr, facet_key, FacetKey};

/// Slices that one peer's pool may have.
pub(crate) const MAX_SLICES: usize = 1 << 16;

/// No id of a call is 0: the lower half of its number is less than this.
const CALL_KEY: u64 = 1 << 31;

static NEXT_ID: Atomic<u64> = Atomic::new(1);

#[pin_data(PinnedDrop)]
pub(crate) struct Peer {
    /// Never used again, and never 0.
    pub(crate) id: u64,
    /// Who opened it.
    pub(crate) user: UserRef,
    /// See the head of `module.rs` for what may be done under it.
    #[pin]
    pub(crate) inner: SpinLock<Inner>,
    /// Of pollers.
    #[pin]
    pub(crate) wait: WaitQueue,
    /// Threads that wait to receive.
    pub(crate) parked: Parked,
    /// For messages to it.
    pub(crate) spare: Spare<Message>,
    /// For calls that it makes.
    pub(crate) spare_call: Spare<Call>,
    /// For its handles.
    pub(crate) spare_handle: Spare<Handle>,
    /// It stands for an exported handle: see `export.rs`.
    pub(crate) is_export: bool,
    /// Messages are received by priority.
    pub(crate) by_priority: Atomic<bool>,
    /// Set once, under the lock, when the peer is first mapped.
    pool: SetOnce<Pool>,
    /// Of the file, if it can be mapped.
    mapping: Option<Mapping>,
    _counted: Counted,
    /// Last: it keeps the user.
    opened: Opened,
}

#[pinned_drop]
impl PinnedDrop for Peer {
    fn drop(self: Pin<&mut Self>) {
        // Those that user space had: the others were freed with their messages.
        Stat::Slices.add(-(self.inner.lock().slices.in_use().0 as i64));
    }
}

/// Who is to be woken after something was linked.
#[must_use]
pub(crate) struct Woken {
    receiver: Option<Waker>,
    pollers: Option<Arc<Peer>>,
}

impl Woken {
    pub(crate) const NOBODY: Self = Self {
        receiver: None,
        pollers: None,
    };

    pub(crate) fn receiver(receiver: Option<Waker>) -> Self {
        Self {
            receiver,
            pollers: None,
        }
    }

    /// Wakes all but the receiver, who is the caller's to wake. No lock may be held.
    #[inline(always)]
    pub(crate) fn into_receiver(self) -> Option<Waker> {
        if let Some(peer) = self.pollers {
            peer.wait.wake(peer.is_export);
        }
        self.receiver
    }

    /// No lock may be held.
    #[inline(always)]
    pub(crate) fn wake(self) {
        if let Some(receiver) = self.receiver {
            receiver.wake();
        }
        if let Some(peer) = self.pollers {
            peer.wait.wake(peer.is_export);
        }
    }
}

/// The node that a message goes to, and where it is charged.
pub(crate) struct Target {
    pub(crate) node: NodeRef,
    pub(crate) account: AccountRef,
}

// What is left of a growth is dropped where it is overwritten: after the lock.
#[allow(unused_assignments)]
impl Peer {
    /// Opens a peer for a user. EDQUOT, ENOMEM.
    pub(crate) fn open(uid: u32, is_export: bool) -> Result<Arc<Self>> {
        let opened = Opened::new(uid)?;
        let user = opened.user();
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let mut book = Book::new(&room::all(0));
        let mut new = Some(NewAccount::new(user, uid)?);
        let own = book.open(id, user, uid, &mut new).ok_or(ENOMEM)?;
        book.hold(own);
        let mapping = if is_export {
            None
        } else {
            Some(Mapping::new()?)
        };
        let peer = Arc::pin_init(
            try_pin_init!(Self {
                id,
                user,
                inner <- new_spinlock!(
                    Inner {
                        closed: false,
                        queue: Queue::new(),
                        ids: IdTable::new(),
                        nodes: 0,
                        facets: RBTree::new(),
                        slices: Slices::new(),
                        reclaim: Reclaim::new(),
                        pool_granules: 0,
                        most_granules: 0,
                        book,
                        own,
                        ring: Ring::new(),
                        writable: List::new(),
                        n_waiting: 0,
                        calls: IdTable::new(),
                        call_key: bridge::random() | CALL_KEY,
                        n_requests: 0,
                        reply_node: None,
                    },
                    "bus1_peer"
                ),
                wait <- WaitQueue::new(),
                parked: Parked::new(),
                spare: Spare::new(),
                spare_call: Spare::new(),
                spare_handle: Spare::new(),
                is_export,
                by_priority: Atomic::new(false),
                pool: SetOnce::new(),
                mapping,
                _counted: Counted::new(Stat::Peers),
                opened,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        trace::opened(&peer);
        Ok(peer)
    }

    /// Ends the peer (OBJ-1). Each notice that is due stands for itself: this can not fail.
    pub(crate) fn close(&self) {
        trace::closed(self);
        let mut inner = self.inner.lock();
        inner.closed = true;
        self.unlist(&mut inner);
        let n_nodes = mem::replace(&mut inner.nodes, 0);
        let ids = mem::replace(&mut inner.ids, IdTable::new());
        let facets = mem::replace(&mut inner.facets, RBTree::new());
        let writable = mem::replace(&mut inner.writable, List::new());
        let calls = mem::replace(&mut inner.calls, IdTable::new());
        let reply_node = inner.reply_node.take();
        let items = inner.queue.close();
        self.unlock_all(inner);
        self.user.discharge(Limit::Nodes, n_nodes);
        drop((writable, reply_node));
        for entry in calls.drain() {
            ending::close(entry);
            crate::bridge::resched();
        }
        for object in ids.drain() {
            match object {
                Object::Node(node) => {
                    // Facets, too, stand in the table.
                    mark_dead(&node, &mut self.inner.lock());
                    tell_holders(&node, None, &mut HandleList::new());
                }
                Object::Handle(handle) => drop(Retired::new(handle, None)),
            }
            crate::bridge::resched();
        }
        drop(facets);
        items.drop_all(|item| ending::discard(item, abi::BUS1_WHY_CLOSED));
        self.release_all();
        self.opened.close();
    }

    /// Drops what was taken off the queue, and why: one of `enum bus1_why`. Each may hold the last
    /// use of something.
    pub(crate) fn drop_items(&self, mut items: Items, why: u32) {
        while let Some(item) = items.pop_front() {
            ending::discard(item, why);
            crate::bridge::resched();
        }
    }

    #[inline]
    pub(crate) fn pool(&self) -> Option<&Pool> {
        self.pool.as_ref()
    }

    pub(crate) fn mapping(&self) -> Option<&Mapping> {
        self.mapping.as_ref()
    }

    /// After something was linked: wakes one receiver, and pollers. No lock may be held.
    pub(crate) fn wake(&self) {
        self.wake_receiver();
        self.wait.wake(self.is_export);
    }

    fn wake_receiver(&self) {
        // Whoever has entered since the change has looked at it.
        if self.parked.is_active() {
            let receiver = self.parked.pop(&mut self.inner.lock());
            if let Some(receiver) = receiver {
                receiver.wake();
            }
        }
    }

    /// Whether [`wake`](Self::wake) is needed, after a full barrier.
    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        self.parked.is_active() || self.wait.is_active()
    }

    /// One of its handles waits for room no more, or there is a notice of that.
    pub(crate) fn wake_writable(&self) {
        self.wake_receiver();
        self.wait.wake_writable();
    }

    /// Who is to be woken for what was just linked, in the same section.
    #[inline(always)]
    pub(crate) fn woken(&self, inner: &mut Inner, this: &Arc<Peer>) -> Woken {
        // Whoever waits has taken the lock to look since he entered.
        Woken {
            receiver: self.parked.pop(inner),
            pollers: self.wait.is_active().then(|| this.clone()),
        }
    }

    pub(crate) fn is_readable(&self) -> bool {
        let mut inner = self.inner.lock();
        !inner.writable.is_empty() || inner.queue.has_next()
    }

    /// Nothing that it has sent waits for room.
    pub(crate) fn is_writable(&self) -> bool {
        self.inner.lock().n_waiting == 0
    }

    /// Drops what waits at the front of the queue and can never be received.
    pub(crate) fn clean(&self) {
        let mut garbage = List::new();
        let entry = self.inner.lock().queue.next(&mut garbage, |_| false);
        drop(entry);
        if !garbage.is_empty() {
            self.drop_items(garbage, abi::BUS1_WHY_DEAD);
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
            if inner.nodes >= self.user.max_of_peer(Limit::Nodes) {
                return Err(self.refused(abi::BUS1_RESOURCE_NODES, edquot()));
            }
            if let (None, Some(id)) = (inner.ids.growth(2), inner.ids.next_id()) {
                self.user.charge(Limit::Nodes, 1)?;
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

    /// Makes a facet of the node with an id, or finds the one there is, if it is not to be one-shot.
    /// `tell` is given its id before it is there: if that fails nothing has happened.
    pub(crate) fn mint(
        &self,
        id: u64,
        badge: u64,
        is_once: bool,
        mut tell: impl FnMut(u64) -> Result,
    ) -> Result {
        let mut told = 0;
        let mut growth = None;
        let mut spare: Option<(NodeRef, RBTreeNodeReservation<FacetKey, NodeRef>)> = None;
        loop {
            let mut inner = self.inner.lock();
            let base = match inner.ids.get(id) {
                Some(Object::Node(node)) if node.base.is_none() => node.clone(),
                Some(Object::Node(_)) => return Err(EINVAL),
                Some(Object::Handle(handle)) if handle.is_held() => return Err(EPERM),
                _ => return Err(ENXIO),
            };
            // It would carry no message.
            if is_once && base.buffer.is_some() {
                return Err(EINVAL);
            }
            if !is_once {
                if let Some(facet) = inner.facets.get(&(addr(&base), badge, 0)) {
                    let id = facet.id.load(Relaxed);
                    drop(inner);
                    return if id == told { Ok(()) } else { tell(id) };
                }
            }
            if inner.nodes >= self.user.max_of_peer(Limit::Nodes) {
                return Err(self.refused(abi::BUS1_RESOURCE_NODES, edquot()));
            }
            if let Some(g) = growth.take() {
                growth = inner.ids.grow(g);
            }
            let need = inner.ids.growth(2);
            if let (None, Some(id)) = (need, inner.ids.next_id()) {
                if spare.is_some() && id != told {
                    drop(inner);
                    growth = None;
                    // Another one may take the id meanwhile: then the next is told.
                    tell(id)?;
                    told = id;
                    continue;
                }
                if let Some((facet, tree)) = spare.take() {
                    self.user.charge(Limit::Nodes, 1)?;
                    facet.id.store(id, Relaxed);
                    inner.nodes += 1;
                    // There is a free slot, so this can not fail.
                    let _ = inner.ids.insert(Object::Node(facet.clone()));
                    if let Some(key) = facet_key(&facet) {
                        inner.facets.insert(tree.into_node(key, facet));
                    }
                    return Ok(());
                }
            }
            drop(inner);
            growth = need.map(Growth::new).transpose()?;
            if spare.is_none() {
                spare = Some((
                    Node::new_facet(base, badge, is_once)?,
                    RBTreeNodeReservation::new(flags::GFP_KERNEL_ACCOUNT)?,
                ));
            }
        }
    }

    /// Announces a handle to this peer: found, or made, and counted as coming.
    #[inline]
    pub(crate) fn admit(self: &Arc<Self>, grant: &Grant) -> Result<Passed> {
        if Arc::ptr_eq(&grant.node().owner, self) {
            return Ok(Passed::Own(grant.user.clone_use()));
        }
        let mut inner = self.inner.lock();
        if let Some(handle) = inner.expect_handle(grant) {
            return Ok(Passed::Handle(handle));
        }
        drop(inner);
        self.add_handle(grant)
    }

    fn add_handle(self: &Arc<Self>, grant: &Grant) -> Result<Passed> {
        let mut new = Some(Handle::new(
            self.spare_handle.take()?,
            self.clone(),
            grant.node().clone(),
            grant.grade,
        )?);
        let mut growth = None;
        loop {
            let mut inner = self.inner.lock();
            if inner.closed {
                return Err(ehostunreach());
            }
            if let Some(handle) = inner.expect_handle(grant) {
                return Ok(Passed::Handle(handle));
            }
            if inner.n_handles() >= self.user.max_of_peer(Limit::Handles)
                || self.user.is_full(Limit::Handles)
            {
                return Err(self.refused(abi::BUS1_RESOURCE_HANDLES, edquot()));
            }
            if let Some(g) = growth.take() {
                growth = inner.ids.grow(g);
            }
            let need = inner.ids.growth(2);
            if need.is_none() {
                if let Some(link) = new.take() {
                    let handle = link.clone_arc();
                    // There is a free slot, so this can not fail.
                    if let Ok(id) = inner.ids.insert(Object::Handle(handle.clone())) {
                        handle.id.store(id, Relaxed);
                    }
                    handle.add_coming(1, &mut inner);
                    Handle::hold(link, &mut inner);
                    return Ok(Passed::Handle(handle));
                }
            }
            drop(inner);
            growth = need.map(Growth::new).transpose()?;
        }
    }

    /// A handle that was announced does not come.
    pub(crate) fn give_up(&self, handle: &HandleRef) {
        let mut inner = self.inner.lock();
        handle.add_coming(-1, &mut inner);
        let retired = inner.retire(handle);
        drop(inner);
        drop(retired);
    }

    /// Charges a message that is to have a slice, and allocates that.
    ///
    /// EHOSTUNREACH if its node, which this peer owns, is dead; EMSGSIZE if the pool can never hold it;
    /// EAGAIN if it can not now; and as [`link`](Self::link).
    pub(crate) fn reserve(&self, draft: &Draft, from: &Peer, account: AccountRef) -> Result<Slice> {
        let granules = draft.amounts().granules();
        let mut growth = None;
        loop {
            let mut inner = self.inner.lock();
            if inner.closed || draft.node().refuses(&mut inner) {
                return Err(ehostunreach());
            }
            if granules > inner.most_granules {
                return Err(EMSGSIZE);
            }
            if inner.slices.in_use().0 >= MAX_SLICES {
                return Err(self.refused(abi::BUS1_RESOURCE_SLICES, EAGAIN));
            }
            if let Some(g) = growth.take() {
                growth = inner.slices.grow(g);
            }
            let Some(need) = inner.slices.growth() else {
                inner.charge_all(draft, from, account)?;
                let slice = inner
                    .slices
                    .alloc(granules)
                    .ok_or_else(|| self.refused(abi::BUS1_RESOURCE_POOL, EAGAIN))?;
                drop(inner);
                Stat::Slices.add(1);
                return Ok(slice);
            };
            drop(inner);
            growth = Some(Growth::new(need)?);
        }
    }

    /// Sets a slice aside for the reply to a call of this peer's. EMSGSIZE, EAGAIN, ENOMEM.
    pub(crate) fn reserve_reply(&self, granules: u32) -> Result<Slice> {
        let mut growth = None;
        loop {
            let mut inner = self.inner.lock();
            if granules > inner.most_granules {
                return Err(EMSGSIZE);
            }
            if inner.slices.in_use().0 >= MAX_SLICES {
                return Err(self.refused(abi::BUS1_RESOURCE_SLICES, EAGAIN));
            }
            if let Some(g) = growth.take() {
                growth = inner.slices.grow(g);
            }
            let Some(need) = inner.slices.growth() else {
                let slice = inner
                    .slices
                    .alloc(granules)
                    .ok_or_else(|| self.refused(abi::BUS1_RESOURCE_POOL, EAGAIN))?;
                drop(inner);
                Stat::Slices.add(1);
                return Ok(slice);
            };
            drop(inner);
            growth = Some(Growth::new(need)?);
        }
    }

    /// The node that reserved replies to this peer's calls are sent to. ENOMEM.
    pub(crate) fn reply_node(self: &Arc<Self>) -> Result<NodeRef> {
        if let Some(node) = &self.inner.lock().reply_node {
            return Ok(node.clone());
        }
        let new = Node::new_hidden(self.clone())?;
        let mut inner = self.inner.lock();
        let node = inner.reply_node.get_or_insert_with(|| new.clone()).clone();
        drop(inner);
        Ok(node)
    }

    /// Zeroes a slice that was copied to for a message that is not sent.
    pub(crate) fn zero(&self, slice: Slice, len: usize) {
        if let Some(pool) = self.pool() {
            pool.zero(slice.offset, len);
        }
    }

    /// Gives a slice back that user space has.
    #[inline]
    pub(crate) fn release_slice(&self, inner: &mut Inner, id: u64) -> bool {
        let has = inner.slices.release(id);
        if has {
            Stat::Slices.add(-1);
            self.note_idle(inner);
        }
        has
    }

    /// Gives slices back, all or none.
    pub(crate) fn release_slices(&self, ids: &[u64]) -> Result {
        let mut inner = self.inner.lock();
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
        self.note_idle(&mut inner);
        self.unlock_room(inner);
        Stat::Slices.add(-(ids.len() as i64));
        Ok(())
    }

    /// Links a message to a node of this peer's. Returns who is to be woken.
    ///
    /// EHOSTUNREACH if the node is dead, EAGAIN if the sender may have no more in flight here now,
    /// ENXIO if it has lost the handle that it sends through.
    #[inline(always)]
    pub(crate) fn link(
        &self,
        draft: Draft,
        from: &Self,
        account: AccountRef,
        commit: Option<&Arc<Commit>>,
    ) -> Result<Woken> {
        let mut inner = self.inner.lock();
        if let Err(e) = inner.book_in(&draft, from, account) {
            drop(inner);
            drop(draft);
            return Err(e);
        }
        if draft.node().is_once {
            draft.node().set_spent(&mut inner, true);
        }
        Ok(self.push(&mut inner, draft, from, commit))
    }

    /// Links a message that brings a handle which this peer has already, or gives it back if that is
    /// not so, or it can not be linked.
    #[inline(always)]
    pub(crate) fn link_known(
        &self,
        mut draft: Draft,
        from: &Self,
        account: AccountRef,
        grant: &Grant,
    ) -> core::result::Result<Woken, Draft> {
        let mut inner = self.inner.lock();
        // It is booked all the same if the handle is not there: the next thing that it needs.
        if inner.book_in(&draft, from, account).is_err() {
            drop(inner);
            return Err(draft);
        }
        let handle = match inner.find_handle(grant) {
            Some(handle) => handle.clone(),
            None => {
                drop(inner);
                return Err(draft);
            }
        };
        handle.add_coming(1, &mut inner);
        draft.set_only(Passed::Handle(handle));
        Ok(self.push(&mut inner, draft, from, None))
    }

    #[inline(always)]
    fn push(
        &self,
        inner: &mut Inner,
        draft: Draft,
        from: &Self,
        commit: Option<&Arc<Commit>>,
    ) -> Woken {
        let woken = match commit {
            Some(_) => Woken::NOBODY,
            None => self.woken(inner, &draft.node().owner),
        };
        let level = self.level(draft.priority());
        let mut message = draft.into_message();
        trace::sent(from, &mut message, commit);
        match commit {
            Some(commit) => inner.queue.push_pending(message as Entry, level, commit),
            None => inner.queue.push(message as Entry, level),
        }
        woken
    }

    /// Its bound of something is reached. Under any lock.
    #[cold]
    fn refused(&self, resource: u32, error: Error) -> Error {
        trace::refused(self.id, resource, error)
    }

    #[inline]
    pub(crate) fn level(&self, priority: u8) -> u8 {
        if self.by_priority.load(Relaxed) {
            priority
        } else {
            0
        }
    }

    /// Makes the pool, if there is none, and checks a mapping of it.
    pub(crate) fn map(&self, pgoff: usize, pages: usize) -> Result {
        let end = pgoff.checked_add(pages).ok_or(EINVAL)?;
        let have = || self.pool().map(|p| p.size() / PAGE_SIZE);
        let check = |n: usize| if end <= n { Ok(()) } else { Err(EINVAL) };
        if let Some(n) = have() {
            return check(n);
        }
        if pgoff != 0 || pages == 0 || pages > abi::BUS1_MAX_POOL as usize / PAGE_SIZE {
            return Err(EINVAL);
        }
        let pool = Pool::new(pages, self, self.user)?;
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
                let granules = (pages * (PAGE_SIZE / GRANULE)) as u32;
                inner.slices.extend(granules)?;
                inner.pool_granules = granules;
                inner.most_granules = quota::most(granules);
                inner.book.set_all(&room::all(granules));
                self.pool.populate(pool);
                return Ok(());
            };
            drop(inner);
            growth = Some(Growth::new(need)?);
        }
    }

    /// A page of the pool, with a reference.
    pub(crate) fn page(&self, pgoff: usize) -> Option<NonNull<bindings::page>> {
        // Under the lock it is not parked, and so not freed.
        let _inner = self.inner.lock();
        let page = self.pool()?.page_ptr(pgoff)?;
        // SAFETY: As said.
        unsafe { abi::bus1_page_get(page.as_ptr().cast()) };
        Some(page)
    }
}
