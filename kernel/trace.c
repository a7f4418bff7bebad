// SPDX-License-Identifier: GPL-2.0-only
/* Defines the tracepoints, and rust_do_trace_*() to fire them. */
#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "trace.h"
