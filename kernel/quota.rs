// SPDX-License-Identifier: GPL-2.0-only

//! What senders have in flight at one receiver, and how they share it (RES-2).
//!
//! What is in flight is charged twice in the [`Book`] of the receiver: to the [`Account`] of the peer
//! that sent it, and to the [`Share`] of that peer's user. A user who has some of it may have as
//! much as leaves, for each user who has some, as much again:
//!
//! > (what the user has) × (number of users, with this one) ≤ what nobody has
//!
//! So whatever the others do, and in whatever order they come, the n-th user gets 1 / n(n + 1) of the
//! whole, but for the first eighth: that is for whoever comes first, so that few are asked. One peer
//! may take up to three quarters of what its user may have. See bus1(7) for both rules with an example.
//!
//! An account exists as long as a handle that was sent through refers to it, or something is charged to
//! it. Its memory stays with the book and is used again, so that who has kept its address can find
//! out, under the receiver's lock, whether it is still his.

use core::ptr::{self, NonNull};
use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode, RBTreeNodeReservation};

/// What is charged. Two to a word, so that all of it is added and compared at once: none comes near to
/// 32 bits.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) struct Amounts {
    /// Messages, and granules of the pool.
    load: u64,
    /// Handles that messages bring, each as often as it is brought, and files.
    extras: u64,
}

impl Amounts {
    /// A message that brings nothing.
    pub(crate) const MESSAGE: Self = Self::new(1, 0, 0, 0);

    #[inline(always)]
    pub(crate) const fn new(messages: u32, granules: u32, handles: u32, files: u32) -> Self {
        Self {
            load: messages as u64 | (granules as u64) << 32,
            extras: handles as u64 | (files as u64) << 32,
        }
    }

    /// The same and one more message.
    pub(crate) fn and_message(mut self) -> Self {
        self.add(&Self::MESSAGE);
        self
    }

    #[inline(always)]
    pub(crate) fn messages(&self) -> u32 {
        self.load as u32
    }

    #[inline(always)]
    pub(crate) fn granules(&self) -> u32 {
        (self.load >> 32) as u32
    }

    #[inline(always)]
    pub(crate) fn handles(&self) -> u32 {
        self.extras as u32
    }

    #[inline(always)]
    pub(crate) fn files(&self) -> u32 {
        (self.extras >> 32) as u32
    }

    /// There are handles or files.
    #[inline(always)]
    pub(crate) fn has_extras(&self) -> bool {
        self.extras != 0
    }

    /// Whether there are as many handles and as many files. Both at once: a borrow stops at the upper
    /// bit of its half.
    #[inline(always)]
    fn has_extras_of(&self, extras: u64) -> bool {
        const STOPS: u64 = 1 << 31 | 1 << 63;
        ((self.extras | STOPS) - extras) & STOPS == STOPS
    }

    #[inline(always)]
    fn add(&mut self, other: &Self) {
        self.load += other.load;
        if other.extras != 0 {
            self.extras += other.extras;
        }
    }

    #[inline(always)]
    fn sub(&mut self, other: &Self) {
        self.load -= other.load;
        if other.extras != 0 {
            self.extras -= other.extras;
        }
    }

    /// The larger of both, of each.
    pub(crate) fn max(&self, other: &Self) -> Self {
        Self::new(
            self.messages().max(other.messages()),
            self.granules().max(other.granules()),
            self.handles().max(other.handles()),
            self.files().max(other.files()),
        )
    }
}

/// The part of everything that is for whoever comes first: 1 / LOW.
const LOW: u32 = 8;

/// Whether one peer may take `more`: it has `peer` already, its user `user` in all, `n` users
/// have some or are about to, and nobody has `left`.
///
/// The user may take x more with (user + x) n ≤ left - x, and the peer as much as leaves, of that, a
/// third of what the peer has then. Multiplied out there is no division, and no rounding.
#[inline]
pub(crate) fn allows(peer: u32, user: u32, n: u32, left: u32, more: u32) -> bool {
    let (n, more) = (u64::from(n), u64::from(more));
    (u64::from(peer) + 4 * more) * (n + 1) + 3 * u64::from(user) * n <= 3 * u64::from(left)
}

/// The most that one peer may take where nobody has anything.
pub(crate) fn most(all: u32) -> u32 {
    (u64::from(all) * 3 / 8) as u32
}

/// What came of [`Book::charge`].
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Charged {
    Yes,
    NoRoom,
    /// The account is not that peer's any more.
    NotHis,
}

