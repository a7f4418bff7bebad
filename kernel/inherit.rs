// SPDX-License-Identifier: GPL-2.0-only

//! Who serves a call does so at the priority of its caller, if that is higher (CALL-6).
//!
//! The caller's priority is noted in the call when it is made. The thread that the request is given to, or
//! that takes it, is raised to it before it runs, and goes back to the highest that is left when the
//! call ends, however and by whomever: to its own priority, if none is.
//!
//! # What is a thread's own
//!
//! What it had before. Others may change that, and so may the thread, which needs no privilege to step
//! down. So what it is found at counts as its own if it is not above what it had, or if it is above what
//! it was lent, which takes privilege. All in between is had from the loan, and goes back with it.
//!
//! Whether somebody may step down is looked at before it is done, and not again: a loan may end in between.
//! So a thread is [known](Known) until everybody is done who was about to, and is then [looked
//! at](bus1_raised_again) once more.
//!
//! # Lending on
//!
//! A thread that is raised lends what it has to who serves its calls, but for no longer than it is lent it:
//! else two that work together would keep it for good. So that is a second loan, beside that of
//! the thread's own priority, which ends with the one that it is *from*. The first in such a line is
//! the *root* of all that are lent on from it, however indirectly.
//!
//! A call that raises nobody, and is made and served by threads that are not raised, pays for three
//! comparisons.

use crate::abi::{self, bus1_priority};
use crate::call::{Call, CallRef, DONE, LEFT};
use crate::park::Waker;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::ptr;
use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::bindings;
use kernel::error::Result;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::atomic::{ordering, ordering::Relaxed, Atomic};
use kernel::sync::barrier::smp_mb;
use kernel::task::Task;
use kernel::types::NotThreadSafe;

/// How a thread is scheduled, without what a lock has raised it to. As the kernel counts: less is more
/// urgent.
#[derive(Clone, Copy)]
struct Priority {
    level: i32,
    policy: u32,
}

/// Of SCHED_DEADLINE, and of SCHED_IDLE: before and behind all others.
const DEADLINE: i32 = -1;
const IDLE: i32 = 140;

impl Priority {
    /// # Safety
    ///
    /// There is a reference to the thread.
    #[inline]
    unsafe fn of(task: *const bindings::task_struct) -> Self {
        // SAFETY: By the caller. What others change is only compared.
        let (level, policy) = unsafe {
            (
                (&raw const (*task).normal_prio).read_volatile(),
                (&raw const (*task).policy).read_volatile(),
            )
        };
        let level = if policy == bindings::SCHED_IDLE {
            IDLE
        } else {
            level
        };
        Self { level, policy }
    }

    fn from(is: &bus1_priority) -> Self {
        let level = match is.policy {
            bindings::SCHED_FIFO | bindings::SCHED_RR => 99 - is.priority as i32,
            bindings::SCHED_DEADLINE => DEADLINE,
            bindings::SCHED_IDLE => IDLE,
            _ => 120 + is.nice,
        };
        Self {
            level,
            policy: is.policy,
        }
    }

    fn is_above(self, other: Self) -> bool {
        self.level < other.level
    }

    /// What a thread is set to that is lent it.
    fn over(self, own: &bus1_priority) -> bus1_priority {
        let mut set = *own;
        set.reset_on_fork = true;
        if self.level < 100 {
            // What is more urgent than real time is as urgent as that can be.
            set.policy = if self.policy == bindings::SCHED_RR {
                bindings::SCHED_RR
            } else {
                bindings::SCHED_FIFO
            };
            set.priority = (99 - self.level.max(0)) as u32;
        } else {
            set.policy = bindings::SCHED_NORMAL;
            set.priority = 0;
            set.nice = self.level.min(139) - 120;
        }
        set
    }
}

/// What a call lends to who serves it.
pub(crate) struct Offer {
    to: Priority,
    /// If the caller is raised itself: what it has by itself, and the loan that the rest is from.
    own: Priority,
    from: LoanId,
}

