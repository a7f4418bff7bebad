// SPDX-License-Identifier: GPL-2.0-only

//! What of a peer is under its lock.

use crate::call::CallEntry;
use crate::handle::{Grade, Handle, HandleRef, Retired, WaitList};
use crate::ids::{Growth, Hashed, IdTable, Need};
use crate::item::Items;
use crate::limits::Limit;
use crate::node::{Grant, Node, NodeRef, Use};
use crate::queue::Queue;
use crate::reclaim::Reclaim;
use crate::room::{AccountRef, Book, Ring};
use crate::slices::Slices;
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;

/// What an id names.
pub(crate) enum Object {
    Node(NodeRef),
    Handle(HandleRef),
}

pub(crate) struct Inner {
    /// Nothing gets in any more.
    pub(crate) closed: bool,
    pub(crate) queue: Queue,
    pub(crate) ids: IdTable<Object>,
    /// How many of them are nodes.
    pub(crate) nodes: usize,
    /// The facets of this peer's nodes.
    pub(super) facets: RBTree<FacetKey, NodeRef>,
    pub(crate) slices: Slices,
    pub(crate) reclaim: Reclaim,
    /// The size of the pool.
    pub(crate) pool_granules: u32,
    /// What one peer gets of it, if it is empty.
    pub(super) most_granules: u32,
    /// What is in flight to this peer.
    pub(crate) book: Book,
    /// The account of what it sends to itself.
    pub(crate) own: AccountRef,
    /// Who waits for room here.
    pub(crate) ring: Ring,
    /// This peer's handles that can be sent through again: notices to be received.
    pub(crate) writable: WaitList,
    /// How many of its handles wait for that.
    pub(crate) n_waiting: usize,
    /// Requests that it is to answer, by their tokens, and calls that it has made, by their ids.
    pub(super) calls: IdTable<CallEntry>,
    /// What their numbers are mixed with, so that nobody guesses a token or takes another id for one.
    pub(super) call_key: u64,
    /// How many requests are in the queue, or were taken out to be dropped: each is sure of a slot.
    pub(crate) n_requests: usize,
    /// What the reserved replies to its calls are sent to: made when first needed, in no table.
    pub(super) reply_node: Option<NodeRef>,
}

/// The address of the base; the badge; the id, if there may be several with that badge.
pub(super) type FacetKey = (usize, u64, u64);

pub(super) fn addr(node: &NodeRef) -> usize {
    Arc::as_ptr(node).addr()
}