/// Of a user at one receiver.
struct Share<U> {
    user: U,
    used: Amounts,
    /// How many accounts refer to it.
    accounts: u32,
}

/// Of a peer at one receiver.
pub(crate) struct Account<U, W> {
    /// 0: nobody's.
    peer: u64,
    share: NonNull<Share<U>>,
    used: Amounts,
    /// References by handles.
    holds: u32,
    /// What waits for room: the book does not look at it.
    pub(crate) waits: W,
    /// Its node of the tree, if it is nobody's.
    node: Option<RBTreeNodeReservation<u64, AccountRef<U, W>>>,
    /// The next of all, and of those that are nobody's.
    all: *mut Self,
    free: *mut Self,
}

/// The address of an account. It may be another peer's by now, or nobody's.
pub(crate) struct AccountRef<U, W>(NonNull<Account<U, W>>);

impl<U, W> Clone for AccountRef<U, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<U, W> Copy for AccountRef<U, W> {}

// SAFETY: Only the book that it is of looks at what it points to.
unsafe impl<U: Send, W: Send> Send for AccountRef<U, W> {}
// SAFETY: As above.
unsafe impl<U: Send, W: Send> Sync for AccountRef<U, W> {}

impl<U, W> PartialEq for AccountRef<U, W> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<U, W> AccountRef<U, W> {
    pub(crate) fn as_ptr(self) -> *mut Account<U, W> {
        self.0.as_ptr()
    }

    /// None if it is null.
    ///
    /// # Safety
    ///
    /// From [`as_ptr`](Self::as_ptr), and the book it is of lives.
    #[inline]
    pub(crate) unsafe fn from_ptr(ptr: *mut Account<U, W>) -> Option<Self> {
        NonNull::new(ptr).map(Self)
    }
}

/// Memory for an account, allocated outside of the lock that the book is under.
pub(crate) struct NewAccount<U, W> {
    account: KBox<Account<U, W>>,
    share: RBTreeNode<u32, KBox<Share<U>>>,
}

impl<U: Copy, W: Default> NewAccount<U, W> {
    /// Of a user with a number.
    pub(crate) fn new(user: U, uid: u32) -> Result<Self> {
        let share = Share {
            user,
            used: Amounts::default(),
            accounts: 0,
        };
        let account = Account {
            peer: 0,
            share: NonNull::dangling(),
            used: Amounts::default(),
            holds: 0,
            waits: W::default(),
            node: Some(RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?),
            all: ptr::null_mut(),
            free: ptr::null_mut(),
        };
        Ok(Self {
            account: KBox::new(account, GFP_KERNEL_ACCOUNT)?,
            share: RBTreeNode::new(
                uid,
                KBox::new(share, GFP_KERNEL_ACCOUNT)?,
                GFP_KERNEL_ACCOUNT,
            )?,
        })
    }
}

/// Of one receiver, under its lock.
pub(crate) struct Book<U, W> {
    accounts: RBTree<u64, AccountRef<U, W>>,
    /// By the number of the user. They stay.
    shares: RBTree<u32, KBox<Share<U>>>,
    all: *mut Account<U, W>,
    free: *mut Account<U, W>,
    used: Amounts,
    /// As long as no more than this is in use nobody is asked what he has.
    low: Amounts,
    /// Users who have messages in flight.
    users: u32,
}

// SAFETY: The accounts it points to are its own.
unsafe impl<U: Send, W: Send> Send for Book<U, W> {}

impl<U: Copy, W: Default> Book<U, W> {
    /// Of a receiver who can take so much at most.
    pub(crate) fn new(all: &Amounts) -> Self {
        let mut book = Self {
            accounts: RBTree::new(),
            shares: RBTree::new(),
            all: ptr::null_mut(),
            free: ptr::null_mut(),
            used: Amounts::default(),
            low: Amounts::default(),
            users: 0,
        };
        book.set_all(all);
        book
    }

    /// How much the receiver can take.
    pub(crate) fn set_all(&mut self, all: &Amounts) {
        self.low = Amounts::new(
            all.messages() / LOW,
            all.granules() / LOW,
            all.handles() / LOW,
            all.files() / LOW,
        );
    }

    /// What is in flight, in all.
    #[inline]
    pub(crate) fn used(&self) -> &Amounts {
        &self.used
    }

    /// How many users have messages in flight.
    pub(crate) fn users(&self) -> u32 {
        self.users
    }

