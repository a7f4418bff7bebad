// SPDX-License-Identifier: GPL-2.0-only

//! Calls: a request that waits for its reply (CALL-1 to CALL-5, CALL-7).
//!
//! A [`Call`] is one allocation: the request that is queued at the server, what the server's token
//! stands for, the place for the reply, and the notice that the caller has left. Small payloads are in
//! it, both ways; a larger request, or a reply that space was set aside for, is a [`Draft`] that
//! it keeps, which is never linked by itself.
//!
//! # Who ends it
//!
//! What a call comes to is decided by one word, `outcome`:
//!
//! | | the caller's thread | |
//! |---|---|---|
//! | `WAITING` | sleeps in the command, and is to be woken | |
//! | `AWAY` | does not: the call is asynchronous, was interrupted, or the thread serves a nested request | |
//! | `DONE` | | there is a result |
//! | `LEFT` | | the caller wants none any more |
//!
//! The caller alone sets `LEFT`, and goes from `WAITING` to `AWAY` and back; `DONE` is set by who has
//! the *right to answer*, and there is one such at any time: whoever takes the request off the
//! queue to drop it, or takes the token out of the server's table. He writes the result before that, and nothing after.
//! Each step is one compare-and-swap, so that the two sides need no common lock, a call ends exactly
//! once, and nobody waits for anybody.
//!
//! # Where it stands
//!
//! `place` and `token` are under the server's lock, but for [`REPLY`]: then the call stands in its
//! caller's queue, and under that lock. Both peers' locks are never held together.
//!
//! The table of calls has a free slot for each request in the queue, made by who sends it, so that
//! receiving one takes no memory.

use crate::abi::{self, bus1_cmd_call};
use crate::describe::most_in_buf;
use crate::ids::Hashed;
use crate::inherit::Offer;
use crate::item::{downcast_call, Deliver, DynItem, Item, Ready, Tag};
use crate::lease::Leases;
use crate::limits::Limit;
use crate::message::{Draft, Kind, Message, INLINE};
use crate::node::NodeRef;
use crate::park::Waker;
use crate::peer::{Inner, Peer};
use crate::quota::Amounts;
use crate::room::AccountRef;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr;
use kernel::list::{List, ListArc};
use kernel::prelude::*;
use kernel::sync::atomic::{ordering, ordering::Relaxed, Atomic};
use kernel::sync::lock::spinlock::SpinLockBackend;
use kernel::sync::{Arc, UniqueArc};
use kernel::types::Opaque;

/// A peer's lock.
pub(crate) type Guard<'a> = kernel::sync::lock::Guard<'a, Inner, SpinLockBackend>;

pub(crate) type CallRef = Arc<Item<Call>>;

/// For who has made it.
pub(crate) const WAITING: u32 = 0;
pub(crate) const AWAY: u32 = 1;
pub(crate) const DONE: u32 = 2;
pub(crate) const LEFT: u32 = 3;

/// Not linked yet.
const NEW: i8 = 0;
/// The request is in the server's queue, or was taken off to be dropped.
pub(crate) const QUEUED: i8 = 1;
/// The server has its token: it was received; or the notice that the caller has left is in the
/// server's queue; or was received.
pub(crate) const SERVED: i8 = 2;
pub(crate) const NOTICE: i8 = 3;
pub(crate) const TOLD: i8 = 4;
/// Not at the server any more.
const OVER: i8 = 5;
/// The reply is in the caller's queue, or in the hand of a receiver.
pub(crate) const REPLY: i8 = 6;

/// How much a reply may be.
#[derive(Clone, Copy)]
pub(crate) struct Most {
    pub(crate) len: u32,
    pub(crate) handles: u8,
    pub(crate) files: u8,
}

/// What a reply is, written by who has the right to answer.
pub(crate) struct Reply {
    /// Set aside by the caller: for replies that are not small, or bring something.
    pub(crate) draft: Option<Draft>,
    /// If it is in the call itself.
    pub(crate) len: u32,
    pub(crate) has_draft: bool,
    /// `BUS1_MSG_F_*`.
    pub(crate) flags: u32,
    pub(crate) error: Option<Error>,
}

