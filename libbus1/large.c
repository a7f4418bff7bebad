/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Large payloads: buffers, the memfds that are sent where a pool is too small, and what is mapped. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

static int write_all(int fd, const uint8_t *data, size_t size)
{
	while (size) {
		ssize_t n = write(fd, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

int b1__memfd_new(const struct iovec *iov, size_t n)
{
	int fd = memfd_create("bus1", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	int r = 0;

	if (fd < 0)
		return -errno;
	for (; n && r >= 0; iov++, n--)
		r = write_all(fd, iov->iov_base, iov->iov_len);
	if (r >= 0 && fcntl(fd, F_ADD_SEALS,
			    F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		r = -errno;
	if (r >= 0)
		return fd;
	close(fd);
	return r;
}

int b1__map(struct mapping *mapping, int fd, uint64_t offset, uint64_t size, bool is_shared)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), before = offset & (page - 1);
	struct stat st;
	void *base;

	*mapping = (struct mapping){ .data = "", .is_shared = is_shared };
	if (!size)
		return 0;
	/*
	 * What its maker has not paid for, as it was never written, we would, by
	 * reading it: it costs nothing to send. (To look for the holes themselves takes a lock
	 * that the maker can hold for long.)
	 */
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!is_shared && (uint64_t)st.st_blocks < ((uint64_t)st.st_size + 511) / 512)
		return -EBADMSG;
	/* What is there fits into 64 bits; but not all of that into a program of 32. */
	if (size + before > SIZE_MAX)
		return -EOVERFLOW;
	base = mmap(NULL, (size_t)(size + before), PROT_READ, MAP_SHARED, fd,
		    (off_t)(offset - before));
	if (base == MAP_FAILED)
		return -errno;
	mapping->base = base;
	mapping->length = (size_t)(size + before);
	mapping->data = (uint8_t *)base + before;
	mapping->size = (size_t)size;
	return 0;
}

void b1__unmap(struct mapping *mapping)
{
	if (mapping->base)
		munmap(mapping->base, mapping->length);
}

/*
 * Buffers
 */

int b1_buffer_new_from_fd(b1_peer *peer, b1_node **nodep, int fd, unsigned int flags,
			  void *userdata)
{
	struct bus1_cmd_buffer cmd = {
		.flags = flags & B1_BUFFER_SHARED ? BUS1_BUFFER_SHARED : 0,
		.fd = fd,
	};

	if (flags & ~B1_BUFFER_SHARED)
		return -EINVAL;
	return b1__node_new(peer, nodep, BUS1_CMD_BUFFER_CREATE, &cmd, &cmd.id, NULL, userdata);
}

int b1_buffer_new(b1_peer *peer, b1_node **nodep, const void *data, size_t size, void *userdata)
{
	const struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = size };
	int fd, r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	fd = b1__memfd_new(&iov, 1);
	if (fd < 0)
		return fd;
	r = b1_buffer_new_from_fd(peer, nodep, fd, 0, userdata);
	close(fd);
	return r;
}

int b1_buffer_open(b1_handle *buffer, int *fdp, uint64_t *sizep)
{
	struct bus1_cmd_open cmd = { .id = buffer->id };
	int r;

	r = b1__check(buffer->peer);
	if (r >= 0)
		r = b1__command(buffer->peer, BUS1_CMD_BUFFER_OPEN, &cmd);
	/* A node of one's own that was destroyed. */
	if (r == -ENXIO)
		r = atomic_load(&buffer->peer->ended) ? -ESHUTDOWN : -EHOSTUNREACH;
	if (r < 0)
		return r;
	*fdp = cmd.fd;
	if (sizep)
		*sizep = cmd.size;
	return cmd.flags & BUS1_BUFFER_SHARED ? 1 : 0;
}

static int map_buffer(b1_handle *buffer, struct mapping **mappingp)
{
	struct mapping *mapping;
	uint64_t size;
	int fd, r;

	r = b1_buffer_open(buffer, &fd, &size);
	if (r < 0)
		return r;
	mapping = malloc(sizeof(*mapping));
	r = mapping ? b1__map(mapping, fd, 0, size, r) : -ENOMEM;
	close(fd);
	if (r < 0) {
		free(mapping);
		return r;
	}
	*mappingp = mapping;
	return 0;
}

/* The first to map it does so for all: what they were told stays as long as the handle. */
int b1_buffer_map(b1_handle *buffer, const void **datap, size_t *sizep)
{
	struct mapping *mapping = atomic_load_explicit(&buffer->mapping, memory_order_acquire);
	struct mapping *other = NULL;
	int r;

	if (b1__forked(buffer->peer))
		return -ECHILD;
	if (!mapping) {
		r = map_buffer(buffer, &mapping);
		if (r < 0)
			return r;
		if (!atomic_compare_exchange_strong(&buffer->mapping, &other, mapping)) {
			b1__mapping_free(mapping);
			mapping = other;
		}
	}
	*datap = mapping->data;
	if (sizep)
		*sizep = mapping->size;
	return mapping->is_shared;
}

void b1__mapping_free(struct mapping *mapping)
{
	if (!mapping)
		return;
	b1__unmap(mapping);
	free(mapping);
}