    #[inline]
    fn get(&mut self, a: AccountRef<U, W>) -> &mut Account<U, W> {
        // SAFETY: Of this book, which keeps the memory; and we have `&mut` on the book.
        unsafe { &mut *a.0.as_ptr() }
    }

    #[inline]
    fn share(&self, a: AccountRef<U, W>) -> &Share<U> {
        // SAFETY: As in `get`; the share is there as long as the book.
        unsafe { (*a.0.as_ptr()).share.as_ref() }
    }

    #[inline]
    fn share_mut(&mut self, a: AccountRef<U, W>) -> &mut Share<U> {
        // SAFETY: As above.
        unsafe { (*a.0.as_ptr()).share.as_mut() }
    }

    /// What waits for room in an account.
    pub(crate) fn waits(&mut self, a: AccountRef<U, W>) -> &mut W {
        &mut self.get(a).waits
    }

    /// Whether it is the account of that peer.
    #[inline]
    pub(crate) fn is_of(&mut self, a: AccountRef<U, W>, peer: u64) -> bool {
        self.get(a).peer == peer
    }

    /// The user that an account is charged to, too.
    #[inline]
    pub(crate) fn user(&self, a: AccountRef<U, W>) -> U {
        self.share(a).user
    }

    /// The account of a peer, opened if there is none. `None` if that needs memory: then `new` is to
    /// be given.
    pub(crate) fn open(
        &mut self,
        peer: u64,
        user: U,
        uid: u32,
        new: &mut Option<NewAccount<U, W>>,
    ) -> Option<AccountRef<U, W>> {
        if let Some(a) = self.accounts.get(&peer) {
            return Some(*a);
        }
        let has_share = self.shares.get(&uid).is_some();
        let a = match AccountRef::from_nullable(self.free) {
            Some(a) if has_share => {
                self.free = self.get(a).free;
                a
            }
            _ => {
                let NewAccount { account, share } = new.take()?;
                if !has_share {
                    self.shares.insert(share);
                }
                let raw = KBox::into_raw(account);
                // SAFETY: Just made.
                unsafe { (*raw).all = self.all };
                self.all = raw;
                AccountRef::from_nullable(raw)?
            }
        };
        let share = self.shares.get_mut(&uid)?;
        if share.accounts == 0 {
            share.user = user;
        }
        share.accounts += 1;
        let share = NonNull::from(&mut **share);
        let account = self.get(a);
        account.peer = peer;
        account.share = share;
        let node = account.node.take()?;
        self.accounts.insert(node.into_node(peer, a));
        Some(a)
    }

    /// Closes an account if nothing refers to it, and nothing is charged to it.
    pub(crate) fn tidy(&mut self, a: AccountRef<U, W>) {
        let account = self.get(a);
        if account.holds != 0 || account.used.messages() != 0 {
            return;
        }
        let peer = account.peer;
        account.peer = 0;
        let node = self.accounts.remove_node(&peer);
        let free = core::mem::replace(&mut self.free, a.as_ptr());
        let account = self.get(a);
        account.node = node.map(RBTreeNode::into_reservation);
        account.free = free;
        self.share_mut(a).accounts -= 1;
    }

    /// A handle refers to it.
    pub(crate) fn hold(&mut self, a: AccountRef<U, W>) {
        self.get(a).holds += 1;
    }

    pub(crate) fn unhold(&mut self, a: AccountRef<U, W>) {
        let account = self.get(a);
        account.holds -= 1;
        if account.holds == 0 {
            self.tidy(a);
        }
    }

    /// Charges what a peer sends, whose account this is believed to be, if so little is in use that
    /// nobody is asked. `taken` is how much of the pool is in use. False if it has to be
    /// [asked](Self::charge).
    #[inline(always)]
    pub(crate) fn charge_low(
        &mut self,
        a: AccountRef<U, W>,
        peer: u64,
        more: &Amounts,
        taken: u32,
    ) -> bool {
        if self.get(a).peer != peer || !self.is_low(more, taken) {
            return false;
        }
        self.charge_anyway(a, more);
        true
    }

    /// The same by the rule. `left` is what nobody has.
    pub(crate) fn charge(
        &mut self,
        a: AccountRef<U, W>,
        peer: u64,
        more: &Amounts,
        left: &Amounts,
    ) -> Charged {
        if !self.is_of(a, peer) {
            return Charged::NotHis;
        }
        if !self.fits(a, left, more) {
            return Charged::NoRoom;
        }
        self.charge_anyway(a, more);
        Charged::Yes
    }