/// A loan, which may be over; or none, if the number is 0.
#[derive(Clone, Copy)]
struct LoanId {
    key: Key,
    number: u64,
}

const NONE: LoanId = LoanId {
    key: (0, 0, 0),
    number: 0,
};

impl Offer {
    /// Of a call that the current thread makes.
    #[inline]
    pub(crate) fn current() -> Self {
        let task = Task::current_raw();
        if counted(&KNOWN, task.addr()) {
            return Self::current_known();
        }
        // SAFETY: The current thread is there.
        let to = unsafe { Priority::of(task) };
        Self {
            to,
            own: to,
            from: NONE,
        }
    }

    #[cold]
    #[inline(never)]
    fn current_known() -> Self {
        let task: *mut abi::task_struct = Task::current_raw().cast();
        let thread = task.addr();
        let mut table = Table::lock();
        // SAFETY: The current thread is there.
        let is = unsafe { abi::bus1_priority_get(task) };
        let to = Priority::from(&is);
        let own = match table.threads.get(&thread) {
            Some(known) => Priority::from(&known.own(&is)),
            None => to,
        };
        match table.first(thread) {
            Some((key, loan)) if to.is_above(own) => {
                let number = loan.number;
                let from = LoanId { key, number };
                Self { to, own, from }
            }
            _ => Self {
                to: own,
                own,
                from: NONE,
            },
        }
    }
}

/// A thread that is raised, or was a moment ago.
struct Known {
    /// Keeps it.
    task: Waker,
    /// What it has by itself, and what it was last set to.
    own: bus1_priority,
    set: bus1_priority,
    /// The most urgent of what it was set to, and the lowest nice value.
    level: i32,
    nice: i32,
    /// When it was last set, if it is not raised: see [`bus1_raised_again`].
    time: u64,
}

impl Known {
    /// What it has by itself, if that is what it is found at.
    fn own(&self, is: &bus1_priority) -> bus1_priority {
        let (set, mut own) = (&self.set, self.own);
        let level = Priority::from(is).level;
        let own_level = Priority::from(&own).level;
        if (is.policy, is.priority) != (set.policy, set.priority) {
            let is_above = level < self.level;
            if is_above || level >= own_level {
                own.policy = is.policy;
                own.priority = is.priority;
            }
            if is_above {
                // It may have been given with that, so it stays.
                own.reset_on_fork = is.reset_on_fork;
            }
        }
        if is.nice != set.nice && (is.nice < self.nice || is.nice >= own.nice) {
            own.nice = is.nice;
        }
        // These are not lent.
        own.runtime = is.runtime;
        if is.slack != 0 {
            own.slack = is.slack;
        }
        own
    }
}

/// That a thread is raised for a call.
struct Loan {
    to: Priority,
    number: u64,
    /// If it is lent on: see the head of this file.
    from: LoanId,
    root: LoanId,
    /// If it is not: how many have it as their root.
    lent_on: usize,
}

/// So many have one root at a time: who ends that ends them all.
const MOST_LENT_ON: usize = 32;

/// The thread, how urgent, and the call: so that the first of a thread's is the highest.
type Key = (usize, i32, usize);

struct Table {
    threads: RBTree<usize, Known>,
    loans: RBTree<Key, Loan>,
    /// Those that are lent on, by the number of what they are from, and their own.
    lent_on: RBTree<(u64, u64), Key>,
    /// Of loans.
    last: u64,
    /// Goes on with every [look](bus1_raised_again).
    time: u64,
}

struct Raised(UnsafeCell<Option<Table>>);

// SAFETY: Under its lock.
unsafe impl Sync for Raised {}

static RAISED: Raised = Raised(UnsafeCell::new(None));

/// How many loans there are to threads that have the same hash, and how many such threads are known: so
/// that the lock is not taken for others.
static LOANS: Counts = [const { Atomic::new(0) }; 64];
static KNOWN: Counts = [const { Atomic::new(0) }; 64];