/// What of a call [stands in a queue](Call::peek).
pub(crate) struct Peeked {
    pub(crate) place: i8,
    /// If it is more than small.
    pub(crate) more: Option<Arc<Item<Message>>>,
}

/// How a result comes to its caller.
pub(crate) enum Came {
    /// It is to be woken.
    Waiting(Option<Waker>),
    /// It comes back, or the call is asynchronous: then the result is to be [delivered](deliver).
    Away,
    /// It has left.
    Late,
}

/// What is particular to a call.
pub(crate) struct Terms {
    pub(crate) cookie: u64,
    pub(crate) priority: u8,
    pub(crate) is_async: bool,
    pub(crate) nests: bool,
    pub(crate) most: Most,
}

impl Terms {
    /// Of a command that was checked.
    #[inline(always)]
    pub(crate) fn of(cmd: &bus1_cmd_call) -> Self {
        Self {
            cookie: cmd.cookie,
            priority: cmd.send.priority as u8,
            is_async: cmd.flags & u64::from(abi::BUS1_CALL_ASYNC) != 0,
            nests: cmd.flags & u64::from(abi::BUS1_CALL_NESTED) != 0,
            most: Most {
                len: cmd.reply_size.max(INLINE as u64) as u32,
                handles: cmd.reply_handles as u8,
                files: cmd.reply_fds as u8,
            },
        }
    }
}

#[pin_data(PinnedDrop)]
pub(crate) struct Call {
    pub(crate) caller: Arc<Peer>,
    /// Or the facet that the request was sent to.
    pub(crate) node: NodeRef,
    /// Of the caller at the server. The call is charged there until it is over.
    pub(crate) account: AccountRef,
    pub(crate) parent: Option<CallRef>,
    pub(crate) chain: u64,
    pub(crate) depth: u8,
    pub(crate) terms: Terms,
    /// By the thread that has made it, to who serves it.
    pub(crate) offer: Offer,
    /// See the head of this file.
    pub(crate) outcome: Atomic<u32>,
    /// Someone is about to answer. Under the server's lock.
    pub(crate) answering: Atomic<bool>,
    pub(crate) place: Atomic<i8>,
    /// The thread of the server's that was raised to the caller's priority: of `inherit.rs`.
    pub(crate) raised: Atomic<usize>,
    /// See [`set_taken`](Self::set_taken).
    taken: Atomic<bool>,
    /// A lease of it was of memory that is not there.
    pub(crate) fault: Atomic<bool>,
    /// What its user is charged for: see [`settle`](Self::settle).
    owes_request: Atomic<bool>,
    owes_reply: Atomic<bool>,
    /// The request is in the call itself.
    is_small: bool,
    /// Of the request, in bytes.
    pub(crate) len: u32,
    /// Of who ends the state `WAITING`: see [`Waker`].
    task: Atomic<*mut abi::task_struct>,
    /// In the server's table. 0 until it is received.
    pub(crate) token: Atomic<u64>,
    /// In the caller's table, or 0. Under the caller's lock.
    pub(crate) id: Atomic<u64>,
    /// Set before it is linked.
    request: UnsafeCell<Option<Draft>>,
    reply: UnsafeCell<Reply>,
    /// A request that is to be served by the caller's waiting thread. Under the caller's lock.
    nested: UnsafeCell<Option<CallRef>>,
    /// Those in the caller's queue that are part of it, if it is the [outermost](Call::outermost), and that
    /// threads which wait again are to serve. Likewise.
    nested_queue: UnsafeCell<List<DynItem, 1>>,
    /// Of the buf[] of who waits, for a nested request. Likewise.
    pub(crate) room: Atomic<u32>,
    pub(crate) leases: Option<Pin<KBox<Leases>>>,
    /// In the trace: see `trace.rs`.
    pub(crate) trace_id: Atomic<u64>,
    /// The first `len` bytes are set, if there is no `request`.
    #[pin]
    inline: Opaque<[u8; INLINE]>,
    /// The first `reply.len` bytes are set.
    #[pin]
    inline_reply: Opaque<[u8; INLINE]>,
}