    /// So little is in use that nobody is asked.
    #[inline(always)]
    fn is_low(&self, more: &Amounts, taken: u32) -> bool {
        self.used.messages() < self.low.messages()
            && (more.granules() == 0 || taken + more.granules() <= self.low.granules())
            && (!more.has_extras() || self.low.has_extras_of(self.used.extras + more.extras))
    }

    /// Whether [`charge`](Self::charge) would succeed.
    pub(crate) fn has_room(
        &self,
        a: AccountRef<U, W>,
        more: &Amounts,
        taken: u32,
        left: &Amounts,
    ) -> bool {
        self.is_low(more, taken) || self.fits(a, left, more)
    }

    /// Charges, whether there is room or not.
    #[inline(always)]
    pub(crate) fn charge_anyway(&mut self, a: AccountRef<U, W>, more: &Amounts) {
        // SAFETY: Of this book, which keeps the memory; and we have `&mut` on the book. The share is no
        // account.
        let (account, share) = unsafe {
            let account = &mut *a.0.as_ptr();
            let share = &mut *account.share.as_ptr();
            (account, share)
        };
        self.users += u32::from(share.used.messages() == 0);
        account.used.add(more);
        share.used.add(more);
        self.used.add(more);
    }

    /// Takes a charge back. Returns the user. The account is closed if that was the last, and no handle
    /// refers to it.
    #[inline(always)]
    pub(crate) fn discharge(&mut self, a: AccountRef<U, W>, less: &Amounts) -> U {
        // SAFETY: As in `charge_anyway`.
        let (account, share) = unsafe {
            let account = &mut *a.0.as_ptr();
            let share = &mut *account.share.as_ptr();
            (account, share)
        };
        account.used.sub(less);
        share.used.sub(less);
        self.used.sub(less);
        self.users -= u32::from(share.used.messages() == 0);
        let user = share.user;
        if account.used.messages() | account.holds == 0 {
            self.tidy(a);
        }
        user
    }

    /// Whether the rule allows it.
    fn fits(&self, a: AccountRef<U, W>, left: &Amounts, more: &Amounts) -> bool {
        // SAFETY: As in `share`.
        let has = unsafe { &(*a.0.as_ptr()).used };
        let of = &self.share(a).used;
        let n = self.users + u32::from(of.messages() == 0);
        let fits = |what: fn(&Amounts) -> u32| {
            let more = what(more);
            more == 0 || allows(what(has), what(of), n, what(left), more)
        };
        fits(Amounts::messages)
            && fits(Amounts::granules)
            && fits(Amounts::handles)
            && fits(Amounts::files)
    }
}

impl<U, W> AccountRef<U, W> {
    fn from_nullable(ptr: *mut Account<U, W>) -> Option<Self> {
        NonNull::new(ptr).map(Self)
    }
}

impl<U, W> Drop for Book<U, W> {
    fn drop(&mut self) {
        while let Some(raw) = NonNull::new(self.all) {
            // SAFETY: From `into_raw`, and each stands in the list once.
            let account = unsafe { KBox::from_raw(raw.as_ptr()) };
            self.all = account.all;
        }
    }
}

#[kernel::macros::kunit_tests(bus1_quota)]
mod tests {
    use super::*;

    type TestBook = Book<u32, ()>;
    type TestAccount = AccountRef<u32, ()>;

    fn open(book: &mut TestBook, peer: u64, uid: u32) -> Result<TestAccount> {
        let mut new = None;
        if let Some(a) = book.open(peer, uid, uid, &mut new) {
            return Ok(a);
        }
        new = Some(NewAccount::new(uid, uid)?);
        book.open(peer, uid, uid, &mut new).ok_or(EINVAL)
    }

    fn messages(n: u32) -> Amounts {
        Amounts::new(n, 0, 0, 0)
    }

    fn left(book: &TestBook) -> Amounts {
        messages(SIZE - book.used.messages())
    }

    fn book() -> TestBook {
        TestBook::new(&messages(SIZE))
    }

    /// All that an account gets of a queue with so many places; one message at a time.
    fn fill(book: &mut TestBook, a: TestAccount, peer: u64) -> u32 {
        let mut n = 0;
        let one = Amounts::MESSAGE;
        while book.charge_low(a, peer, &one, 0)
            || book.charge(a, peer, &one, &left(book)) == Charged::Yes
        {
            n += 1;
        }
        n
    }

    const SIZE: u32 = 1 << 20;

