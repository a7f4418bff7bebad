// SPDX-License-Identifier: GPL-2.0-only

//! `uapi/linux/bus1.h` and `bridge.h` as bindgen reads them.

#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::all
)]

include!(env!("BUS1_BINDINGS"));

use kernel::transmute::{AsBytes, FromBytes};

/// A struct of the ABI.
///
/// # Safety
///
/// Made of integers alone, without padding.
pub(crate) unsafe trait Plain: FromBytes + AsBytes + Default + Copy {}

/// A command, whose size may differ between the program's version and this one.
pub(crate) trait Command: Plain {
    /// The size of its first version: a shorter one is an error.
    const VER0: usize;
}

macro_rules! plain {
    ($($t:ty),*) => {$(
        // SAFETY: Integers without padding, which the layout in the header ensures (ABI-3).
        unsafe impl FromBytes for $t {}
        // SAFETY: As above.
        unsafe impl AsBytes for $t {}
        // SAFETY: As above.
        unsafe impl Plain for $t {}
    )*};
}

macro_rules! command {
    ($($t:ty: $ver0:ident),*) => {$(
        plain!($t);
        impl Command for $t {
            const VER0: usize = $ver0 as usize;
        }
        const _: () = assert!(core::mem::size_of::<$t>() >= $ver0 as usize);
    )*};
}

plain!(
    bus1_iovec,
    bus1_pass,
    bus1_msg,
    bus1_handle,
    bus1_creds,
    bus1_lease
);
command!(
    bus1_cmd_node: BUS1_CMD_NODE_VER0,
    bus1_cmd_mint: BUS1_CMD_MINT_VER0,
    bus1_cmd_export: BUS1_CMD_EXPORT_VER0,
    bus1_cmd_import: BUS1_CMD_IMPORT_VER0,
    bus1_cmd_buffer: BUS1_CMD_BUFFER_VER0,
    bus1_cmd_open: BUS1_CMD_OPEN_VER0,
    bus1_cmd_setup: BUS1_CMD_SETUP_VER0,
    bus1_cmd_ids: BUS1_CMD_IDS_VER0,
    bus1_cmd_transfer: BUS1_CMD_TRANSFER_VER0,
    bus1_cmd_send: BUS1_CMD_SEND_VER0,
    bus1_cmd_recv: BUS1_CMD_RECV_VER0,
    bus1_cmd_call: BUS1_CMD_CALL_VER0,
    bus1_cmd_reply: BUS1_CMD_REPLY_VER0,
    bus1_cmd_lease: BUS1_CMD_LEASE_VER0,
    bus1_cmd_info: BUS1_CMD_INFO_VER0
);
