// SPDX-License-Identifier: GPL-2.0-only

//! Room at a receiver: what is charged there, who waits for it, and how they are told (RES-2, RES-4).
//!
//! A sender that found no room waits in its account at the receiver: as a handle, whose peer wants a
//! notice, or as a thread at the account's [`Gate`]. The accounts with waiters stand in a [`Ring`]. As
//! room comes the receiver looks at a few of them, in turn, and tells those that may go on; when
//! nothing is in flight any more it tells all. So nobody is forgotten: as long as something is in
//! flight, room is still to come.
//!
//! Telling is not promising: who is told tries again, and may have to wait again.

use crate::abi;
use crate::bridge::WaitQueue;
use crate::errno::ehostunreach;
use crate::handle::{Handle, HandleRef, WaitList};
use crate::item::Item;
use crate::limits::{Limit, UserRef};
use crate::message::{discharge_user, Draft};
use crate::node::NodeRef;
use crate::peer::{Inner, Peer, MAX_SLICES};
use crate::quota::{self, Amounts, Charged};
use crate::trace;
use core::mem;
use kernel::alloc::KVVec;
use kernel::list::{List, ListArc};
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Acquire, ordering::Release, Atomic};
use kernel::sync::lock::spinlock::SpinLockBackend;
use kernel::sync::lock::Guard;
use kernel::sync::Arc;

pub(crate) type Account = quota::Account<UserRef, Waits>;
pub(crate) type AccountRef = quota::AccountRef<UserRef, Waits>;
pub(crate) type NewAccount = quota::NewAccount<UserRef, Waits>;
pub(crate) type Book = quota::Book<UserRef, Waits>;

/// How much may be in flight to one peer: messages, handles in them, and files. Of the pool all of it.
const MAX_QUEUED: u32 = 1 << 16;
const MAX_PASSED: u32 = 1 << 17;
const MAX_FILES: u32 = 1 << 14;

/// How many accounts are looked at when room comes: whoever gives it back pays for that.
const LOOKS: usize = 4;
/// How many handles of one account are told in one section.
const TOLD: usize = 16;

/// Threads that wait for room in one account.
#[pin_data]
pub(crate) struct Gate {
    #[pin]
    wait: WaitQueue,
    is_open: Atomic<bool>,
}

impl Gate {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                wait <- WaitQueue::new(),
                is_open: Atomic::new(false),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Waits until it is open. EINTR, ETIMEDOUT.
    pub(crate) fn wait(&self, deadline: u64) -> Result {
        self.wait.wait_for(&self.is_open, deadline)
    }

    /// Lets one thread through, who lets the next one through when he has tried.
    fn open(&self) {
        self.is_open.store(true, Release);
        self.wait.wake_one();
    }

    /// A thread has tried again, or does not wait any more: the next one may.
    pub(crate) fn pass_on(&self) {
        if self.is_open.load(Acquire) {
            self.wait.wake_one();
        }
    }
}

/// What waits in an account. Under the receiver's lock.
pub(crate) struct Waits {
    /// The most that one of them needs.
    need: Amounts,
    /// Where in the ring its account stands, or [`NOWHERE`].
    at: usize,
    handles: WaitList,
    gate: Option<Arc<Gate>>,
}

const NOWHERE: usize = usize::MAX;

impl Default for Waits {
    fn default() -> Self {
        Self {
            need: Amounts::default(),
            at: NOWHERE,
            handles: List::new(),
            gate: None,
        }
    }
}

/// The accounts of a receiver with waiters. Under its lock.
pub(crate) struct Ring {
    accounts: KVVec<AccountRef>,
    /// Where to look next.
    next: usize,
    /// Handles that wait in them.
    n_handles: usize,
}

impl Ring {
    pub(crate) const fn new() -> Self {
        Self {
            accounts: KVVec::new(),
            next: 0,
            n_handles: 0,
        }
    }
}

/// Who was found that may go on.
struct Woken {
    handles: WaitList,
    gates: [Option<Arc<Gate>>; LOOKS],
    n_gates: usize,
}

/// What a peer with a pool can take.
pub(crate) const fn all(pool_granules: u32) -> Amounts {
    Amounts::new(MAX_QUEUED, pool_granules, MAX_PASSED, MAX_FILES)
}

impl Inner {
    /// What nobody has.
    fn left(&self) -> Amounts {
        let used = self.book.used();
        let handles = used.handles().saturating_add(self.n_handles() as u32);
        Amounts::new(
            MAX_QUEUED.saturating_sub(used.messages()),
            self.pool_granules.saturating_sub(self.slices.granules()),
            MAX_PASSED.saturating_sub(handles),
            MAX_FILES.saturating_sub(used.files()),
        )
    }

