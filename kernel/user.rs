// SPDX-License-Identifier: GPL-2.0-only

//! Memory of the caller's: size-versioned structs, arrays of ids, payloads in parts.

use crate::abi::{self, bus1_handle, bus1_pass, Command, Plain};
use core::mem::{size_of, MaybeUninit};
use kernel::alloc::KVVec;
use kernel::bindings;
use kernel::prelude::*;
use kernel::uaccess::{UserPtr, UserSlice};

pub(crate) fn ptr(addr: u64) -> UserPtr {
    UserPtr::from_addr(addr as usize)
}

/// Reads a command of `size` bytes: what a shorter one lacks is zero, what a longer one has more
/// must be zero (ABI-1).
///
/// It is read in place: the structs are large enough for a move to be noticed.
#[inline]
pub(crate) fn read_command<'a, T: Command>(
    place: &'a mut MaybeUninit<T>,
    arg: UserPtr,
    size: usize,
) -> Result<&'a mut T> {
    let to = place.as_mut_ptr();
    if size == size_of::<T>() {
        // SAFETY: `to` is valid for that many bytes. The address is checked by the call.
        if unsafe { bindings::_copy_from_user(to.cast(), arg.as_const_ptr(), size) } != 0 {
            return Err(EFAULT);
        }
    } else if size < T::VER0 {
        return Err(EINVAL);
    } else {
        // SAFETY: As above.
        let r = unsafe {
            abi::bus1_copy_struct(to.cast(), size_of::<T>(), arg.as_const_ptr().cast(), size)
        };
        kernel::error::to_result(r)?;
    }
    // SAFETY: All bytes were written, and `T` is integers alone.
    Ok(unsafe { place.assume_init_mut() })
}

/// Writes a command back, as much of it as the caller knows.
#[inline]
pub(crate) fn write_command<T: Command>(arg: UserPtr, size: usize, cmd: &T) -> Result {
    let mut writer = UserSlice::new(arg, size).writer();
    if size >= size_of::<T>() {
        writer.write(cmd)
    } else {
        writer.write_slice(&cmd.as_bytes()[..size])
    }
}

/// Writes an entry of an array whose stride may be larger or smaller than the kernel's entry.
#[inline(always)]
pub(crate) fn write_entry<T: Plain>(addr: u64, stride: usize, entry: &T) -> Result {
    copy_out(addr, &entry.as_bytes()[..stride.min(size_of::<T>())])?;
    if stride > size_of::<T>() {
        let rest = stride - size_of::<T>();
        clear(addr.wrapping_add(size_of::<T>() as u64), rest)?;
    }
    Ok(())
}

#[inline]
pub(crate) fn write<T: Plain>(addr: u64, value: &T) -> Result {
    copy_out(addr, value.as_bytes())
}