// SAFETY: `request` is set while there is one reference, `reply` and the inline places are written by
// who has the right to, before `DONE`, and `nested` is under the caller's lock.
unsafe impl Send for Call {}
// SAFETY: As above.
unsafe impl Sync for Call {}

// SAFETY: The one type of that tag.
unsafe impl Deliver for Call {
    const TAG: Tag = Tag::Call;
}

#[pinned_drop]
impl PinnedDrop for Call {
    #[inline]
    fn drop(self: Pin<&mut Self>) {
        drop(self.take_task());
        self.settle();
    }
}

impl Item<Call> {
    /// It is in the server's queue, as a request. With the server's lock held.
    pub(crate) fn enter_queue(self: &Arc<Self>, server: &mut Inner) {
        server.n_requests += 1;
        let Some(call) = Call::outermost(self.parent(), &self.node.owner) else {
            return;
        };
        if let Ok(second) = ListArc::<Self, 1>::try_from_arc(self.clone()) {
            // SAFETY: The server is that call's caller.
            unsafe { &mut *call.nested_queue.get() }.push_back(second);
        }
    }

    /// It is not any more. The caller of this keeps it.
    pub(crate) fn leave_queue(&self, server: &mut Inner) {
        server.n_requests -= 1;
        if let Some(call) = Call::outermost(self.parent(), &self.node.owner) {
            // SAFETY: As above, and it is in no other list by these links.
            drop(unsafe { (*call.nested_queue.get()).remove(self) });
        }
    }
}

/// In a peer's table of calls.
pub(crate) enum CallEntry {
    /// To be answered by this peer: the id is its token.
    Served(CallRef),
    /// Made by this peer: the id is that of the call.
    Made(CallRef),
}

impl Hashed for CallEntry {
    const HASHED: bool = false;

    fn hash(&self) -> Option<u64> {
        None
    }
}

/// A call that is being made: nobody else can see it.
pub(crate) struct NewCall(UniqueArc<Item<Call>>);

static LAST_CHAIN: Atomic<u64> = Atomic::new(0);

/// So many nested requests are looked at in one section.
const LOOKS: usize = 1024;

impl NewCall {
    /// EDQUOT if the caller's user has too many messages, ENOMEM. Not in line: then the fields go from
    /// registers to where they belong.
    #[inline(never)]
    pub(crate) fn new(
        caller: &Arc<Peer>,
        node: NodeRef,
        account: AccountRef,
        len: usize,
        is_small: bool,
        cmd: &bus1_cmd_call,
        parent: Option<CallRef>,
        leases: Option<Pin<KBox<Leases>>>,
    ) -> Result<Self> {
        let terms = Terms::of(cmd);
        let (n_messages, n_files) = (1 + usize::from(terms.most.handles), terms.most.files.into());
        let user = caller.user;
        user.charge(Limit::Messages, n_messages)?;
        if n_files != 0 {
            user.charge(Limit::Files, n_files)
                .inspect_err(|_| user.discharge(Limit::Messages, n_messages))?;
        }
        let memory = caller.spare_call.take().inspect_err(|_| {
            user.discharge(Limit::Files, n_files);
            user.discharge(Limit::Messages, n_messages);
        })?;
        let (chain, depth) = match &parent {
            Some(parent) => (parent.chain, parent.depth + 1),
            None => (LAST_CHAIN.fetch_add(1, Relaxed) + 1, 0),
        };
        let is_async = terms.is_async;
        let outcome = if is_async { AWAY } else { WAITING };
        let call = memory.pin_init_with(Item::new(try_pin_init!(Call {
            caller: caller.clone(),
            node,
            account,
            parent,
            chain,
            depth,
            terms,
            offer: Offer::current(),
            outcome: Atomic::new(outcome),
            answering: Atomic::new(false),
            place: Atomic::new(NEW),
            raised: Atomic::new(0),
            taken: Atomic::new(!is_async),
            fault: Atomic::new(false),
            owes_request: Atomic::new(true),
            owes_reply: Atomic::new(true),
            is_small,
            len: len as u32,
            task: Atomic::new(ptr::null_mut()),
            token: Atomic::new(0),
            id: Atomic::new(0),
            request: UnsafeCell::new(None),
            reply: UnsafeCell::new(Reply {
                draft: None,
                len: 0,
                has_draft: false,
                flags: 0,
                error: None,
            }),
            nested: UnsafeCell::new(None),
            nested_queue: UnsafeCell::new(List::new()),
            room: Atomic::new(cmd.recv.buf_size),
            leases,
            trace_id: Atomic::new(0),
            inline <- Opaque::ffi_init(|_| ()),
            inline_reply <- Opaque::ffi_init(|_| ()),
        }? Error)))?;
        // SAFETY: It is not moved.
        Ok(Self(unsafe { Pin::into_inner_unchecked(call) }))
    }