    /// Charges a message that is to be linked, or all that it will bring. EHOSTUNREACH; EAGAIN; ENXIO
    /// if the sender has lost its handle meanwhile.
    #[inline(always)]
    pub(crate) fn book_in(&mut self, draft: &Draft, from: &Peer, a: AccountRef) -> Result {
        if self.closed || draft.node().refuses(self) {
            return Err(ehostunreach());
        }
        if draft.is_booked() {
            return Ok(());
        }
        // By themselves, so that for the most common ones all amounts are known.
        if draft.is_small() {
            return self.charge(draft, from, a, &Amounts::MESSAGE);
        }
        if draft.is_one_handle() {
            return self.charge(draft, from, a, &Amounts::new(1, 0, 1, 0));
        }
        self.charge_all(draft, from, a)
    }

    /// Charges all that a message is or will be.
    #[inline(always)]
    pub(crate) fn charge_all(&mut self, draft: &Draft, from: &Peer, a: AccountRef) -> Result {
        self.charge(draft, from, a, &draft.amounts())
    }

    #[inline(always)]
    fn charge(&mut self, draft: &Draft, from: &Peer, a: AccountRef, what: &Amounts) -> Result {
        let taken = self.slices.granules();
        if !self.book.charge_low(a, from.id, what, taken) {
            self.charge_by_rule(a, from.id, draft.node().owner.id, what)?;
        }
        draft.set_booked(a);
        Ok(())
    }

    /// Charges a call, until it is over. EAGAIN, ENXIO.
    #[inline(always)]
    pub(crate) fn charge_call(&mut self, a: AccountRef, from: &Peer, to: u64) -> Result {
        if self.book.charge_low(a, from.id, &Amounts::MESSAGE, 0) {
            return Ok(());
        }
        self.charge_by_rule(a, from.id, to, &Amounts::MESSAGE)
    }

    #[inline(never)]
    fn charge_by_rule(&mut self, a: AccountRef, from: u64, to: u64, what: &Amounts) -> Result {
        let left = self.left();
        match self.book.charge(a, from, what, &left) {
            Charged::Yes => Ok(()),
            Charged::NoRoom => Err(trace::refused(to, abi::BUS1_RESOURCE_ROOM, EAGAIN)),
            Charged::NotHis => Err(ENXIO),
        }
    }

    /// Takes a message's charge back, and that of its user.
    #[inline(always)]
    pub(crate) fn discharge(&mut self, a: AccountRef, what: &Amounts) {
        discharge_user(self.book.discharge(a, what), what);
    }

    /// Charges a message to the peer itself, whatever it has.
    pub(crate) fn charge_own(&mut self, what: &Amounts) -> AccountRef {
        let user = self.book.user(self.own);
        user.charge_anyway(Limit::Messages, 1 + what.handles() as usize);
        user.charge_anyway(Limit::Files, what.files() as usize);
        self.book.charge_anyway(self.own, what);
        self.own
    }

    /// Whether there is room for more in an account.
    fn has_room(&mut self, a: AccountRef, what: &Amounts) -> bool {
        let left = self.left();
        self.has_room_of(a, what, &left)
    }