type Counts = [Atomic<u32>; 64];

#[inline]
fn count_of(counts: &Counts, thread: usize) -> &Atomic<u32> {
    // Fibonacci's: its upper bits depend on all.
    &counts[(thread as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 58]
}

/// Acquire: if not, it was set to its own before.
#[inline]
fn counted(counts: &Counts, thread: usize) -> bool {
    count_of(counts, thread).load(ordering::Acquire) != 0
}

fn address(call: &Call) -> usize {
    ptr::from_ref(call).addr()
}

/// Whether a thread is perhaps to be raised for a call, or would be when its other calls are over.
///
/// # Safety
///
/// There is a reference to the thread.
#[inline]
unsafe fn raises(call: &Call, task: *const bindings::task_struct) -> bool {
    let is_raised = counted(&LOANS, task.addr());
    // SAFETY: By the caller.
    let has = unsafe { Priority::of(task) };
    (is_raised || call.offer.to.is_above(has)) && !call.node.root().no_inherit
}

/// A thread serves a call from now on, whose request it was given or has taken. No lock may be held.
#[inline]
pub(crate) fn begin(call: &CallRef, task: &Waker) {
    // SAFETY: There is a reference.
    if unsafe { raises(call, task.as_ptr().cast()) } {
        raise(call, task);
    }
}

/// The same of the current thread.
#[inline]
pub(crate) fn begin_current(call: &CallRef) {
    // SAFETY: The current thread is there.
    if unsafe { raises(call, Task::current_raw()) } {
        if let Some(task) = Waker::current() {
            raise(call, &task);
        }
    }
}

/// A thread was raised for it.
#[inline]
pub(crate) fn has_raised(call: &Call) -> bool {
    call.raised.load(Relaxed) != 0
}

/// The call is over at the server, or is not served yet after all. After its state has changed, if it
/// has. No lock may be held.
#[inline]
pub(crate) fn end(call: &Call) {
    if has_raised(call) {
        lower(call);
    }
}

/// The lock is held.
struct Locked(NotThreadSafe);

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: It was taken by this thread.
        unsafe { abi::bus1_raised_unlock() };
    }
}

impl Deref for Locked {
    type Target = Table;

    fn deref(&self) -> &Table {
        // SAFETY: The lock is held, and `lock` has made it.
        unsafe { (*RAISED.0.get()).as_ref().unwrap_unchecked() }
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Table {
        // SAFETY: As above.
        unsafe { (*RAISED.0.get()).as_mut().unwrap_unchecked() }
    }
}

impl Table {
    fn lock() -> Locked {
        // SAFETY: No lock is held.
        unsafe { abi::bus1_raised_lock() };
        // SAFETY: It is held.
        unsafe { &mut *RAISED.0.get() }.get_or_insert_with(|| Table {
            threads: RBTree::new(),
            loans: RBTree::new(),
            lent_on: RBTree::new(),
            last: 0,
            time: 0,
        });
        Locked(NotThreadSafe)
    }

    /// The highest of a thread's.
    fn first(&mut self, thread: usize) -> Option<(Key, &mut Loan)> {
        let cursor = self.loans.cursor_lower_bound(&(thread, i32::MIN, 0))?;
        let key = *cursor.current().0;
        if key.0 != thread {
            return None;
        }
        self.loans.get_mut(&key).map(|loan| (key, loan))
    }

    fn find(&mut self, id: &LoanId) -> Option<&mut Loan> {
        let loan = self.loans.get_mut(&id.key)?;
        (loan.number == id.number).then_some(loan)
    }

