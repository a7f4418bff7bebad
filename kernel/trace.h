/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The tracepoints of bus1: see TRACEPOINTS in bus1(7). Rust fires them, in
 * trace.rs; bridge.h has what it calls. They show ids and sizes, no addresses,
 * and nothing of what a message says.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM bus1

#if !defined(_BUS1_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _BUS1_TRACE_H

#include <linux/tracepoint.h>
#include "bridge.h"

#define bus1_show_type(type) __print_symbolic(type,			\
	{ BUS1_MSG_DATA,		"message" },			\
	{ BUS1_MSG_NODE_DEAD,		"node-dead" },			\
	{ BUS1_MSG_NODE_UNUSED,		"node-unused" },		\
	{ BUS1_MSG_ONCE_DROPPED,	"once-dropped" },		\
	{ BUS1_MSG_CALL,		"call" },			\
	{ BUS1_MSG_REPLY,		"reply" },			\
	{ BUS1_MSG_CANCELLED,		"cancelled" })

#define bus1_show_why(why) __print_symbolic(why,			\
	{ BUS1_WHY_DEAD,		"node-died" },			\
	{ BUS1_WHY_CLOSED,		"peer-closed" },		\
	{ BUS1_WHY_RECEIVER,		"receiver" },			\
	{ BUS1_WHY_TAKEN_BACK,		"taken-back" },			\
	{ BUS1_WHY_WITHDRAWN,		"withdrawn" },			\
	{ BUS1_WHY_RELEASED,		"slice-released" })

#define bus1_user_resource(limit, name)					\
	{ BUS1_RESOURCE_USER + BUS1_LIMIT_##limit, name }

#define bus1_show_resource(resource) __print_symbolic(resource,		\
	{ BUS1_RESOURCE_NODES,		"nodes" },			\
	{ BUS1_RESOURCE_HANDLES,	"handles" },			\
	{ BUS1_RESOURCE_ROOM,		"room" },			\
	{ BUS1_RESOURCE_SLICES,		"slices" },			\
	{ BUS1_RESOURCE_POOL,		"pool" },			\
	bus1_user_resource(PEERS,	"user-peers"),			\
	bus1_user_resource(NODES,	"user-nodes"),			\
	bus1_user_resource(HANDLES,	"user-handles"),		\
	bus1_user_resource(MESSAGES,	"user-messages"),		\
	bus1_user_resource(FILES,	"user-files"),			\
	bus1_user_resource(PAGES,	"user-pages"))

TRACE_EVENT(bus1_peer_open,
	TP_PROTO(u64 peer, bool export),
	TP_ARGS(peer, export),
	TP_STRUCT__entry(
		__field(u64, peer)
		__field(bool, export)
	),
	TP_fast_assign(
		__entry->peer = peer;
		__entry->export = export;
	),
	TP_printk("peer=%llu export=%d", __entry->peer, __entry->export)
);

TRACE_EVENT(bus1_peer_close,
	TP_PROTO(u64 peer),
	TP_ARGS(peer),
	TP_STRUCT__entry(
		__field(u64, peer)
	),
	TP_fast_assign(
		__entry->peer = peer;
	),
	TP_printk("peer=%llu", __entry->peer)
);

TRACE_EVENT(bus1_send,
	TP_PROTO(u64 msg, u64 txn, bool multicast, u64 sender, u64 receiver,
		 u64 node, u32 len, u32 handles, u32 fds, u32 priority),
	TP_ARGS(msg, txn, multicast, sender, receiver, node, len, handles, fds,
		priority),
	TP_STRUCT__entry(
		__field(u64, msg)
		__field(u64, txn)
		__field(u64, sender)
		__field(u64, receiver)
		__field(u64, node)
		__field(u32, len)
		__field(u16, handles)
		__field(u16, fds)
		__field(u8, priority)
		__field(bool, multicast)
	),
	TP_fast_assign(
		__entry->msg = msg;
		__entry->txn = txn;
		__entry->sender = sender;
		__entry->receiver = receiver;
		__entry->node = node;
		__entry->len = len;
		__entry->handles = handles;
		__entry->fds = fds;
		__entry->priority = priority;
		__entry->multicast = multicast;
	),
	TP_printk("msg=%llu txn=%llu multicast=%d sender=%llu receiver=%llu node=%llu len=%u handles=%u fds=%u priority=%u",
		  __entry->msg, __entry->txn, __entry->multicast,
		  __entry->sender, __entry->receiver, __entry->node,
		  __entry->len, __entry->handles, __entry->fds,
		  __entry->priority)
);