/// Of a handle: of what makes it the same one (OBJ-4).
pub(super) fn hash(node: &NodeRef, grade: Grade) -> u64 {
    (addr(node) as u64 ^ u64::from(grade.bits())).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Hashed for Object {
    fn hash(&self) -> Option<u64> {
        match self {
            Self::Node(_) => None,
            Self::Handle(h) => Some(hash(&h.node, h.grade)),
        }
    }
}

pub(super) fn facet_key(facet: &Node) -> Option<FacetKey> {
    let id = if facet.is_once {
        facet.id.load(Relaxed)
    } else {
        0
    };
    Some((addr(facet.base.as_ref()?), facet.badge, id))
}

impl Inner {
    pub(crate) fn n_handles(&self) -> usize {
        self.ids.len() - self.nodes
    }

    /// Where a message to an id of this peer's goes: a node of its own, or a handle's, if that may
    /// send. ENXIO, EPERM. The account is not known if nothing was sent through the handle yet.
    #[inline(always)]
    pub(crate) fn resolve(&self, id: u64) -> Result<(&NodeRef, Option<AccountRef>)> {
        match self.ids.get(id) {
            Some(Object::Node(node)) => Ok((node, Some(self.own))),
            Some(Object::Handle(handle)) if handle.is_held() => {
                if handle.grade.sends() {
                    Ok((&handle.node, handle.account()))
                } else {
                    Err(EPERM)
                }
            }
            _ => Err(ENXIO),
        }
    }

    /// The call with an id, or token.
    #[inline(always)]
    pub(crate) fn call(&self, id: u64) -> Option<&CallEntry> {
        self.calls.get(id ^ self.call_key)
    }

    /// Gives a call an id, or token. None if there is no free slot, which
    /// [`call_growth`](Self::call_growth) tells before.
    #[inline(always)]
    pub(crate) fn add_call(&mut self, entry: CallEntry) -> Option<u64> {
        let number = self.calls.insert(entry).ok()?;
        Some(number ^ self.call_key)
    }

    #[inline(always)]
    pub(crate) fn remove_call(&mut self, id: u64) -> Option<CallEntry> {
        self.calls.remove(id ^ self.call_key)
    }

    /// The same if `may` says so, or its error. ENXIO.
    #[inline(always)]
    pub(crate) fn remove_call_if(
        &mut self,
        id: u64,
        may: impl FnOnce(&CallEntry) -> Result,
    ) -> Result<CallEntry> {
        self.calls.remove_if(id ^ self.call_key, may).ok_or(ENXIO)?
    }

    /// What is needed before a call can be added, and still each request in the queue.
    #[inline(always)]
    pub(crate) fn call_growth(&self) -> Option<Need> {
        self.calls.growth(self.n_requests + 1)
    }

    pub(crate) fn grow_calls(&mut self, growth: Growth<CallEntry>) -> Option<Growth<CallEntry>> {
        self.calls.grow(growth)
    }

    /// Takes what a destroy has made void out of the queue: all requests, whose callers are to know
    /// at once, and of the rest what stands first. What is behind that is dropped when it comes to the
    /// front.
    pub(crate) fn prune(&mut self, garbage: &mut Items) {
        self.queue.prune(garbage, 1024, self.n_requests);
    }

    pub(crate) fn n_calls(&self) -> usize {
        self.calls.len()
    }

    /// The handle that a message to an id goes through; none if it is a node of this peer's own.
    pub(crate) fn handle_to_send(&self, id: u64) -> Result<Option<HandleRef>> {
        self.resolve(id)?;
        Ok(match self.ids.get(id) {
            Some(Object::Handle(handle)) => Some(handle.clone()),
            _ => None,
        })
    }

    /// What an id of this peer's stands for, to be passed on. ENXIO.
    #[inline(always)]
    pub(crate) fn grant(&mut self, id: u64) -> Result<Grant> {
        let (node, grade) = match self.ids.get(id) {
            Some(Object::Node(node)) => (node.clone(), Grade::OWNER),
            Some(Object::Handle(handle)) if handle.is_held() => (handle.node.clone(), handle.grade),
            _ => return Err(ENXIO),
        };
        let user = if grade.is_weak() {
            Use::weak(node)
        } else {
            Use::new(node)
        };
        Ok(Grant { user, grade })
    }

    /// What an exported handle's peer holds.
    pub(crate) fn only_grant(&mut self) -> Result<Grant> {
        let id = self.ids.iter().find_map(|object| match object {
            Object::Handle(handle) => Some(handle.id.load(Relaxed)),
            Object::Node(_) => None,
        });
        self.grant(id.ok_or(ENXIO)?)
    }

    #[inline(always)]
    pub(super) fn find_handle(&self, grant: &Grant) -> Option<&HandleRef> {
        let is = |h: &HandleRef| Arc::ptr_eq(&h.node, grant.node()) && h.grade == grant.grade;
        let found = self
            .ids
            .find(hash(grant.node(), grant.grade), |object| match object {
                Object::Handle(handle) => is(handle),
                Object::Node(_) => false,
            });
        match found {
            Some(Object::Handle(handle)) => Some(handle),
            _ => None,
        }
    }

    /// A handle that the peer has, counted as coming once more.
    #[inline]
    pub(super) fn expect_handle(&mut self, grant: &Grant) -> Option<HandleRef> {
        let handle = self.find_handle(grant)?.clone();
        handle.add_coming(1, self);
        Some(handle)
    }

    /// A facet leaves the peer's tables, if it is there.
    pub(crate) fn remove_facet(&mut self, facet: &Node) -> Option<Object> {
        if let Some(key) = facet_key(facet) {
            self.facets.remove(&key);
        }
        self.remove_node(facet)
    }

    /// A node leaves the peer's table, if it is there.
    pub(crate) fn remove_node(&mut self, node: &Node) -> Option<Object> {
        let object = self.ids.remove(node.id.load(Relaxed))?;
        self.nodes -= 1;
        node.owner.user.discharge(Limit::Nodes, 1);
        Some(object)
    }

    pub(crate) fn has_facets(&mut self, base: &NodeRef) -> bool {
        self.facet_of(base).is_some()
    }

    /// Some facet of a node.
    pub(crate) fn facet_of(&mut self, base: &NodeRef) -> Option<NodeRef> {
        let first = (addr(base), 0, 0);
        let cursor = self.facets.cursor_lower_bound(&first)?;
        let (key, facet) = cursor.current();
        (key.0 == first.0).then(|| facet.clone())
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
        self.retire_now(handle)
    }

    /// The same, in line.
    #[inline(always)]
    pub(crate) fn retire_now(&mut self, handle: &HandleRef) -> Option<Retired> {
        if handle.is_told() && !handle.is_held() {
            handle.set_told(false);
            // SAFETY: A handle that is told is in this list. It is not the last reference.
            drop(unsafe { self.writable.remove(handle) });
        }
        if !handle.is_idle() {
            if handle.wants_new_id() {
                let old = handle.id.load(Relaxed);
                if self.ids.renew(old) {
                    let id = self.ids.id_at(IdTable::<Object>::index(old));
                    Handle::rename(handle, id, self);
                    return None;
                }
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
        let notice = self.queue.remove(&**handle);
        Some(Retired::new(handle.clone(), notice))
    }
}
