// SPDX-License-Identifier: GPL-2.0-only

//! Users, and how much of each thing they may have (RES-1, RES-4).
//!
//! A user is whom a peer was opened by: see `bus1_user_of()` in `bridge.c`. What is counted here is
//! limited by the administrator, and one more is EDQUOT; how users share what a receiver has is
//! `quota.rs`.

use crate::abi;
use crate::errno::edquot;
use crate::trace;
use core::fmt::Write;
use core::ptr::NonNull;
use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::ffi::{c_int, c_long};
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::atomic::{ordering::Acquire, ordering::Relaxed, ordering::Release, Atomic};

/// What users have. The order is that of `enum bus1_limit`.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(crate) enum Limit {
    /// Open peers and exported handles.
    Peers = abi::BUS1_LIMIT_PEERS as usize,
    /// Nodes and facets in the tables of their peers.
    Nodes = abi::BUS1_LIMIT_NODES as usize,
    /// Handles that their peers hold.
    Handles = abi::BUS1_LIMIT_HANDLES as usize,
    /// Messages that they have sent and nobody has received, and handles in those.
    Messages = abi::BUS1_LIMIT_MESSAGES as usize,
    /// Files in those, and of buffers.
    Files = abi::BUS1_LIMIT_FILES as usize,
    /// Pages of their peers' pools.
    Pages = abi::BUS1_LIMIT_PAGES as usize,
}

const N: usize = abi::BUS1_LIMIT_N as usize;

/// Of users without a limit of their own. Negative: not set yet. The parameters of the module are set
/// before it is [ready](init).
static DEFAULTS: [Atomic<i64>; N] = [const { Atomic::new(-1) }; N];
static READY: Atomic<bool> = Atomic::new(false);

pub(crate) struct User {
    uid: u32,
    /// Peers in memory, closed ones included. Under the table's lock.
    peers: usize,
    used: [Atomic<i64>; N],
    max: [Atomic<i64>; N],
    /// Which of `max` were set for this user, as bits; that keeps it in the table. Under the table's
    /// lock.
    set: u32,
}

kernel::sync::global_lock! {
    // SAFETY: `init` does it before anything else.
    unsafe(uninit) static USERS: Mutex<Table> = Table(None);
}

type Users = RBTree<u32, KBox<User>>;

/// The users, by their number. Made when first used.
struct Table(Option<Users>);

impl Table {
    fn users(&mut self) -> &mut Users {
        self.0.get_or_insert_with(RBTree::new)
    }

    fn get_or_insert(&mut self, uid: u32, new: NewUser) -> Result<&mut User> {
        let users = self.users();
        if users.get(&uid).is_none() {
            let NewUser { user, node } = new;
            users.insert(node.into_node(uid, user));
        }
        Ok(users.get_mut(&uid).ok_or(ENOMEM)?)
    }
}

/// Allocated outside of the lock: reclaim may end a peer, which takes it.
struct NewUser {
    user: KBox<User>,
    node: RBTreeNodeReservation<u32, KBox<User>>,
}

fn new_user(uid: u32) -> Result<NewUser> {
    Ok(NewUser {
        user: KBox::new(User::new(uid), GFP_KERNEL_ACCOUNT)?,
        node: RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?,
    })
}

/// Called once, before anything else.
pub(crate) fn init(pages: i64) {
    // SAFETY: By the caller.
    unsafe { USERS.init() };
    for (which, max) in [
        (Limit::Peers, 1 << 16),
        (Limit::Nodes, 1 << 18),
        (Limit::Handles, 1 << 18),
        (Limit::Messages, 1 << 17),
        (Limit::Files, 1 << 14),
        (Limit::Pages, pages),
    ] {
        if DEFAULTS[which as usize].load(Relaxed) < 0 {
            DEFAULTS[which as usize].store(max, Relaxed);
        }
    }
    READY.store(true, Relaxed);
}

impl User {
    fn new(uid: u32) -> Self {
        Self {
            uid,
            peers: 0,
            used: [const { Atomic::new(0) }; N],
            max: core::array::from_fn(|i| Atomic::new(DEFAULTS[i].load(Relaxed))),
            set: 0,
        }
    }