    /// Where a small request goes.
    #[inline(always)]
    pub(crate) fn inline(&mut self) -> &mut [MaybeUninit<u8>] {
        let place = self.0.inline.get().cast::<MaybeUninit<u8>>();
        let len = (self.0.len as usize).min(INLINE);
        // SAFETY: We have the only reference, and it is as good as uninitialised.
        unsafe { core::slice::from_raw_parts_mut(place, len) }
    }

    pub(crate) fn set_request(&mut self, draft: Draft) {
        // SAFETY: We have the only reference.
        unsafe { *self.0.request.get() = Some(draft) };
    }

    pub(crate) fn set_reply(&mut self, draft: Draft) {
        // SAFETY: As above.
        unsafe { (*self.0.reply.get()).draft = Some(draft) };
    }

    /// Others may see it now. The current thread is who waits, unless the call is asynchronous.
    #[inline(always)]
    pub(crate) fn share(self) -> (ListArc<Item<Call>>, CallRef) {
        if !self.0.terms.is_async {
            let task = Waker::current().map_or(ptr::null_mut(), Waker::into_raw);
            self.0.task.store(task, Relaxed);
        }
        // SAFETY: It is not moved.
        let entry: ListArc<Item<Call>> = unsafe { Pin::new_unchecked(self.0) }.into();
        let call = entry.clone_arc();
        (entry, call)
    }
}

impl Call {
    /// A request that is more than small: set before the call is linked, and until the receiver is
    /// [done](Self::drop_request) with it.
    #[inline]
    pub(crate) fn request(&self) -> Option<&Draft> {
        // SAFETY: As said.
        unsafe { (*self.request.get()).as_ref() }
    }

    /// The receiver, who has it as `SERVED`, has what it brings. No lock may be held.
    #[inline]
    pub(crate) fn drop_request(&self, server: &Peer) {
        // SAFETY: Others look at it under the server's lock, and as long as it is `QUEUED`.
        if let Some(draft) = unsafe { (*self.request.get()).take() } {
            draft.recycle(server);
        }
    }

    /// The payload of a small request.
    #[inline]
    pub(crate) fn inline(&self) -> &[u8] {
        let len = if self.is_small { self.len } else { 0 };
        // SAFETY: Set before the call is linked, and not changed.
        unsafe { core::slice::from_raw_parts(self.inline.get().cast(), len as usize) }
    }

    /// What there is to be written to.
    ///
    /// # Safety
    ///
    /// The caller has the right to answer, or there is a result, and he is who takes it.
    #[inline]
    #[expect(clippy::mut_from_ref)]
    pub(crate) unsafe fn reply_mut(&self) -> &mut Reply {
        // SAFETY: By the caller.
        unsafe { &mut *self.reply.get() }
    }

    /// The result. To be looked at by who has seen that there is one.
    #[inline]
    pub(crate) fn reply(&self) -> &Reply {
        // SAFETY: Not changed after `DONE`, but by who takes it.
        unsafe { &*self.reply.get() }
    }

    /// A reply that is more than small. As [`reply`](Self::reply).
    #[inline]
    pub(crate) fn large_reply(&self) -> Option<&Message> {
        let reply = self.reply();
        let draft = reply.draft.as_ref().filter(|_| reply.has_draft);
        draft.map(Draft::get)
    }