    /// A thread gets what is due to it now. False if it had that.
    fn settle(&mut self, thread: usize) -> bool {
        let time = self.time;
        let lent = self.first(thread).map(|(_, loan)| loan.to);
        let Some(known) = self.threads.get_mut(&thread) else {
            return false;
        };
        // SAFETY: There is a reference.
        let is = unsafe { abi::bus1_priority_get(known.task.as_ptr()) };
        let own = known.own(&is);
        let set = match lent {
            Some(to) if to.is_above(Priority::from(&own)) => to.over(&own),
            _ => own,
        };
        known.own = own;
        known.set = set;
        known.level = known.level.min(Priority::from(&set).level);
        known.nice = known.nice.min(set.nice);
        known.time = time;
        let changes = !same(&set, &is);
        if changes {
            // SAFETY: As above.
            unsafe { abi::bus1_priority_set(known.task.as_ptr(), &set) };
        }
        changes
    }

    /// One ends.
    fn take(&mut self, key: &Key) -> Option<Loan> {
        let loan = self.loans.remove(key)?;
        self.settle(key.0);
        // Release: see `counted`.
        count_of(&LOANS, key.0).fetch_sub(1, ordering::Release);
        Some(loan)
    }

    /// A thread that is not raised, and was last set before that time, need not be known any more if it is
    /// still at that.
    fn forget(&mut self, thread: usize, time: u64) {
        let is_over = match self.threads.get(&thread) {
            Some(known) => known.time < time && self.first(thread).is_none(),
            None => false,
        };
        if is_over && !self.settle(thread) {
            self.threads.remove(&thread);
            count_of(&KNOWN, thread).fetch_sub(1, ordering::Release);
        }
    }

    /// The loan of a call ends, and what is lent on from it, however indirectly.
    fn end(&mut self, key: &Key) {
        let Some(loan) = self.take(key) else {
            return;
        };
        self.lent_on.remove(&(loan.from.number, loan.number));
        let mut ended = [loan.number; MOST_LENT_ON + 1];
        let mut n = 1;
        let mut next = 0;
        while next < n {
            while let Some(key) = self.take_lent_on(ended[next]) {
                if let (Some(loan), Some(place)) = (self.take(&key), ended.get_mut(n)) {
                    *place = loan.number;
                    n += 1;
                }
            }
            next += 1;
        }
        if let Some(root) = self.find(&loan.root) {
            root.lent_on -= n;
        }
    }

    fn take_lent_on(&mut self, from: u64) -> Option<Key> {
        let cursor = self.lent_on.cursor_lower_bound_mut(&(from, 0))?;
        if cursor.current().0 .0 != from {
            return None;
        }
        let (_, node) = cursor.remove_current();
        Some(node.to_key_value().1)
    }

    /// What a loan is lent on from, if that goes on, and its root, if that may have one more.
    fn root_of(&mut self, from: &LoanId) -> Option<LoanId> {
        let loan = self.find(from)?;
        let root = if loan.root.number == 0 {
            *from
        } else {
            loan.root
        };
        (self.find(&root)?.lent_on < MOST_LENT_ON).then_some(root)
    }
}

/// Of what may differ: the rest was taken over.
fn same(a: &bus1_priority, b: &bus1_priority) -> bool {
    (a.policy, a.nice, a.priority, a.reset_on_fork)
        == (b.policy, b.nice, b.priority, b.reset_on_fork)
}

type ThreadMemory = RBTreeNodeReservation<usize, Known>;
type LoanMemory = RBTreeNodeReservation<Key, Loan>;
type LinkMemory = RBTreeNodeReservation<(u64, u64), Key>;

/// For a call's loans. The last is for what is lent on.
struct Memory {
    thread: ThreadMemory,
    loan: LoanMemory,
    lent_on: Option<(LoanMemory, LinkMemory)>,
}

impl Memory {
    fn new(call: &Call) -> Result<Self> {
        let flags = GFP_KERNEL_ACCOUNT;
        let mut lent_on = None;
        if call.offer.from.number != 0 {
            lent_on = Some((LoanMemory::new(flags)?, LinkMemory::new(flags)?));
        }
        Ok(Self {
            thread: ThreadMemory::new(flags)?,
            loan: LoanMemory::new(flags)?,
            lent_on,
        })
    }
}

#[cold]
#[inline(never)]
fn raise(call: &CallRef, task: &Waker) {
    // Without memory it is served at the server's own priority.
    let Ok(memory) = Memory::new(call) else {
        return;
    };
    Table::lock().lend(call, task, memory);
    // Pairs with the step of the state before `end`: one of both sees the other.
    smp_mb();
    if matches!(call.state(), DONE | LEFT) {
        lower(call);
    }
}

impl Table {
    fn lend(&mut self, call: &Call, task: &Waker, memory: Memory) {
        let thread = task.as_ptr().addr();
        let Offer { to, own, from } = &call.offer;
        if has_raised(call) {
            // The caller has raised who it gave a nested request to.
            return;
        }
        // SAFETY: There is a reference.
        let is = unsafe { abi::bus1_priority_get(task.as_ptr()) };
        let has = match self.threads.get(&thread) {
            Some(known) => Priority::from(&known.own(&is)),
            None => Priority::from(&is),
        };
        let root = match &memory.lent_on {
            Some(_) if to.is_above(has) => self.root_of(from),
            _ => None,
        };
        if root.is_none() && !own.is_above(has) {
            return;
        }
        self.know(task, &is, memory.thread);
        if own.is_above(has) {
            self.insert(call, thread, *own, memory.loan, (NONE, NONE));
        }
        if let (Some((loan, link)), Some(root)) = (memory.lent_on, root) {
            let (key, number) = self.insert(call, thread, *to, loan, (*from, root));
            let link = link.into_node((from.number, number), key);
            self.lent_on.insert(link);
            if let Some(root) = self.find(&root) {
                root.lent_on += 1;
            }
        }
        call.raised.store(thread, Relaxed);
        self.settle(thread);
    }