    fn is_gone(&self) -> bool {
        // Acquire: pairs with `discharge`. Without a peer nothing is charged any more.
        self.peers == 0 && self.set == 0 && self.used.iter().all(|n| n.load(Acquire) == 0)
    }
}

/// The user of a peer, which has one more as long as this is [open](Self::close), and keeps it as long
/// as this lives.
pub(crate) struct Opened {
    user: UserRef,
    is_open: Atomic<bool>,
}

impl Opened {
    /// For a new peer of the user with a number. EDQUOT. No lock may be held, nor when it is dropped.
    pub(crate) fn new(uid: u32) -> Result<Self> {
        let new = new_user(uid)?;
        let mut table = USERS.lock();
        let user = table.get_or_insert(uid, new)?;
        user.peers += 1;
        let user = UserRef(NonNull::from(user));
        drop(table);
        let is_open = user.charge(Limit::Peers, 1);
        let opened = Self {
            user,
            is_open: Atomic::new(is_open.is_ok()),
        };
        is_open.map(|()| opened)
    }

    pub(crate) fn user(&self) -> UserRef {
        self.user
    }

    /// The peer is closed, though still in memory.
    pub(crate) fn close(&self) {
        if self.is_open.xchg(false, Relaxed) {
            self.user.discharge(Limit::Peers, 1);
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.close();
        let mut table = USERS.lock();
        let users = table.users();
        let uid = self.user.uid();
        if let Some(user) = users.get_mut(&uid) {
            user.peers -= 1;
            if user.peers == 0 {
                // Its messages may still be on their way: then the next one does it.
                sweep(users);
            }
        }
    }
}

/// A user with a peer in memory, or with something charged: both keep it.
#[derive(Clone, Copy)]
pub(crate) struct UserRef(NonNull<User>);

// SAFETY: What is reached through it is atomic, or under the table's lock.
unsafe impl Send for UserRef {}
// SAFETY: As above.
unsafe impl Sync for UserRef {}

impl UserRef {
    #[inline]
    fn user(&self) -> &User {
        // SAFETY: It is kept: see the type.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    pub(crate) fn as_ptr(self) -> *mut User {
        self.0.as_ptr()
    }

    /// # Safety
    ///
    /// From [`as_ptr`](Self::as_ptr), and something keeps the user.
    #[inline]
    pub(crate) unsafe fn from_ptr(user: *mut User) -> Self {
        // SAFETY: By the caller.
        Self(unsafe { NonNull::new_unchecked(user) })
    }

    pub(crate) fn uid(self) -> u32 {
        self.user().uid
    }

    /// Charges `n`. EDQUOT.
    #[inline(always)]
    pub(crate) fn charge(self, what: Limit, n: usize) -> Result {
        let user = self.user();
        let n = n as i64;
        let used = &user.used[what as usize];
        if used.fetch_add(n, Relaxed) + n <= user.max[what as usize].load(Relaxed) {
            return Ok(());
        }
        used.add(-n, Relaxed);
        let resource = abi::BUS1_RESOURCE_USER + what as u32;
        Err(trace::refused(0, resource, edquot()))
    }

    /// Charges what there is already, whatever the limit.
    pub(crate) fn charge_anyway(self, what: Limit, n: usize) {
        self.user().used[what as usize].add(n as i64, Relaxed);
    }

    /// This may be the last that keeps the user.
    #[inline]
    pub(crate) fn discharge(self, what: Limit, n: usize) {
        // Release: whoever finds nothing charged frees the memory. Pairs with `is_gone`.
        self.user().used[what as usize].fetch_sub(n as i64, Release);
    }

    /// Whether one more would be too many.
    pub(crate) fn is_full(self, what: Limit) -> bool {
        let user = self.user();
        user.used[what as usize].load(Relaxed) >= user.max[what as usize].load(Relaxed)
    }