TRACE_EVENT(bus1_notice,
	TP_PROTO(u64 msg, u64 txn, u64 peer, u32 type, u64 id),
	TP_ARGS(msg, txn, peer, type, id),
	TP_STRUCT__entry(
		__field(u64, msg)
		__field(u64, txn)
		__field(u64, peer)
		__field(u64, id)
		__field(u32, type)
	),
	TP_fast_assign(
		__entry->msg = msg;
		__entry->txn = txn;
		__entry->peer = peer;
		__entry->id = id;
		__entry->type = type;
	),
	TP_printk("msg=%llu txn=%llu peer=%llu type=%s id=%llu", __entry->msg,
		  __entry->txn, __entry->peer, bus1_show_type(__entry->type),
		  __entry->id)
);

TRACE_EVENT(bus1_commit,
	TP_PROTO(u64 txn),
	TP_ARGS(txn),
	TP_STRUCT__entry(
		__field(u64, txn)
	),
	TP_fast_assign(
		__entry->txn = txn;
	),
	TP_printk("txn=%llu", __entry->txn)
);

TRACE_EVENT(bus1_receive,
	TP_PROTO(u64 msg, u64 peer, u32 type, u64 id),
	TP_ARGS(msg, peer, type, id),
	TP_STRUCT__entry(
		__field(u64, msg)
		__field(u64, peer)
		__field(u64, id)
		__field(u32, type)
	),
	TP_fast_assign(
		__entry->msg = msg;
		__entry->peer = peer;
		__entry->id = id;
		__entry->type = type;
	),
	TP_printk("msg=%llu peer=%llu type=%s id=%llu", __entry->msg,
		  __entry->peer, bus1_show_type(__entry->type), __entry->id)
);

TRACE_EVENT(bus1_drop,
	TP_PROTO(u64 msg, u64 peer, u32 type, u64 id, u32 why),
	TP_ARGS(msg, peer, type, id, why),
	TP_STRUCT__entry(
		__field(u64, msg)
		__field(u64, peer)
		__field(u64, id)
		__field(u32, type)
		__field(u32, why)
	),
	TP_fast_assign(
		__entry->msg = msg;
		__entry->peer = peer;
		__entry->id = id;
		__entry->type = type;
		__entry->why = why;
	),
	TP_printk("msg=%llu peer=%llu type=%s id=%llu why=%s", __entry->msg,
		  __entry->peer, bus1_show_type(__entry->type), __entry->id,
		  bus1_show_why(__entry->why))
);

TRACE_EVENT(bus1_refused,
	TP_PROTO(u64 peer, u32 resource, int error),
	TP_ARGS(peer, resource, error),
	TP_STRUCT__entry(
		__field(u64, peer)
		__field(u32, resource)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->peer = peer;
		__entry->resource = resource;
		__entry->error = error;
	),
	TP_printk("peer=%llu resource=%s error=%d", __entry->peer,
		  bus1_show_resource(__entry->resource), __entry->error)
);

TRACE_EVENT(bus1_call,
	TP_PROTO(u64 msg, u64 chain, u32 depth, bool async, u64 caller,
		 u64 server, u64 node, u32 len),
	TP_ARGS(msg, chain, depth, async, caller, server, node, len),
	TP_STRUCT__entry(
		__field(u64, msg)
		__field(u64, chain)
		__field(u64, caller)
		__field(u64, server)
		__field(u64, node)
		__field(u32, len)
		__field(u8, depth)
		__field(bool, async)
	),
	TP_fast_assign(
		__entry->msg = msg;
		__entry->chain = chain;
		__entry->caller = caller;
		__entry->server = server;
		__entry->node = node;
		__entry->len = len;
		__entry->depth = depth;
		__entry->async = async;
	),
	TP_printk("msg=%llu chain=%llu depth=%u async=%d caller=%llu server=%llu node=%llu len=%u",
		  __entry->msg, __entry->chain, __entry->depth, __entry->async,
		  __entry->caller, __entry->server, __entry->node,
		  __entry->len)
);

TRACE_EVENT(bus1_reply,
	TP_PROTO(u64 msg, u64 chain, u64 server, u64 caller, u32 len,
		 int error),
	TP_ARGS(msg, chain, server, caller, len, error),
	TP_STRUCT__entry(
		__field(u64, msg)
		__field(u64, chain)
		__field(u64, server)
		__field(u64, caller)
		__field(u32, len)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->msg = msg;
		__entry->chain = chain;
		__entry->server = server;
		__entry->caller = caller;
		__entry->len = len;
		__entry->error = error;
	),
	TP_printk("msg=%llu chain=%llu server=%llu caller=%llu len=%u error=%d",
		  __entry->msg, __entry->chain, __entry->server,
		  __entry->caller, __entry->len, __entry->error)
);

#endif /* _BUS1_TRACE_H */

#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH .
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
