/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Buffers, and messages that refer to them (MSG-5). */
#ifndef BUS1_TEST_BUFFER_H
#define BUS1_TEST_BUFFER_H

#include "raw.h"

#include <fcntl.h>

#define SIZED (F_SEAL_SHRINK | F_SEAL_GROW)
#define SEALED (SIZED | F_SEAL_WRITE)
#define SIZE 10000

/* Two peers, and a buffer of the first, which the other has a handle to. */
struct buffered {
	struct peer a, b;
	u64 nb, to_b;			/* to send to b */
	int fd;
	u64 buffer, handle;
	u8 data[SIZE];
};

struct buffered *buffered_new(void);

/* With these bytes and seals. */
int memfd_new(const void *data, size_t n, int seals);
/* Fails unless it is that large. */
u64 buffer_new(const struct peer *p, u64 flags, int fd, u64 size);
/* The descriptor, or -errno; what is told of it has to be that. */
int open_buffer(const struct peer *p, u64 id, u64 flags, u64 size);
/* That what it opens has these bytes. */
void opens(const struct peer *p, u64 id, const void *data, size_t n);

/* A message with nothing but a body: a part of a buffer, or of a memfd. */
int send_body(const struct peer *p, u64 dest, u64 id, u32 pass, u64 offset, u64 len);
int send_memfd(const struct peer *p, u64 dest, u64 flags, s32 fd, u64 offset, u64 len);
/* A message with a body comes next; its handle is of `id`. */
void got_body(const struct peer *p, struct in *in, u64 id, u64 offset, u64 len);

#endif /* BUS1_TEST_BUFFER_H */