    /// The same, of what is [left](Self::left).
    fn has_room_of(&mut self, a: AccountRef, what: &Amounts, left: &Amounts) -> bool {
        self.book.has_room(a, what, self.slices.granules(), left)
            && (what.granules() == 0
                || (self.slices.in_use().0 < MAX_SLICES
                    && self.slices.could_alloc(what.granules())))
    }

    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        !self.ring.accounts.is_empty()
    }

    /// An account leaves the ring; its gate is to be opened.
    fn leave_ring(&mut self, a: AccountRef) -> Option<Arc<Gate>> {
        let waits = self.book.waits(a);
        let at = mem::replace(&mut waits.at, NOWHERE);
        waits.need = Amounts::default();
        let gate = waits.gate.take();
        if at == NOWHERE {
            return gate;
        }
        if let Some(last) = self.ring.accounts.pop() {
            if let Some(place) = self.ring.accounts.get_mut(at) {
                *place = last;
                self.book.waits(last).at = at;
            }
        }
        gate
    }

    /// Whether one of the accounts that are next in turn may go on. That one is then the next.
    #[inline(never)]
    fn may_wake(&mut self) -> bool {
        let left = self.left();
        let n = self.ring.accounts.len();
        for _ in 0..LOOKS.min(n) {
            if self.ring.next >= n {
                self.ring.next = 0;
            }
            let Some(a) = self.ring.accounts.get(self.ring.next).copied() else {
                return false;
            };
            let need = self.book.waits(a).need;
            if self.has_room_of(a, &need, &left) {
                return true;
            }
            self.ring.next += 1;
        }
        false
    }

    /// Room came: takes out some of those who may go on, or of all. True if there may be more.
    fn take_woken(&mut self, all: bool, woken: &mut Woken) -> bool {
        for _ in 0..LOOKS {
            let n = self.ring.accounts.len();
            if n == 0 {
                return false;
            }
            let at = self.ring.next % n;
            let Some(a) = self.ring.accounts.get(at).copied() else {
                return false;
            };
            let need = self.book.waits(a).need;
            if !all && !self.has_room(a, &need) {
                self.ring.next = at + 1;
                continue;
            }
            let waits = self.book.waits(a);
            for _ in 0..TOLD {
                let Some(handle) = waits.handles.pop_front() else {
                    break;
                };
                handle.set_waiting(false);
                woken.handles.push_back(handle);
                self.ring.n_handles -= 1;
            }
            if !waits.handles.is_empty() {
                // The rest needs nothing that there is not.
                waits.need = Amounts::default();
                return true;
            }
            if let (Some(gate), Some(place)) =
                (self.leave_ring(a), woken.gates.get_mut(woken.n_gates))
            {
                *place = Some(gate);
                woken.n_gates += 1;
            }
        }
        all && !self.ring.accounts.is_empty()
    }
}

impl Peer {
    /// Gives the lock back after something was given back: who waits for room is told.
    #[inline]
    pub(crate) fn unlock_room<'a>(&'a self, inner: Guard<'a, Inner, SpinLockBackend>) {
        if inner.has_waiters() {
            self.tell_some(inner);
        }
    }

    #[cold]
    fn tell_some<'a>(&'a self, mut inner: Guard<'a, Inner, SpinLockBackend>) {
        let all = inner.closed || inner.book.used().messages() == 0;
        if all || inner.may_wake() {
            self.tell_room(inner, all);
        }
    }

    /// The same where those who wait are to find out that they wait in vain.
    pub(crate) fn unlock_all<'a>(&'a self, inner: Guard<'a, Inner, SpinLockBackend>) {
        if inner.has_waiters() {
            self.tell_room(inner, true);
        }
    }

    #[cold]
    fn tell_room<'a>(&'a self, mut inner: Guard<'a, Inner, SpinLockBackend>, all: bool) {
        // Not those who come meanwhile.
        let mut left = inner.ring.n_handles / TOLD + inner.ring.accounts.len() + 1;
        loop {
            let mut woken = Woken {
                handles: List::new(),
                gates: [const { None }; LOOKS],
                n_gates: 0,
            };
            let more = inner.take_woken(all, &mut woken);
            drop(inner);
            for gate in woken.gates.iter().flatten() {
                gate.open();
            }
            while let Some(handle) = woken.handles.pop_front() {
                tell_writable(handle);
            }
            crate::bridge::resched();
            left -= 1;
            if !more || left == 0 {
                return;
            }
            inner = self.inner.lock();
        }
    }

    /// The account of this peer at another, for what is sent by an id of its own. ENXIO, EPERM.
    #[cold]
    pub(crate) fn open_account(self: &Arc<Self>, id: u64) -> Result<AccountRef> {
        let handle = self.inner.lock().handle_to_send(id)?;
        let Some(handle) = handle else {
            return Ok(self.inner.lock().own);
        };
        let owner = &handle.node.owner;
        let mut new = None;
        loop {
            let mut inner = owner.inner.lock();
            if let Some(a) = inner
                .book
                .open(self.id, self.user, self.user.uid(), &mut new)
            {
                if handle.set_account(a) {
                    inner.book.hold(a);
                } else {
                    // Another thread was first; or the handle is gone.
                    inner.book.tidy(a);
                }
                drop(inner);
                drop(new);
                return Ok(a);
            }
            drop(inner);
            new = Some(NewAccount::new(self.user, self.user.uid())?);
        }
    }
}

/// A handle has left its peer's table: it leaves its account. No lock may be held.
#[inline]
pub(crate) fn leave_account(handle: &HandleRef) {
    if let Some(a) = handle.take_account() {
        leave(handle, a);
    }
}