    /// The payload of a small reply.
    #[inline]
    pub(crate) fn inline_reply(&self) -> &[u8] {
        let reply = self.reply();
        let len = if reply.has_draft { 0 } else { reply.len };
        // SAFETY: Set before `DONE`.
        unsafe { core::slice::from_raw_parts(self.inline_reply.get().cast(), len as usize) }
    }

    /// Where a small reply goes.
    ///
    /// # Safety
    ///
    /// As [`reply_mut`](Self::reply_mut).
    #[inline]
    #[expect(clippy::mut_from_ref)]
    pub(crate) unsafe fn inline_reply_mut(&self) -> &mut [MaybeUninit<u8>; INLINE] {
        // SAFETY: By the caller.
        unsafe { &mut *self.inline_reply.get().cast() }
    }

    /// What stands in a queue, or was taken off and is to be dropped, if it is more than small: the
    /// request, or the reply. By whose it is; under the lock of that queue, if it stands there. A
    /// request that is served is its receiver's alone, who may [drop](Self::drop_request) it at any time.
    #[inline]
    pub(crate) fn message(&self) -> Option<&Message> {
        match self.place.load(Relaxed) {
            QUEUED => self.request().map(Draft::get),
            REPLY => self.large_reply(),
            _ => None,
        }
    }

    /// What stands in a queue, to be looked at without the lock of that, which is held.
    pub(crate) fn peek(&self) -> Peeked {
        let place = self.place.load(Relaxed);
        let more = match place {
            QUEUED => self.request().map(Draft::message),
            REPLY if self.reply().has_draft => self.reply().draft.as_ref().map(Draft::message),
            _ => None,
        };
        Peeked { place, more }
    }

    /// The caller has its end of the call, told or not: its user does not pay for it any more, nor is
    /// anything set aside, though others may keep the call: who serves it, or calls that are part of it. By
    /// who has the result, or drops it. Under no lock.
    #[inline(always)]
    pub(crate) fn finish(&self) {
        // SAFETY: By the caller.
        if let Some(draft) = unsafe { self.reply_mut() }.draft.take() {
            draft.recycle(&self.caller);
        }
        self.settle();
    }

    /// Its user is discharged, once. By who may [finish](Self::finish) it, or under the server's lock
    /// where the caller has left.
    #[inline(always)]
    fn settle(&self) {
        self.settle_reply();
        if self.owes_request.load(Relaxed) {
            self.owes_request.store(false, Relaxed);
            // Last: it keeps the user.
            self.caller.user.discharge(Limit::Messages, 1);
        }
    }

    /// The same of what the reply might have brought.
    #[inline(always)]
    fn settle_reply(&self) {
        let most = self.terms.most;
        if most.files | most.handles == 0 || !self.owes_reply.load(Relaxed) {
            return;
        }
        self.owes_reply.store(false, Relaxed);
        let user = self.caller.user;
        user.discharge(Limit::Files, usize::from(most.files));
        user.discharge(Limit::Messages, usize::from(most.handles));
    }

    /// The caller has left. What it has asked is there as long as the server has not dropped that, and so
    /// long its user pays for it, but not for a reply. With the server's lock held.
    pub(crate) fn settle_left(&self, _server: &mut Inner) {
        match self.place.load(Relaxed) {
            SERVED | NOTICE | TOLD => self.settle_reply(),
            _ => self.settle(),
        }
    }

    /// Its request is in the server's queue.
    #[inline]
    pub(crate) fn is_queued(&self) -> bool {
        self.place.load(Relaxed) == QUEUED
    }

    /// As an item of a queue.
    pub(crate) fn ready(&self) -> Ready {
        if self.place.load(Relaxed) == QUEUED && self.node.is_dead() {
            Ready::Never
        } else {
            Ready::Yes
        }
    }

    /// Its bytes in a receiver's buf[], at most.
    #[inline(always)]
    pub(crate) fn needed(&self) -> usize {
        match self.request() {
            None => INLINE,
            Some(draft) => most_in_buf(draft.get()),
        }
    }

