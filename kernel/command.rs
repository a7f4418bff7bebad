// SPDX-License-Identifier: GPL-2.0-only

//! The table of commands, and what C calls: see `bridge.h`.

use crate::abi::{self, Command};
use crate::buffer;
use crate::describe::Receive;
use crate::export;
use crate::lease;
use crate::limits;
use crate::object;
use crate::peer::Peer;
use crate::recv;
use crate::reply;
use crate::request;
use crate::send;
use crate::user::{read_command, write_command};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use kernel::ffi::{c_int, c_long, c_uint, c_ulong};
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use kernel::uaccess::UserPtr;

const SIZE_SHIFT: u32 = kernel::uapi::_IOC_SIZESHIFT;
const SIZE_MASK: u32 = kernel::uapi::_IOC_SIZEMASK << SIZE_SHIFT;

/// The number of a command without the size of its struct.
const fn number(dir: u32, nr: u32) -> u32 {
    dir << kernel::uapi::_IOC_DIRSHIFT
        | abi::BUS1_IOC_MAGIC << kernel::uapi::_IOC_TYPESHIFT
        | nr << kernel::uapi::_IOC_NRSHIFT
}

const W: u32 = kernel::uapi::_IOC_WRITE;
const RW: u32 = kernel::uapi::_IOC_READ | kernel::uapi::_IOC_WRITE;

const NODE_CREATE: u32 = number(RW, 0);
const NODE_DESTROY: u32 = number(W, 1);
const HANDLE_RELEASE: u32 = number(W, 2);
const SLICE_RELEASE: u32 = number(W, 3);
const HANDLE_TRANSFER: u32 = number(W, 4);
const SEND: u32 = number(W, 5);
const RECV: u32 = number(RW, 6);
const PEER_INFO: u32 = number(RW, 7);
const HANDLE_MINT: u32 = number(RW, 8);
const HANDLE_EXPORT: u32 = number(RW, 9);
const HANDLE_IMPORT: u32 = number(RW, 10);
const PEER_SETUP: u32 = number(W, 11);
const BUFFER_CREATE: u32 = number(RW, 12);
const BUFFER_OPEN: u32 = number(RW, 13);
const CALL: u32 = number(RW, 14);
const REPLY: u32 = number(RW, 15);
const CALL_CANCEL: u32 = number(W, 16);
const LEASE: u32 = number(W, 17);

/// A command's struct in the caller's memory.
struct Arg {
    ptr: UserPtr,
    size: usize,
}

impl Arg {
    #[inline]
    fn read<'a, T: Command>(&self, place: &'a mut MaybeUninit<T>) -> Result<&'a mut T> {
        read_command(place, self.ptr, self.size)
    }

    fn write<T: Command>(&self, cmd: &T) -> Result {
        write_command(self.ptr, self.size, cmd)
    }
}

/// Where a command is read to.
#[inline]
fn place<T>() -> MaybeUninit<T> {
    MaybeUninit::uninit()
}

#[inline]
fn run(peer: &Arc<Peer>, nonblock: bool, cmd: u32, arg: Arg) -> Result {
    match cmd & !SIZE_MASK {
        SEND => send::send(peer, arg.read(&mut place())?),
        RECV => {
            let mut place = place();
            let mut call = Receive {
                cmd: arg.read(&mut place)?,
                arg: arg.ptr,
            };
            recv::recv(peer, &mut call, nonblock)
        }
        CALL => request::call(peer, arg.read(&mut place())?, arg.ptr),
        REPLY => reply::reply(peer, arg.read(&mut place())?, arg.ptr, nonblock),
        CALL_CANCEL => request::cancel(peer, arg.read(&mut place())?),
        LEASE => lease::lease(peer, arg.read(&mut place())?),
        NODE_CREATE => {
            let mut place = place();
            let cmd = arg.read(&mut place)?;
            object::create(peer, cmd)?;
            arg.write(cmd)
                .inspect_err(|_| object::uncreate(peer, cmd.id))
        }
        HANDLE_MINT => {
            let mut place = place();
            object::mint(peer, arg.read(&mut place)?, |cmd| arg.write(cmd))
        }
        HANDLE_EXPORT => export::export(peer, arg.read(&mut place())?, arg.ptr),
        HANDLE_IMPORT => export::import(peer, arg.read(&mut place())?, arg.ptr),
        BUFFER_CREATE => {
            let mut place = place();
            let cmd = arg.read(&mut place)?;
            buffer::create(peer, cmd)?;
            arg.write(cmd)
                .inspect_err(|_| object::uncreate(peer, cmd.id))
        }
        BUFFER_OPEN => buffer::open(peer, arg.read(&mut place())?, arg.ptr),
        PEER_SETUP => object::setup(peer, arg.read(&mut place())?),
        NODE_DESTROY => object::destroy(peer, arg.read(&mut place())?),
        HANDLE_RELEASE => object::release(peer, arg.read(&mut place())?),
        SLICE_RELEASE => object::release_slices(peer, arg.read(&mut place())?),
        HANDLE_TRANSFER => object::transfer(peer, arg.read(&mut place())?),
        PEER_INFO => {
            let mut place = place();
            let cmd = arg.read(&mut place)?;
            object::info(peer, cmd)?;
            arg.write(cmd)
        }
        _ => Err(ENOTTY),
    }
}