/// As a reader does, without its bookkeeping.
#[inline]
pub(crate) fn copy_in(to: &mut [MaybeUninit<u8>], from: u64) -> Result {
    let place = to.as_mut_ptr().cast();
    // SAFETY: The place is valid for that many bytes. The address is checked by the call.
    let left = unsafe { bindings::_copy_from_user(place, ptr(from).as_const_ptr(), to.len()) };
    if left == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// As a writer does, without its bookkeeping.
#[inline]
pub(crate) fn copy_out(to: u64, from: &[u8]) -> Result {
    let place = from.as_ptr().cast();
    // SAFETY: The bytes are initialised. The address is checked by the call.
    let left = unsafe { bindings::_copy_to_user(ptr(to).as_mut_ptr(), place, from.len()) };
    if left == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

pub(crate) fn write_s32(addr: u64, value: i32) -> Result {
    UserSlice::new(ptr(addr), 4).writer().write(&value)
}

/// Writes two numbers that stand side by side.
#[inline]
pub(crate) fn write_pair(place: UserPtr, first: u32, second: u32) -> Result {
    // SAFETY: Checks the address itself.
    if unsafe { abi::bus1_put_pair(place.as_mut_ptr().cast(), first, second) } != 0 {
        return Err(EFAULT);
    }
    Ok(())
}

#[inline]
pub(crate) fn read_u64(addr: u64) -> Result<u64> {
    let mut value = 0;
    // SAFETY: Checks the address itself.
    if unsafe { abi::bus1_get_u64(&mut value, ptr(addr).as_const_ptr().cast()) } != 0 {
        return Err(EFAULT);
    }
    Ok(value)
}

#[inline]
pub(crate) fn read_pass(addr: u64) -> Result<bus1_pass> {
    let mut pass = bus1_pass::default();
    // SAFETY: Checks the address itself.
    if unsafe { abi::bus1_get_pass(&mut pass, ptr(addr).as_const_ptr().cast()) } != 0 {
        return Err(EFAULT);
    }
    Ok(pass)
}

#[inline]
pub(crate) fn write_handle(addr: u64, handle: &bus1_handle) -> Result {
    // SAFETY: As above.
    if unsafe { abi::bus1_put_handle(ptr(addr).as_mut_ptr().cast(), handle) } != 0 {
        return Err(EFAULT);
    }
    Ok(())
}

pub(crate) fn write_u64(addr: u64, value: u64) -> Result {
    UserSlice::new(ptr(addr), 8).writer().write(&value)
}

pub(crate) fn put_u64(place: UserPtr, value: u64) -> Result {
    UserSlice::new(place, 8).writer().write(&value)
}

/// Zeroes user memory.
pub(crate) fn clear(addr: u64, len: usize) -> Result {
    // SAFETY: Checks the address itself.
    kernel::error::to_result(unsafe { abi::bus1_clear_user(ptr(addr).as_mut_ptr().cast(), len) })
}

pub(crate) const MAX_PAYLOAD: u64 = abi::BUS1_MAX_PAYLOAD as u64;

/// Reads an array; `n` was checked against its bound.
pub(crate) fn read_array<T: kernel::transmute::FromBytes>(addr: u64, n: usize) -> Result<KVVec<T>> {
    let mut reader = UserSlice::new(ptr(addr), n * size_of::<T>()).reader();
    let mut array = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
    for _ in 0..n {
        array.push_within_capacity(reader.read()?)?;
    }
    Ok(array)
}

/// A few things, without an allocation if it is only one.
pub(crate) enum Several<T> {
    None,
    One([T; 1]),
    Many(KVVec<T>),
}

impl<T> Several<T> {
    /// Room for `n`.
    pub(crate) fn new(n: usize) -> Result<Self> {
        if n <= 1 {
            return Ok(Self::None);
        }
        Ok(Self::Many(KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?))
    }

    /// Adds one, within the room asked for.
    pub(crate) fn push(&mut self, value: T) -> Result {
        match self {
            Self::None => *self = Self::One([value]),
            Self::One(_) => return Err(EINVAL),
            Self::Many(many) => many.push_within_capacity(value)?,
        }
        Ok(())
    }
}

impl<T> Several<T> {
    pub(crate) fn for_each(self, mut f: impl FnMut(T)) {
        match self {
            Self::None => (),
            Self::One([one]) => f(one),
            Self::Many(many) => many.into_iter().for_each(f),
        }
    }
}

impl<T> core::ops::Deref for Several<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}

/// Reads an array of the caller's; `n` was checked against its bound.
pub(crate) fn read_several<T: kernel::transmute::FromBytes>(
    addr: u64,
    n: usize,
) -> Result<Several<T>> {
    match n {
        0 => Ok(Several::None),
        1 => Ok(Several::One([UserSlice::new(ptr(addr), size_of::<T>())
            .reader()
            .read()?])),
        _ => Ok(Several::Many(read_array(addr, n)?)),
    }
}

/// Where the payload of a message is in the sender's memory. It may change while it is read: each
/// destination gets one reading of it.
pub(crate) enum Payload {
    One(u64, usize),
    Parts(KVVec<abi::bus1_iovec>, usize),
}

impl Payload {
    pub(crate) fn new(cmd: &abi::bus1_cmd_send) -> Result<Self> {
        if cmd.n_iovs == 0 {
            if cmd.iovs != 0 {
                return Err(EINVAL);
            }
            if cmd.len > MAX_PAYLOAD {
                return Err(EMSGSIZE);
            }
            return Ok(Self::One(cmd.data, cmd.len as usize));
        }
        if cmd.data != 0 || cmd.len != 0 {
            return Err(EINVAL);
        }
        if cmd.n_iovs > abi::BUS1_MAX_IOVS {
            return Err(EMSGSIZE);
        }
        let parts: KVVec<abi::bus1_iovec> = read_array(cmd.iovs, cmd.n_iovs as usize)?;
        let mut len = 0u64;
        for part in &parts {
            // Bounded on each step, so that the sum can not wrap.
            if part.len > MAX_PAYLOAD {
                return Err(EMSGSIZE);
            }
            len += part.len;
            if len > MAX_PAYLOAD {
                return Err(EMSGSIZE);
            }
        }
        Ok(Self::Parts(parts, len as usize))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_, len) | Self::Parts(_, len) => *len,
        }
    }

    /// Calls `copy` for each part in turn: where it is, how much of the payload comes before it, and
    /// how much it is.
    #[inline]
    pub(crate) fn read(&self, mut copy: impl FnMut(u64, usize, usize) -> Result) -> Result {
        match self {
            Self::One(addr, len) => copy(*addr, 0, *len),
            Self::Parts(parts, _) => {
                let mut before = 0;
                for part in parts {
                    let len = part.len as usize;
                    copy(part.base, before, len)?;
                    before += len;
                }
                Ok(())
            }
        }
    }
}
