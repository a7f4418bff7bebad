// SPDX-License-Identifier: GPL-2.0-only

//! The error codes that the kernel crate does not have.

use kernel::bindings;
use kernel::error::Error;

pub(crate) fn edquot() -> Error {
    Error::from_errno(-(bindings::EDQUOT as i32))
}

pub(crate) fn ehostunreach() -> Error {
    Error::from_errno(-(bindings::EHOSTUNREACH as i32))
}

pub(crate) fn emediumtype() -> Error {
    Error::from_errno(-(bindings::EMEDIUMTYPE as i32))
}

pub(crate) fn eopnotsupp() -> Error {
    Error::from_errno(-(bindings::EOPNOTSUPP as i32))
}

pub(crate) fn eloop() -> Error {
    Error::from_errno(-(bindings::ELOOP as i32))
}

pub(crate) fn econnaborted() -> Error {
    Error::from_errno(-(bindings::ECONNABORTED as i32))
}

pub(crate) fn econnreset() -> Error {
    Error::from_errno(-(bindings::ECONNRESET as i32))
}

pub(crate) fn ecanceled() -> Error {
    Error::from_errno(-(bindings::ECANCELED as i32))
}

pub(crate) fn eremoteio() -> Error {
    Error::from_errno(-(bindings::EREMOTEIO as i32))
}