    #[inline]
    pub(crate) fn state(&self) -> u32 {
        self.outcome.load(ordering::Acquire)
    }

    /// One step of what [is decided](self).
    #[inline]
    pub(crate) fn step(&self, from: u32, to: u32) -> bool {
        self.outcome.cmpxchg(from, to, ordering::Full).is_ok()
    }

    /// Who waits, for who has ended that.
    #[inline]
    pub(crate) fn take_task(&self) -> Option<Waker> {
        let task = self.task.load(Relaxed);
        self.task.store(ptr::null_mut(), Relaxed);
        // SAFETY: It is that one's who ended `WAITING`.
        unsafe { Waker::from_raw(task) }
    }

    /// There is a result. By who has the right to answer; also with the server's lock held.
    #[inline(always)]
    pub(crate) fn decide(&self) -> Came {
        if self.step(WAITING, DONE) {
            return Came::Waiting(self.take_task());
        }
        self.decide_away()
    }

    #[cold]
    fn decide_away(&self) -> Came {
        loop {
            match self.state() {
                WAITING if self.step(WAITING, DONE) => return Came::Waiting(self.take_task()),
                AWAY if self.step(AWAY, DONE) => return Came::Away,
                DONE | LEFT => return Came::Late,
                _ => (),
            }
        }
    }

    /// If the caller has lent memory that is not there it is told. By who has the right to answer.
    #[inline]
    pub(crate) fn note_fault(&self) {
        if self.fault.load(Relaxed) {
            // SAFETY: By the caller.
            unsafe { self.reply_mut() }.flags |= abi::BUS1_MSG_F_FAULT;
        }
    }

    /// The caller does not wait any more, and comes back.
    pub(crate) fn go_away(&self) -> bool {
        let went = self.step(WAITING, AWAY);
        if went {
            drop(self.take_task());
        }
        went
    }

    /// The caller waits again, if there is no result yet. With its lock held, and if it [may
    /// leave](Self::may_leave).
    pub(crate) fn come_back(&self, _caller: &mut Inner) {
        let task = Waker::current().map_or(ptr::null_mut(), Waker::into_raw);
        self.task.store(task, Relaxed);
        if !self.step(AWAY, WAITING) {
            drop(self.take_task());
        }
    }

    /// The caller leaves: it wants no result. False if there is one.
    pub(crate) fn leave_from(&self, from: u32) -> bool {
        let left = self.step(from, LEFT);
        if left && from == WAITING {
            drop(self.take_task());
        }
        left
    }

    /// Gives the thread that waited a request to serve. With its peer's lock held: it looks there when it
    /// has taken that.
    pub(crate) fn set_nested(&self, nested: CallRef) {
        // SAFETY: Under the caller's lock.
        unsafe { *self.nested.get() = Some(nested) };
    }

    /// The nested request that the waiting thread was given.
    pub(crate) fn take_nested(&self, _caller: &mut Inner) -> Option<CallRef> {
        // SAFETY: Under the caller's lock.
        unsafe { (*self.nested.get()).take() }
    }

    /// Whether the caller's memory is lent to the server: while it waits.
    pub(crate) fn set_lending(&self, lends: bool) {
        if let Some(leases) = &self.leases {
            leases.set_open(lends);
        }
    }

    /// It can be waited for, or left, by its id: no thread waits for it, has its result or is just leaving
    /// it. With the caller's lock held.
    pub(crate) fn may_leave(&self) -> bool {
        matches!(self.state(), AWAY | DONE) && !self.taken.load(Relaxed)
    }

    /// A thread takes it, or does not have it any more: so one gets the result. With the caller's lock
    /// held.
    pub(crate) fn set_taken(&self, _caller: &mut Inner, taken: bool) {
        self.taken.store(taken, Relaxed);
    }

    /// It stands in its caller's queue, or in the hand of a receiver. With the caller's lock held.
    pub(crate) fn is_result(&self) -> bool {
        self.state() == DONE && self.place.load(Relaxed) == REPLY
    }

