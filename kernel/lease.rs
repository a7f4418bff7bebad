// SPDX-License-Identifier: GPL-2.0-only

//! BUS1_CMD_LEASE: memory of the caller's that a call lends its server (CALL-8).
//!
//! A page of the caller's is pinned, which may take its time, and copied to or from under the lock of the
//! leases, which may not: so whoever ends the loan closes it under that lock and goes on at once, and
//! nothing is copied after that, whatever the other side waits for.

use crate::abi::{self, bus1_cmd_lease, bus1_lease};
use crate::call::{Call, CallEntry, CallRef};
use crate::errno::{ecanceled, eremoteio};
use crate::peer::Peer;
use crate::user::{copy_in, copy_out, read_array};
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::{new_spinlock, Arc, SpinLock};

/// What a call lends.
#[pin_data(PinnedDrop)]
pub(crate) struct Leases {
    list: KVVec<bus1_lease>,
    mm: NonNull<abi::mm_struct>,
    #[pin]
    is_open: SpinLock<bool>,
}

// SAFETY: The reference to the memory may be used from anywhere.
unsafe impl Send for Leases {}
// SAFETY: As above.
unsafe impl Sync for Leases {}

#[pinned_drop]
impl PinnedDrop for Leases {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: We have a reference, and give it back.
        unsafe { abi::bus1_mm_put(self.mm.as_ptr()) };
    }
}

impl Leases {
    /// Those that the current thread names; `n` was checked against its bound. EINVAL.
    pub(crate) fn read(place: u64, n: u32) -> Result<Option<Pin<KBox<Self>>>> {
        if n == 0 {
            return if place == 0 { Ok(None) } else { Err(EINVAL) };
        }
        let list: KVVec<bus1_lease> = read_array(place, n as usize)?;
        let both = abi::BUS1_LEASE_READ | abi::BUS1_LEASE_WRITE;
        for lease in &list {
            let end = lease.base.checked_add(lease.len);
            if lease.flags & !both != 0 || lease.flags == 0 || lease.reserved != 0 || end.is_none()
            {
                return Err(EINVAL);
            }
        }
        // SAFETY: In a system call of a process.
        let mm = NonNull::new(unsafe { abi::bus1_mm_get() }).ok_or(EINVAL)?;
        let leases = KBox::pin_init(
            pin_init!(Self {
                list,
                mm,
                is_open <- new_spinlock!(true, "bus1_leases"),
            }),
            GFP_KERNEL_ACCOUNT,
        );
        leases.map(Some).inspect_err(|_| {
            // SAFETY: As in drop.
            unsafe { abi::bus1_mm_put(mm.as_ptr()) }
        })
    }

    pub(crate) fn len(&self) -> u32 {
        self.list.len() as u32
    }

    /// The caller waits, or does not any more. It is the process whose memory it is: another, which has
    /// the peer too, may wait for the call, but lends nothing.
    pub(crate) fn set_open(&self, open: bool) {
        // SAFETY: There is a reference; it is only compared.
        let is_own = unsafe { abi::bus1_mm_is_current(self.mm.as_ptr()) };
        *self.is_open.lock() = open && is_own;
    }

    /// Copies within one page of the caller's.
    fn copy(&self, address: u64, buf: &mut [u8], write: bool) -> Result {
        if !*self.is_open.lock() {
            return Err(ecanceled());
        }
        let mut page = ptr::null_mut();
        // SAFETY: We have a reference to the memory.
        let r = unsafe { abi::bus1_page_pin(self.mm.as_ptr(), address, write, &mut page) };
        if r != 0 {
            let e = Error::from_errno(r);
            // Its process may be gone by now.
            return Err(match *self.is_open.lock() {
                false => ecanceled(),
                true if e == EFAULT => eremoteio(),
                true => e,
            });
        }
        let is_open = self.is_open.lock();
        let open = *is_open;
        if open {
            let offset = address as usize % PAGE_SIZE;
            // SAFETY: The page is pinned, and the range is within it.
            unsafe { abi::bus1_page_copy(page, offset, buf.as_mut_ptr().cast(), buf.len(), write) };
        }
        drop(is_open);
        // SAFETY: It was pinned.
        unsafe { abi::bus1_page_unpin(page, write && open) };
        if open {
            Ok(())
        } else {
            Err(ecanceled())
        }
    }
}

/// The call with a token, which stays.
fn find(peer: &Peer, token: u64) -> Result<CallRef> {
    match peer.inner.lock().call(token) {
        Some(CallEntry::Served(call)) => Ok(call.clone()),
        _ => Err(ENXIO),
    }
}

pub(crate) fn lease(peer: &Arc<Peer>, cmd: &bus1_cmd_lease) -> Result {
    let write = match cmd.flags as u32 {
        abi::BUS1_LEASE_READ => false,
        abi::BUS1_LEASE_WRITE => true,
        _ => return Err(EINVAL),
    };
    if cmd.flags >> 32 != 0 || cmd.reserved != 0 {
        return Err(EINVAL);
    }
    let call = find(peer, cmd.token)?;
    let leases = call.leases.as_ref().ok_or(ENXIO)?;
    let lease = leases.list.get(cmd.index as usize).ok_or(ENXIO)?;
    if lease.flags & cmd.flags as u32 == 0 {
        return Err(EPERM);
    }
    if cmd.offset > lease.len || cmd.len > lease.len - cmd.offset {
        return Err(ERANGE);
    }
    copy_all(&call, leases, lease.base + cmd.offset, cmd, write)
}

fn copy_all(call: &Call, leases: &Leases, base: u64, cmd: &bus1_cmd_lease, write: bool) -> Result {
    let mut buf: KVec<u8> = KVec::with_capacity(PAGE_SIZE, GFP_KERNEL_ACCOUNT)?;
    buf.resize(PAGE_SIZE, 0, GFP_KERNEL_ACCOUNT)?;
    let mut done = 0;
    while done < cmd.len {
        let remote = base + done;
        let within = PAGE_SIZE as u64 - remote % PAGE_SIZE as u64;
        let n = within.min(cmd.len - done) as usize;
        let local = cmd.data.wrapping_add(done);
        let part = &mut buf[..n];
        if write {
            let place = part.as_mut_ptr().cast::<MaybeUninit<u8>>();
            // SAFETY: As good as uninitialised, and written whole or not looked at.
            copy_in(unsafe { core::slice::from_raw_parts_mut(place, n) }, local)?;
        }
        leases.copy(remote, part, write).inspect_err(|e| {
            if *e == eremoteio() {
                call.fault.store(true, Relaxed);
            }
        })?;
        if !write {
            copy_out(local, part)?;
        }
        done += n as u64;
        crate::bridge::may_go_on(0)?;
    }
    Ok(())
}