    /// How many one peer may have: half of what its user may.
    #[inline]
    pub(crate) fn max_of_peer(self, what: Limit) -> usize {
        (self.user().max[what as usize].load(Relaxed) / 2).max(0) as usize
    }
}

/// Drops users of whom nothing is left.
fn sweep(users: &mut Users) {
    let mut cursor = users.cursor_front_mut();
    while let Some(here) = cursor {
        cursor = if here.current().1.is_gone() {
            here.remove_current().0
        } else {
            here.move_next()
        };
    }
}

/// What all users have together.
pub(crate) fn total(what: Limit) -> i64 {
    let mut table = USERS.lock();
    let users = table.users();
    users
        .values()
        .map(|u| u.used[what as usize].load(Relaxed))
        .sum()
}

/// The same of everything, added up: 0 if nothing is charged to anyone.
pub(crate) fn total_of_all() -> i64 {
    let mut table = USERS.lock();
    let used = table.users().values().flat_map(|user| &user.used);
    used.map(|n| n.load(Relaxed)).sum()
}

/// Called once, after everything else: how many users are left, of those without limits of their own.
pub(crate) fn end() -> usize {
    let mut table = USERS.lock();
    let users = table.users();
    for user in users.values_mut() {
        user.set = 0;
    }
    sweep(users);
    let left = users.values().count();
    table.0 = None;
    left
}

fn limit(which: u32) -> Option<usize> {
    ((which as usize) < N).then_some(which as usize)
}

/// See `bridge.h`.
#[no_mangle]
pub(crate) extern "C" fn bus1_limit_get(which: u32) -> c_long {
    limit(which).map_or(0, |i| DEFAULTS[i].load(Relaxed) as c_long)
}

/// See `bridge.h`.
#[no_mangle]
pub(crate) extern "C" fn bus1_limit_set(which: u32, max: c_long) {
    let Some(i) = limit(which) else { return };
    if !READY.load(Relaxed) {
        return DEFAULTS[i].store(max as i64, Relaxed);
    }
    let mut table = USERS.lock();
    let users = table.users();
    DEFAULTS[i].store(max as i64, Relaxed);
    for user in users.values() {
        if user.set & 1 << i == 0 {
            user.max[i].store(max as i64, Relaxed);
        }
    }
}

/// See `bridge.h`.
#[no_mangle]
pub(crate) extern "C" fn bus1_limit_set_user(uid: u32, which: u32, max: c_long) -> c_int {
    let Some(i) = limit(which) else {
        return EINVAL.to_errno();
    };
    match set_user(uid, i, max as i64) {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

/// A negative limit is the default one.
fn set_user(uid: u32, i: usize, max: i64) -> Result {
    let new = new_user(uid)?;
    let mut table = USERS.lock();
    let user = table.get_or_insert(uid, new)?;
    if max < 0 {
        user.set &= !(1 << i);
        user.max[i].store(DEFAULTS[i].load(Relaxed), Relaxed);
        sweep(table.users());
    } else {
        user.set |= 1 << i;
        user.max[i].store(max, Relaxed);
    }
    Ok(())
}

/// Writes to memory of C's, as far as there is room, and counts on.
struct Text<'a> {
    to: &'a mut [u8],
    len: usize,
}

impl Write for Text<'_> {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for b in s.bytes() {
            if let Some(place) = self.to.get_mut(self.len) {
                *place = b;
            }
            self.len += 1;
        }
        Ok(())
    }
}

/// See `bridge.h`.
///
/// # Safety
///
/// There is room for `size` bytes at `to`.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_users_show(to: *mut u8, size: usize) -> usize {
    // SAFETY: By the caller.
    let to = unsafe { core::slice::from_raw_parts_mut(to, size) };
    let mut text = Text { to, len: 0 };
    let mut table = USERS.lock();
    for user in table.users().values() {
        // Nothing fails here.
        let _ = write!(text, "{}", user.uid);
        for (used, max) in user.used.iter().zip(&user.max) {
            let _ = write!(text, " {}/{}", used.load(Relaxed), max.load(Relaxed));
        }
        let _ = writeln!(text);
    }
    text.len
}