/// The peer of an open file.
///
/// # Safety
///
/// `peer` is from [`bus1_peer_open`], and [`bus1_peer_close`] is not called before the borrow ends.
unsafe fn borrow<'a>(peer: *mut c_void) -> ArcBorrow<'a, Peer> {
    // SAFETY: By the caller: the file owns a reference.
    unsafe { ArcBorrow::from_raw(peer.cast_const().cast()) }
}

/// See `bridge.h`.
#[no_mangle]
pub(crate) extern "C" fn bus1_begin(max_pool_pages: c_ulong) {
    limits::init(max_pool_pages as i64);
}

/// See `bridge.h`.
#[no_mangle]
pub(crate) extern "C" fn bus1_end() -> c_ulong {
    limits::end() as c_ulong
}

/// See `bridge.h`.
///
/// # Safety
///
/// `error` can be written to.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_open(uid: u32, error: *mut c_int) -> *mut c_void {
    match Peer::open(uid, false) {
        Ok(peer) => Arc::into_raw(peer).cast_mut().cast(),
        Err(e) => {
            // SAFETY: By the caller.
            unsafe { *error = e.to_errno() };
            core::ptr::null_mut()
        }
    }
}

/// See `bridge.h`.
///
/// # Safety
///
/// `peer` is from [`bus1_peer_open`]; this is its last use.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_close(peer: *mut c_void) {
    // SAFETY: By the caller: takes the file's reference over.
    let peer: Arc<Peer> = unsafe { Arc::from_raw(peer.cast_const().cast()) };
    peer.close();
}

/// See `bridge.h`.
///
/// # Safety
///
/// `peer` is the peer of a file that stays open.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_ioctl(
    peer: *mut c_void,
    nonblock: bool,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: By the caller.
    let peer = core::mem::ManuallyDrop::new(unsafe { Arc::from_raw(peer.cast_const().cast()) });
    let size = ((cmd & SIZE_MASK) >> SIZE_SHIFT) as usize;
    let arg = Arg {
        ptr: UserPtr::from_addr(arg),
        size,
    };
    match run(&peer, nonblock, cmd, arg) {
        Ok(()) => 0,
        Err(e) => e.to_errno() as c_long,
    }
}

/// See `bridge.h`.
///
/// # Safety
///
/// `peer` is the peer of a file that stays open.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_readable(peer: *mut c_void) -> bool {
    // SAFETY: By the caller.
    unsafe { borrow(peer) }.is_readable()
}

/// See `bridge.h`.
///
/// # Safety
///
/// `peer` is the peer of a file that stays open.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_writable(peer: *mut c_void) -> bool {
    // SAFETY: By the caller.
    unsafe { borrow(peer) }.is_writable()
}

/// See `bridge.h`.
///
/// # Safety
///
/// `peer` is the peer of a file that stays open.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_clean(peer: *mut c_void) {
    // SAFETY: By the caller.
    unsafe { borrow(peer) }.clean()
}

/// See `bridge.h`.
///
/// # Safety
///
/// `peer` is the peer of a file that stays open.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_wait(peer: *mut c_void) -> *mut abi::wait_queue_head {
    // SAFETY: By the caller.
    unsafe { borrow(peer) }.wait.raw()
}

/// See `bridge.h`.
///
/// # Safety
///
/// `peer` is the peer of a file that stays open.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_map(
    peer: *mut c_void,
    pgoff: c_ulong,
    pages: c_ulong,
) -> c_int {
    // SAFETY: By the caller.
    match unsafe { borrow(peer) }.map(pgoff, pages) {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

/// See `bridge.h`.
///
/// # Safety
///
/// `peer` is the peer of a file that stays open.
#[no_mangle]
pub(crate) unsafe extern "C" fn bus1_peer_page(
    peer: *mut c_void,
    pgoff: c_ulong,
) -> *mut abi::page {
    // SAFETY: By the caller.
    let page = unsafe { borrow(peer) }.page(pgoff);
    page.map_or(core::ptr::null_mut(), |page| page.as_ptr().cast())
}
