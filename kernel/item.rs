// SPDX-License-Identifier: GPL-2.0-only

//! What can stand in a queue, and the links that it takes.

use crate::call::Call;
use crate::message::{Kind, Message};
use crate::trace;
use core::cell::UnsafeCell;
use kernel::list::{
    impl_list_arc_safe, impl_list_item, AtomicTracker, List, ListArc, ListItem, ListLinks,
    ListLinksSelfPtr, TryNewListArc,
};
use kernel::prelude::*;
use kernel::sync::atomic::{ordering, Atomic};
use kernel::sync::Arc;
use kernel::types::Opaque;

/// Whether an item may be received now.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Ready {
    Yes,
    /// Not yet; what it waits for is on its way to this queue.
    NotYet,
    /// Never more: it is to be dropped.
    Never,
}

/// What an item is. It is noted in the item, since a call through a vtable costs more than all else
/// that is done to an item of a queue.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub(crate) enum Tag {
    Message,
    Handle,
    Node,
    Call,
    #[cfg(CONFIG_KUNIT = "y")]
    Test,
}

/// What can stand in a queue.
///
/// # Safety
///
/// The tag names this type: see [`Kind`].
pub(crate) unsafe trait Deliver: Send + Sync {
    const TAG: Tag;
}

/// Any of them.
pub(crate) trait AnyDeliver: Send + Sync {}

impl<T: Deliver> AnyDeliver for T {}

/// The instant of a multicast: not set, then set.
pub(crate) struct Commit {
    is_set: Atomic<bool>,
    /// In the trace: see [`trace::new_transaction`].
    pub(crate) trace_id: u64,
}

impl Commit {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let commit = Self {
            is_set: Atomic::new(false),
            trace_id: trace::new_transaction(),
        };
        Ok(Arc::new(commit, GFP_KERNEL_ACCOUNT)?)
    }

    /// Release: everything that was linked is visible to whoever sees the flag. Pairs with
    /// [`is_set`](Self::is_set).
    pub(crate) fn set(&self) {
        trace::committed(self);
        self.is_set.store(true, ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(ordering::Acquire)
    }
}

pub(crate) struct State {
    /// In the queue (not: in no list, or in the hand of a receiver).
    pub(crate) queued: bool,
    /// Its priority, if so.
    pub(crate) level: u8,
    /// Linked and not settled: it is in `pending`, too.
    pub(crate) commit: Option<Arc<Commit>>,
}

/// Something with the links that it takes to stand in a queue.
#[pin_data]
#[repr(C)]
pub(crate) struct Item<T: ?Sized> {
    #[pin]
    links: ListLinksSelfPtr<Item<dyn AnyDeliver>>,
    #[pin]
    pending: ListLinks<1>,
    #[pin]
    tracker: AtomicTracker,
    #[pin]
    pending_tracker: AtomicTracker<1>,
    tag: Tag,
    /// In what is padding otherwise.
    pub(crate) trace_id: trace::Id,
    /// Under the lock of the home peer: only [`Queue`] touches it.
    pub(crate) state: UnsafeCell<State>,
    #[pin]
    pub(crate) body: T,
}

// SAFETY: The state is touched only by `Queue` methods that have `&mut` on the queue of the item's
// home peer, the id in the trace by who has the one `ListArc`.
unsafe impl<T: ?Sized + Send> Send for Item<T> {}
// SAFETY: As above.
unsafe impl<T: ?Sized + Sync> Sync for Item<T> {}

impl_list_arc_safe! {
    impl{T: ?Sized} ListArcSafe<0> for Item<T> { tracked_by tracker: AtomicTracker; }
}
impl_list_arc_safe! {
    impl{T: ?Sized} ListArcSafe<1> for Item<T> { tracked_by pending_tracker: AtomicTracker<1>; }
}
impl_list_item! {
    impl ListItem<0> for Item<dyn AnyDeliver> { using ListLinksSelfPtr { self.links }; }
}

// SAFETY: The kernel's macro supports only one list of trait objects, so this does what it does, but
// for one thing: the fat pointer to the item is the one noted in `links`. It is there, since an item
// is linked into the queue before it is linked into `pending`, and nothing ever clears it.
unsafe impl ListItem<1> for Item<dyn AnyDeliver> {
    unsafe fn view_links(me: *const Self) -> *mut ListLinks<1> {
        // SAFETY: `me` is valid.
        unsafe { &raw const (*me).pending }.cast_mut()
    }

