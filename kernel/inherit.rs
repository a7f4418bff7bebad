// SPDX-License-Identifier: GPL-2.0-only

//! Who serves a call does so at the priority of its caller, if that is higher (CALL-6).
//!
//! The caller's priority is noted in the call when it is made. The thread that the request is given to, or
//! that takes it, is raised to it before it runs, and goes back to the highest that is left when the
//! call ends, however and by whomever: to its own priority, if none is. If somebody has given
//! the thread another priority meanwhile it keeps that.
//!
//! A call that raises nobody pays for two comparisons.

use crate::abi;
use crate::call::{Call, CallRef, DONE, LEFT};
use crate::park::Waker;
use core::ptr;
use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::bindings;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::barrier::smp_mb;

/// How a thread is scheduled, without what a lock or a call has raised it to. As the kernel counts: less
/// is more urgent.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Priority {
    level: i32,
    policy: u32,
}

/// Of SCHED_IDLE: behind all others.
const IDLE: i32 = 140;

impl Priority {
    #[inline]
    pub(crate) fn current() -> Self {
        // SAFETY: The current thread is there.
        unsafe { Self::of(kernel::task::Task::current_raw()) }
    }

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
}

/// A thread that was raised for a call.
struct Raised {
    /// Keeps it.
    task: Waker,
    /// What it is set to while this is the highest.
    to: Priority,
    /// What it had before all of them.
    base: abi::bus1_priority,
}

/// The thread, how urgent, and the call: so that the first of a thread's is the highest.
type Key = (usize, i32, usize);

struct Table(Option<RBTree<Key, Raised>>);

kernel::sync::global_lock! {
    // SAFETY: `init` does it before anything else.
    unsafe(uninit) static RAISED: Mutex<Table> = Table(None);
}

/// Called once, before anything else.
pub(crate) fn init() {
    // SAFETY: By the caller.
    unsafe { RAISED.init() };
}

fn address(call: &Call) -> usize {
    ptr::from_ref(call).addr()
}

/// Whether a thread is to be raised for a call.
#[inline]
fn raises(call: &Call, task: &Waker) -> bool {
    // SAFETY: There is a reference.
    let has = unsafe { Priority::of(task.as_ptr().cast()) };
    call.priority.level < has.level && !call.node.root().no_inherit
}

/// A thread serves a call from now on, whose request it was given or has taken. No lock may be held.
#[inline]
pub(crate) fn begin(call: &CallRef, task: &Waker) {
    if raises(call, task) {
        raise(call, task);
    }
}

/// The same of the current thread.
#[inline]
pub(crate) fn begin_current(call: &CallRef) {
    if call.priority.level < Priority::current().level {
        if let Some(task) = Waker::current() {
            begin(call, &task);
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

impl Table {
    fn tree(&mut self) -> &mut RBTree<Key, Raised> {
        self.0.get_or_insert_with(RBTree::new)
    }

    /// The highest of a thread's.
    fn first(&mut self, task: usize) -> Option<(Key, &Raised)> {
        let cursor = self.tree().cursor_lower_bound(&(task, i32::MIN, 0))?;
        let key = *cursor.current().0;
        if key.0 != task {
            return None;
        }
        self.tree().get(&key).map(|raised| (key, raised))
    }
}

#[cold]
#[inline(never)]
fn raise(call: &CallRef, task: &Waker) {
    // Without memory it is served at the server's own priority.
    let Ok(node) = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT) else {
        return;
    };
    let thread = task.as_ptr().addr();
    {
        let mut table = RAISED.lock();
        let first = table.first(thread).map(|(_, r)| (r.to, r.base));
        // SAFETY: There is a reference.
        let is = unsafe { abi::bus1_priority_get(task.as_ptr()) };
        let base = match first {
            Some((to, base)) if is_set_to(&is, to) => base,
            // Its own, or what somebody else has given it.
            _ => is,
        };
        let key = (thread, call.priority.level, address(call));
        let raised = Raised {
            task: task.another(),
            to: call.priority,
            base,
        };
        table.tree().insert(node.into_node(key, raised));
        call.raised.store(thread, Relaxed);
        let highest = first.is_none_or(|(to, _)| call.priority.level < to.level);
        if highest {
            set(task, call.priority, &base);
        }
    }
    // Pairs with the step of the state before `end`: one of both sees the other.
    smp_mb();
    if matches!(call.state(), DONE | LEFT) {
        lower(call);
    }
}

#[cold]
#[inline(never)]
fn lower(call: &Call) {
    let mut table = RAISED.lock();
    let thread = call.raised.load(Relaxed);
    if thread == 0 {
        return;
    }
    call.raised.store(0, Relaxed);
    let key = (thread, call.priority.level, address(call));
    let highest = table.first(key.0).map(|(_, r)| r.to);
    let Some(raised) = table.tree().remove(&key) else {
        return;
    };
    let next = table.first(key.0).map(|(_, r)| r.to);
    // SAFETY: It keeps the thread.
    let is = unsafe { abi::bus1_priority_get(raised.task.as_ptr()) };
    if highest.is_some_and(|to| is_set_to(&is, to)) {
        match next {
            Some(to) => set(&raised.task, to, &raised.base),
            // SAFETY: As above.
            None => unsafe { abi::bus1_priority_set(raised.task.as_ptr(), &raised.base) },
        }
    }
}

/// What a thread is set to for a call of that priority.
fn for_call(to: Priority, base: &abi::bus1_priority) -> abi::bus1_priority {
    let mut set = *base;
    set.reset_on_fork = true;
    if to.level < 100 {
        // What is more urgent than real time is as urgent as that can be.
        set.policy = if to.policy == bindings::SCHED_RR {
            bindings::SCHED_RR
        } else {
            bindings::SCHED_FIFO
        };
        set.priority = (99 - to.level.max(0)) as u32;
        set.nice = 0;
    } else {
        set.policy = bindings::SCHED_NORMAL;
        set.priority = 0;
        set.nice = to.level.min(139) - 120;
    }
    set
}

fn is_set_to(is: &abi::bus1_priority, to: Priority) -> bool {
    let set = for_call(to, is);
    let is_nice = to.level < 100 || is.nice == set.nice;
    (is.policy, is.priority) == (set.policy, set.priority) && is_nice
}

fn set(task: &Waker, to: Priority, base: &abi::bus1_priority) {
    // SAFETY: There is a reference.
    unsafe { abi::bus1_priority_set(task.as_ptr(), &for_call(to, base)) };
}