    fn know(&mut self, task: &Waker, is: &bus1_priority, memory: ThreadMemory) {
        let thread = task.as_ptr().addr();
        if self.threads.get(&thread).is_some() {
            return;
        }
        if self.threads.is_empty() {
            // SAFETY: `exit` is yet to come.
            unsafe { abi::bus1_raised_later() };
        }
        let known = Known {
            task: task.another(),
            own: *is,
            set: *is,
            level: Priority::from(is).level,
            nice: is.nice,
            time: self.time,
        };
        self.threads.insert(memory.into_node(thread, known));
        count_of(&KNOWN, thread).fetch_add(1, Relaxed);
    }

    fn insert(
        &mut self,
        call: &Call,
        thread: usize,
        to: Priority,
        memory: LoanMemory,
        (from, root): (LoanId, LoanId),
    ) -> (Key, u64) {
        self.last += 1;
        let number = self.last;
        let key = (thread, to.level, address(call));
        let loan = Loan {
            to,
            number,
            from,
            root,
            lent_on: 0,
        };
        self.loans.insert(memory.into_node(key, loan));
        count_of(&LOANS, thread).fetch_add(1, Relaxed);
        (key, number)
    }
}

#[cold]
#[inline(never)]
fn lower(call: &Call) {
    let mut table = Table::lock();
    let thread = call.raised.load(Relaxed);
    if thread == 0 {
        return;
    }
    call.raised.store(0, Relaxed);
    let Offer { to, own, from } = &call.offer;
    table.end(&(thread, own.level, address(call)));
    if from.number != 0 {
        table.end(&(thread, to.level, address(call)));
    }
}

/// Time goes on. See `bridge.h`.
#[no_mangle]
pub(crate) extern "C" fn bus1_raised_tick() -> u64 {
    let mut table = Table::lock();
    table.time += 1;
    table.time
}

/// See `bridge.h`.
#[no_mangle]
pub(crate) extern "C" fn bus1_raised_again(time: u64) -> bool {
    let mut after = 0;
    loop {
        // Each by itself: others wait for the lock.
        let mut table = Table::lock();
        let Some(cursor) = table.threads.cursor_lower_bound(&(after + 1)) else {
            return !table.threads.is_empty();
        };
        let thread = *cursor.current().0;
        table.forget(thread, time);
        after = thread;
    }
}
