// SPDX-License-Identifier: GPL-2.0-only

//! bus1: capability-based IPC. See bus1(7) for what it does, docs/design.md for why it is built
//! so. `bridge.c` holds the device, `backing.c` the shrinker, `handoff.c` how threads sleep and wake;
//! everything from the parsing of commands on is here.
//!
//! Each file knows only those above it:
//!
//! | file | what it is |
//! |---|---|
//! | `abi`, `bridge`, `errno`, `user` | the structs of user space, the C side, copying from and to user memory |
//! | `ids`, `slices`, `item`, `queue` | containers that know nothing of peers: ids, the pool's allocator, the order |
//! | `quota`, `limits` | how senders share a receiver; what users may have |
//! | `backing`, `pool`, `baggage` | the memory of a pool and its pages; files, stamps, where a body is |
//! | `memfd`, `node`, `handle`, `message`, `peer`, `room`, `reclaim`, `moving`, `spare` | what a buffer has, the objects, the peer that ties them together, who waits for room there, idle pages of its pool, counts on their way out, memory for the next message |
//! | `park`, `call`, `inherit`, `lease` | threads that wait at a peer; a call, whom it raises, and what it lends |
//! | `object`, `export`, `buffer`, `send`, `describe`, `recv`, `waiting`, `request`, `reply` | the commands, and how what is received is described |
//! | `trace`, `fdinfo` | how all of this is watched: the tracepoints, which others fire, and what `/proc` shows |
//! | `command` | the table of commands, and the entry points that C calls |
//!
//! # Locks
//!
//! A peer's `inner` lock (a spinlock) is held for one short, bounded section at a time; no two
//! peers' locks are ever held together. Inside it nests `Node::holders` of any node, or the lock of
//! the shrinker's list, and nothing nests in those. Under none of them is memory allocated, user
//! memory touched, or a reference dropped that could be the last of a message or handle: their ends
//! take locks of other peers.
//!
//! The shrinker takes the two it needs in whatever thread is short of memory.

mod abi;
mod backing;
mod baggage;
mod bridge;
mod buffer;
mod call;
mod command;
mod describe;
mod errno;
mod export;
mod fdinfo;
mod handle;
mod ids;
mod inherit;
mod item;
mod lease;
mod limits;
mod memfd;
mod message;
mod moving;
mod node;
mod object;
mod park;
mod peer;
mod pool;
mod queue;
mod quota;
mod reclaim;
mod recv;
mod reply;
mod request;
mod room;
mod send;
mod slices;
mod spare;
mod trace;
mod user;
mod waiting;

/// C holds `module_init`; the printing macros want this.
#[allow(dead_code)]
const __LOG_PREFIX: &[u8] = b"bus1\0";