    /// One after the other takes all it gets, by many peers: the n-th gets its promised share.
    #[test]
    fn users_get_what_is_promised() -> Result {
        let mut book = book();
        let mut peer = 0;
        for n in 1..=32u32 {
            let mut got = 0;
            for _ in 0..12 {
                peer += 1;
                let a = open(&mut book, peer, n)?;
                book.hold(a);
                got += fill(&mut book, a, peer);
            }
            let promised = SIZE / (n * (n + 1));
            // Less what a dozen peers leave of three quarters each, and the rounding of each.
            assert!(got + 13 * (n + 1) >= promised - promised / 4096);
            assert!(got <= promised + 13 * (n + 1));
        }
        assert_eq!(book.users(), 32);
        Ok(())
    }

    #[test]
    fn the_most_is_what_is_allowed() {
        for all in [0, 1, 2, 3, 7, 8, 64, 1000, 1 << 22] {
            let most = most(all);
            assert!(most == 0 || allows(0, 0, 1, all, most));
            assert!(!allows(0, 0, 1, all, most + 1));
        }
    }

    /// A peer gets three quarters of what its user may have, and leaves the rest to another.
    #[test]
    fn a_peer_leaves_some_to_its_user() -> Result {
        let mut book = book();
        let a = open(&mut book, 1, 7)?;
        let b = open(&mut book, 2, 7)?;
        let first = fill(&mut book, a, 1);
        assert!(first.abs_diff(SIZE * 3 / 8) <= 4);
        let second = fill(&mut book, b, 2);
        assert!(second.abs_diff(SIZE * 3 / 32) <= 4);
        assert_eq!(book.users(), 1);
        Ok(())
    }

    /// Random users come, take and give back: whoever has nothing can always have the share that is
    /// promised to one more than there are.
    #[test]
    fn nobody_is_kept_out() -> Result {
        const USERS: usize = 24;
        let mut book = book();
        let mut accounts: KVec<TestAccount> = KVec::new();
        for i in 0..USERS {
            let a = open(&mut book, i as u64 + 1, i as u32)?;
            book.hold(a);
            accounts.push(a, GFP_KERNEL_ACCOUNT)?;
        }
        let newcomer = open(&mut book, 1000, 1000)?;
        book.hold(newcomer);
        let mut seed = 99u64;
        for _ in 0..20_000 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let r = (seed >> 33) as u32;
            let a = accounts[(r % USERS as u32) as usize];
            let much = messages(1 + (r >> 8) % 20_000);
            let has = book.get(a).used.messages();
            if r & 0x40 != 0 {
                if book.fits(a, &left(&book), &much) {
                    book.charge_anyway(a, &much);
                }
            } else if has > 0 {
                book.discharge(a, &messages(has));
            }
            let n = book.users() + 1;
            let promised = messages((SIZE / (n * (n + 1)) * 3 / 4).saturating_sub(1));
            assert!(book.fits(newcomer, &left(&book), &promised));
        }
        Ok(())
    }

    #[test]
    fn extras_are_compared_at_once() {
        let of = |handles, files| Amounts::new(0, 0, handles, files);
        for (a, b, has) in [
            ((5, 5), (5, 5), true),
            ((5, 5), (6, 5), false),
            ((5, 5), (5, 6), false),
            ((0, 5), (1, 0), false),
            ((5, 0), (0, 1), false),
            ((0, 0), (0, 0), true),
            ((1 << 17, 1 << 14), (1 << 17, 1 << 14), true),
            ((1 << 17, 1 << 14), (1 << 17, (1 << 14) + 1), false),
        ] {
            assert_eq!(of(a.0, a.1).has_extras_of(of(b.0, b.1).extras), has);
        }
    }

    #[test]
    fn accounts_come_and_go() -> Result {
        let mut book = book();
        let a = open(&mut book, 1, 1)?;
        book.hold(a);
        book.charge_anyway(a, &Amounts::MESSAGE);
        assert_eq!(book.users(), 1);
        assert!(open(&mut book, 1, 1)? == a);
        book.unhold(a);
        assert!(book.is_of(a, 1));
        assert_eq!(book.discharge(a, &Amounts::MESSAGE), 1);
        assert!(!book.is_of(a, 1));
        assert_eq!(book.users(), 0);
        // Its memory is used again, by whomever.
        let b = open(&mut book, 2, 1)?;
        assert!(a == b && book.is_of(b, 2));
        book.tidy(b);
        let c = open(&mut book, 3, 2)?;
        assert!(book.is_of(c, 3) && !book.is_of(c, 2));
        assert_eq!(book.accounts.iter().count(), 1);
        Ok(())
    }
}