fn leave(handle: &HandleRef, a: AccountRef) {
    let mut inner = handle.node.owner.inner.lock();
    let mut waited = None;
    if handle.is_waiting() {
        handle.set_waiting(false);
        inner.ring.n_handles -= 1;
        // SAFETY: A handle that waits is in the list of its account.
        waited = unsafe { inner.book.waits(a).handles.remove(handle) };
    }
    // Threads that wait there may do so for this handle.
    let gate = if inner.book.waits(a).handles.is_empty() {
        inner.leave_ring(a)
    } else {
        inner.book.waits(a).gate.take()
    };
    inner.book.unhold(a);
    drop(inner);
    if let Some(gate) = gate {
        gate.open();
    }
    if waited.is_some() {
        handle.peer.inner.lock().n_waiting -= 1;
        handle.peer.wake_writable();
    }
}

/// Puts the notice that there is room into the peer's list, if it still has the handle.
fn tell_writable(handle: ListArc<Item<Handle>, 3>) {
    let peer = handle.peer.clone();
    let mut inner = peer.inner.lock();
    inner.n_waiting -= 1;
    let mut unused = None;
    if handle.is_held() && !handle.is_dead() && !inner.closed {
        handle.set_told(true);
        inner.writable.push_back(handle);
    } else {
        unused = Some(handle);
    }
    drop(inner);
    drop(unused);
    peer.wake_writable();
}

/// Who waits for room.
pub(crate) enum Waiter<'a> {
    /// Its peer wants a notice.
    Handle(&'a HandleRef),
    /// A thread, at a gate that may be used if the account has none.
    Thread(&'a mut Arc<Gate>),
}

/// Enters a handle whose peer counts it as waiting; if it need not wait its notice comes at once.
/// ENOMEM.
pub(crate) fn enter_handle(handle: &HandleRef, need: &Amounts) -> Result {
    let not_waiting = || {
        handle.peer.inner.lock().n_waiting -= 1;
        handle.peer.wake_writable();
    };
    let Some(a) = handle.account() else {
        not_waiting();
        return Ok(());
    };
    let waiter = Waiter::Handle(handle);
    match enter(&handle.node, a, handle.peer.id, need, waiter) {
        Ok(Entered::Waits) => Ok(()),
        Ok(Entered::Already) => {
            not_waiting();
            Ok(())
        }
        Ok(Entered::TryAgain) => {
            match ListArc::<_, 3>::try_from_arc(handle.clone()) {
                Ok(entry) => tell_writable(entry),
                Err(_) => not_waiting(),
            }
            Ok(())
        }
        Err(e) => {
            not_waiting();
            Err(e)
        }
    }
}

/// What came of [`enter`].
#[derive(PartialEq)]
pub(crate) enum Entered {
    /// There is room by now, or something else has changed: try again.
    TryAgain,
    Waits,
    /// The handle waits already, or its notice was not received yet.
    Already,
}

/// Enters a waiter into an account of the node's owner. ENOMEM.
pub(crate) fn enter(
    node: &NodeRef,
    a: AccountRef,
    sender: u64,
    need: &Amounts,
    mut waiter: Waiter<'_>,
) -> Result<Entered> {
    let owner = &node.owner;
    let mut growth: Option<KVVec<AccountRef>> = None;
    loop {
        let mut inner = owner.inner.lock();
        if inner.closed
            || node.refuses(&mut inner)
            || !inner.book.is_of(a, sender)
            || matches!(&waiter, Waiter::Handle(h) if h.account() != Some(a))
            || inner.has_room(a, need)
        {
            return Ok(Entered::TryAgain);
        }
        let ring = &mut inner.ring.accounts;
        if ring.len() == ring.capacity() {
            let Some(larger) = growth.as_mut().filter(|g| g.capacity() > ring.len()) else {
                let n = (ring.len() * 2).max(8);
                drop(inner);
                growth = Some(KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?);
                continue;
            };
            for a in ring.iter() {
                // Within the room there is.
                let _ = larger.push_within_capacity(*a);
            }
            mem::swap(ring, larger);
        }
        match &mut waiter {
            Waiter::Handle(handle) => {
                let Ok(entry) = ListArc::<_, 3>::try_from_arc((*handle).clone()) else {
                    return Ok(Entered::Already);
                };
                handle.set_waiting(true);
                inner.book.waits(a).handles.push_back(entry);
                inner.ring.n_handles += 1;
            }
            Waiter::Thread(gate) => {
                let waits = inner.book.waits(a);
                match &waits.gate {
                    Some(there) => **gate = there.clone(),
                    None => waits.gate = Some(gate.clone()),
                }
            }
        }
        let n = inner.ring.accounts.len();
        let waits = inner.book.waits(a);
        waits.need = waits.need.max(need);
        if waits.at == NOWHERE {
            waits.at = n;
            // Within the room there is.
            let _ = inner.ring.accounts.push_within_capacity(a);
        }
        return Ok(Entered::Waits);
    }
}