    /// A request becomes what the server's token stands for; its slice is the receiver's. With the
    /// server's lock held.
    #[inline(always)]
    pub(crate) fn serve(this: &CallRef, server: &mut Inner) {
        // There is a slot: see the head of this file.
        if let Some(token) = server.add_call(CallEntry::Served(this.clone())) {
            this.token.store(token, Relaxed);
        }
        this.place.store(SERVED, Relaxed);
        if let Some(draft) = this.request() {
            draft.get().take(server);
        }
    }

    /// It was taken off the queue, but not [`serve`](Self::serve)d: if it is no request, or is to be
    /// dropped. With the lock of that peer held.
    pub(crate) fn take(&self, peer: &mut Inner) {
        match self.place.load(Relaxed) {
            NOTICE => self.place.store(TOLD, Relaxed),
            REPLY => self.set_taken(peer, true),
            _ => (),
        }
    }

    /// That goes back to the queue. False if it is void. Likewise.
    pub(crate) fn untake(&self, peer: &mut Inner, drops: bool) -> bool {
        match self.place.load(Relaxed) {
            TOLD => {
                self.place.store(NOTICE, Relaxed);
                true
            }
            REPLY => {
                self.set_taken(peer, false);
                match self.message() {
                    Some(message) if !drops => message.untake_reply(peer),
                    _ => true,
                }
            }
            // Who left meanwhile did not find it.
            QUEUED => self.state() != LEFT,
            _ => false,
        }
    }

    /// The same of one that was not taken off the queue, but is in a thread's hand.
    #[inline(always)]
    pub(crate) fn serve_given(this: &CallRef, server: &mut Inner) {
        Self::serve(this, server);
        if let Some(draft) = this.request() {
            draft.get().passed().add_in_hand(1);
        }
    }

    /// Of the calls that a request is part of, from `from` on outwards, the outermost one that `peer` has made
    /// and whose thread serves such. It does not depend on what has become of them.
    fn outermost<'a>(from: Option<&'a Call>, peer: &Peer) -> Option<&'a Call> {
        let mut found = None;
        let mut call = from;
        while let Some(c) = call {
            if c.terms.nests && ptr::eq(&*c.caller, peer) {
                found = Some(c);
            }
            call = c.parent();
        }
        found
    }

    fn parent(&self) -> Option<&Call> {
        self.parent.as_ref().map(|parent| &***parent)
    }

    /// It is made as part of that call, however indirectly.
    fn is_part_of(&self, call: &Call) -> bool {
        let mut ancestor = self.parent();
        while let Some(a) = ancestor {
            if ptr::eq(a, call) {
                return true;
            }
            ancestor = a.parent();
        }
        false
    }

    /// The next request in the queue that the thread which is about to wait serves, if it has room for it.
    pub(crate) fn next_nested(&self, caller: &mut Inner) -> Option<CallRef> {
        if !self.terms.nests {
            return None;
        }
        let room = self.room.load(Relaxed) as usize;
        let outermost = Self::outermost(Some(self), &self.caller)?;
        // SAFETY: Under the lock of that call's caller, who is ours.
        let list = unsafe { &mut *outermost.nested_queue.get() };
        let mut cursor = list.cursor_front();
        // Some may be of another thread's call, or have no room here, or be about to be dropped.
        for _ in 0..LOOKS {
            let next = cursor.peek_next()?;
            let is_ours = match next.kind() {
                Kind::Call(c) => {
                    c.ready() == Ready::Yes && c.needed() <= room && c.is_part_of(self)
                }
                _ => false,
            };
            if !is_ours {
                cursor.move_next();
                continue;
            }
            let entry = caller.queue.remove(&*next.arc());
            drop(next.remove());
            if let Some(Ok(nested)) = entry.map(downcast_call) {
                caller.n_requests -= 1;
                Self::serve_given(&nested, caller);
                return Some(nested);
            }
        }
        None
    }

    /// It is over at the server, which has its lock held.
    #[inline(always)]
    pub(crate) fn leave_server(&self, server: &mut Inner) {
        self.place.store(OVER, Relaxed);
        server.book.discharge(self.account, &Amounts::MESSAGE);
        if self.state() == LEFT {
            self.settle_left(server);
        }
    }
}