    unsafe fn prepare_to_insert(me: *const Self) -> *mut ListLinks<1> {
        // SAFETY: By the caller.
        unsafe { Self::view_links(me) }
    }

    unsafe fn view_value(links: *mut ListLinks<1>) -> *const Self {
        // The offset is the same for all bodies: the struct is `repr(C)` and the body is last.
        let thin = kernel::container_of!(links, Item<()>, pending);
        // SAFETY: `links` is of a valid item, whose `links` were used.
        unsafe {
            let noted = ListLinksSelfPtr::raw_get_self_ptr(&raw const (*thin).links);
            Opaque::cast_into(noted).read()
        }
    }

    unsafe fn post_remove(links: *mut ListLinks<1>) -> *const Self {
        // SAFETY: By the caller.
        unsafe { Self::view_value(links) }
    }
}

impl<T: Deliver> Item<T> {
    #[inline]
    pub(crate) fn new<E>(body: impl PinInit<T, E>) -> impl PinInit<Self, Error>
    where
        Error: From<E>,
    {
        try_pin_init!(Self {
            links <- ListLinksSelfPtr::new(),
            pending <- ListLinks::new(),
            tracker <- AtomicTracker::new(),
            pending_tracker <- AtomicTracker::new(),
            tag: T::TAG,
            trace_id: trace::Id::none(),
            state: UnsafeCell::new(State { queued: false, level: 0, commit: None }),
            body <- body,
        })
    }
}

impl Item<dyn AnyDeliver> {
    #[inline]
    pub(crate) fn tag(&self) -> Tag {
        self.tag
    }

    #[inline]
    pub(crate) fn is_notice(&self) -> bool {
        matches!(self.tag, Tag::Handle | Tag::Node)
    }

    #[inline]
    pub(crate) fn kind(&self) -> Kind<'_> {
        Kind::of(self)
    }
}

/// An item as the message that it is, or as it was.
#[inline]
pub(crate) fn downcast_entry(entry: Entry) -> core::result::Result<ListArc<Item<Message>>, Entry> {
    let raw = entry.into_raw();
    // SAFETY: From `into_raw`, and so valid.
    if unsafe { (*raw).tag } == Tag::Message {
        // SAFETY: By the tag it is one, and a trait object has the address of what it is made of.
        Ok(unsafe { ListArc::from_raw(raw.cast()) })
    } else {
        // SAFETY: From `into_raw`.
        Err(unsafe { ListArc::from_raw(raw) })
    }
}

/// An item as the call that it is, which is in no list any more, or as it was.
#[inline]
pub(crate) fn downcast_call(entry: Entry) -> core::result::Result<Arc<Item<Call>>, Entry> {
    if entry.tag != Tag::Call {
        return Err(entry);
    }
    let raw = entry.into_raw();
    // SAFETY: As above.
    let call: ListArc<Item<Call>> = unsafe { ListArc::from_raw(raw.cast()) };
    Ok(call.into_arc())
}

impl<T: ?Sized> core::ops::Deref for Item<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.body
    }
}

pub(crate) type DynItem = Item<dyn AnyDeliver>;
pub(crate) type Items = List<DynItem>;
pub(crate) type Entry = ListArc<DynItem>;

/// An item as a trait object.
pub(crate) trait AsDyn {
    fn as_dyn(&self) -> &DynItem;
}

impl<T: Deliver + 'static> AsDyn for Item<T> {
    fn as_dyn(&self) -> &DynItem {
        self
    }
}

impl AsDyn for DynItem {
    fn as_dyn(&self) -> &DynItem {
        self
    }
}

/// What the tests queue.
#[cfg(CONFIG_KUNIT = "y")]
#[pin_data]
pub(crate) struct Number {
    pub(crate) n: u32,
    pub(crate) ready: Atomic<u32>,
}

#[cfg(CONFIG_KUNIT = "y")]
// SAFETY: The one type of that tag.
unsafe impl Deliver for Number {
    const TAG: Tag = Tag::Test;
}

#[cfg(CONFIG_KUNIT = "y")]
impl Number {
    pub(crate) fn ready(&self) -> Ready {
        match self.ready.load(ordering::Relaxed) {
            0 => Ready::Yes,
            1 => Ready::NotYet,
            _ => Ready::Never,
        }
    }
}

#[cfg(CONFIG_KUNIT = "y")]
impl Kind<'_> {
    pub(crate) fn number(&self) -> u32 {
        match self {
            Kind::Test(n) => n.n,
            _ => 0,
        }
    }
}
