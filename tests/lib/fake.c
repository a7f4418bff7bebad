// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bus1 in user space, for the peers of one process: as much of it as libbus1
 * uses. It stands in for /dev/bus1 (by -Wl,--wrap) where the library's tests
 * are to run under sanitizers, or on a machine without the module. The module
 * decides what is right; here everything is a list, under one lock.
 */
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t fake_wake;
static pthread_once_t once = PTHREAD_ONCE_INIT;
struct fake_peer *fake_peers[MAX_FDS];
static uint64_t serials;

/* Not malloc() or calloc(): what a test makes fail is the library's. */
void *fake_zalloc(size_t n)
{
	void *p = aligned_alloc(16, (n + 15) & ~(size_t)15);

	if (!p)
		abort();
	return memset(p, 0, n);
}

static void init(void)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&fake_wake, &attr);
}

static struct fake_peer *peer_of(int fd)
{
	return fd >= 0 && fd < MAX_FDS ? fake_peers[fd] : NULL;
}

/*
 * Nodes and handles
 */

static void node_put(struct fake_node *node)
{
	if (!--node->refs)
		free(node);
}

void fake_enqueue(struct fake_peer *peer, struct fake_msg *msg)
{
	struct fake_msg **p = &peer->queue;

	if (!*p)
		eventfd_write(peer->fd, 1);
	while (*p)
		p = &(*p)->next;
	*p = msg;
	pthread_cond_broadcast(&fake_wake);
}

static void notice(struct fake_peer *peer, uint32_t type, struct fake_node *node)
{
	struct fake_msg *msg = fake_zalloc(sizeof(*msg));

	msg->type = type;
	msg->node = node;
	node->refs++;
	if (type == BUS1_MSG_WRITABLE && peer->queue) {
		msg->next = peer->queue;
		peer->queue = msg;
		return;
	}
	fake_enqueue(peer, msg);
}

/* There is room in the peer's pool: whoever waits for it may try again. */
static void room(struct fake_peer *peer)
{
	struct fake_handle *h;
	int fd;

	for (fd = 0; fd < MAX_FDS; fd++) {
		for (h = fake_peers[fd] ? fake_peers[fd]->handles : NULL; h; h = h->next) {
			if (!h->waiting || h->node->owner != peer)
				continue;
			h->waiting = false;
			notice(fake_peers[fd], BUS1_MSG_WRITABLE, h->node);
		}
	}
	pthread_cond_broadcast(&fake_wake);
}

static struct fake_msg *dequeue(struct fake_peer *peer)
{
	struct fake_msg *msg = peer->queue;
	eventfd_t v;

	peer->queue = msg->next;
	if (!peer->queue)
		eventfd_read(peer->fd, &v);
	return msg;
}

void fake_unqueue(struct fake_peer *peer, struct fake_msg *msg)
{
	struct fake_msg **p = &peer->queue;
	eventfd_t v;

	while (*p != msg)
		p = &(*p)->next;
	*p = msg->next;
	msg->next = NULL;
	if (!peer->queue)
		eventfd_read(peer->fd, &v);
}

/* Take off what is of that type and about `node`. */
static void withdraw(struct fake_peer *peer, uint32_t type, struct fake_node *node)
{
	struct fake_msg **p = &peer->queue, *msg;

	while ((msg = *p)) {
		if (msg->type != type || msg->node != node) {
			p = &msg->next;
			continue;
		}
		fake_unqueue(peer, msg);
		fake_drop_msg(peer, msg);
		p = &peer->queue;
	}
}

void fake_node_use(struct fake_node *node)
{
	node->refs++;
	if (!node->users++ && node->owner) {
		node->seq++;
		withdraw(node->owner, BUS1_MSG_NODE_UNUSED, node);
	}
}

static void node_unuse(struct fake_node *node)
{
	if (!--node->users && node->owner)
		notice(node->owner, BUS1_MSG_NODE_UNUSED, node);
	node_put(node);
}

static struct fake_node *own(struct fake_peer *peer, uint64_t id)
{
	struct fake_node *n;

	for (n = peer->nodes; n && n->id != id; n = n->next)
		;
	return n;
}

struct fake_handle *fake_held(struct fake_peer *peer, uint64_t id)
{
	struct fake_handle *h;

	for (h = peer->handles; h && h->id != id; h = h->next)
		;
	return h;
}

struct fake_node *fake_node_of(struct fake_peer *peer, uint64_t id)
{
	struct fake_handle *h = fake_held(peer, id);

	return h ? h->node : own(peer, id);
}

uint64_t fake_arrive(struct fake_peer *peer, struct fake_node *node)
{
	struct fake_handle *h;

	if (node->home == peer->serial)
		return node->id;
	fake_node_use(node);
	for (h = peer->handles; h && h->node != node; h = h->next)
		;
	if (!h) {
		h = fake_zalloc(sizeof(*h));
		h->node = node;
		h->id = ++peer->ids;
		h->next = peer->handles;
		peer->handles = h;
	}
	h->counts++;
	return h->id;
}

static void release(struct fake_peer *peer, struct fake_handle *h)
{
	struct fake_handle **p = &peer->handles;
	struct fake_node *node = h->node;

	if (!--h->counts) {
		while (*p != h)
			p = &(*p)->next;
		*p = h->next;
		withdraw(peer, BUS1_MSG_NODE_DEAD, node);
		withdraw(peer, BUS1_MSG_WRITABLE, node);
		free(h);
		pthread_cond_broadcast(&fake_wake);
	}
	node_unuse(node);
}

static void destroy(struct fake_peer *peer, struct fake_node *node)
{
	struct fake_node **p = &peer->nodes;
	struct fake_handle *h;
	int fd;

	while (*p != node)
		p = &(*p)->next;
	*p = node->next;
	node->owner = NULL;
	withdraw(peer, BUS1_MSG_NODE_UNUSED, node);
	withdraw(peer, BUS1_MSG_DATA, node);
	withdraw(peer, BUS1_MSG_CALL, node);
	for (fd = 0; fd < MAX_FDS; fd++)
		for (h = fake_peers[fd] ? fake_peers[fd]->handles : NULL; h; h = h->next)
			if (h->node == node) {
				if (h->waiting)
					notice(fake_peers[fd], BUS1_MSG_WRITABLE, node);
				h->waiting = false;
				notice(fake_peers[fd], BUS1_MSG_NODE_DEAD, node);
			}
	pthread_cond_broadcast(&fake_wake);
	node_put(node);
}

/*
 * The pool
 */

struct fake_slice *fake_slice_new(struct fake_peer *peer, uint64_t len)
{
	struct fake_slice **p = &peer->slices, *s;
	uint64_t offset = 0;

	for (; *p && (*p)->offset - offset < len; p = &(*p)->next)
		offset = ((*p)->offset + (*p)->len + 7) & ~7ULL;
	if (!*p && peer->pool_size - offset < len)
		return NULL;
	s = fake_zalloc(sizeof(*s));
	s->id = ++peer->ids;
	s->offset = offset;
	s->len = len;
	s->next = *p;
	*p = s;
	return s;
}

int fake_slice_free(struct fake_peer *peer, uint64_t id)
{
	struct fake_slice **p = &peer->slices, *s;

	while ((s = *p) && s->id != id)
		p = &s->next;
	if (!s)
		return ENXIO;
	*p = s->next;
	free(s);
	room(peer);
	return 0;
}

void fake_drop_msg(struct fake_peer *peer, struct fake_msg *msg)
{
	uint32_t i;

	if (msg->slice)
		fake_slice_free(peer, msg->slice->id);
	for (i = 0; i < msg->n_handles; i++)
		node_unuse(msg->handles[i]);
	if (msg->has_memfd)
		__real_close(msg->memfd);
	fake_call_drop(msg);
	free(msg->handles);
	if (msg->node)
		node_put(msg->node);
	free(msg);
}

/*
 * Commands. Each returns 0 or an errno.
 */

static int cmd_node_create(struct fake_peer *peer, struct bus1_cmd_node *cmd)
{
	struct fake_node *node = fake_zalloc(sizeof(*node));

	node->owner = peer;
	node->home = peer->serial;
	node->refs = 1;
	node->id = cmd->id = ++peer->ids;
	node->cookie = cmd->cookie;
	node->next = peer->nodes;
	peer->nodes = node;
	return 0;
}

static int cmd_node_destroy(struct fake_peer *peer, const struct bus1_cmd_ids *cmd)
{
	const uint64_t *ids = PTR(cmd->ids);
	struct fake_node *node;
	uint32_t i;

	for (i = 0; i < cmd->n_ids; i++) {
		node = own(peer, ids[i]);
		if (!node)
			return fake_held(peer, ids[i]) ? EPERM : ENXIO;
		if (cmd->flags & BUS1_DESTROY_UNUSED && node->users)
			return EBUSY;
	}
	for (i = 0; i < cmd->n_ids; i++)
		destroy(peer, own(peer, ids[i]));
	return 0;
}

int fake_release(struct fake_peer *peer, const struct bus1_cmd_ids *cmd)
{
	const uint64_t *ids = PTR(cmd->ids);
	struct fake_handle *h;
	uint32_t i, k, n;

	for (i = 0; i < cmd->n_ids; i++) {
		h = fake_held(peer, ids[i]);
		if (!h)
			return own(peer, ids[i]) ? EPERM : ENXIO;
		for (n = k = 0; k < cmd->n_ids; k++)
			n += ids[k] == ids[i];
		if (n > h->counts)
			return ENXIO;
	}
	for (i = 0; i < cmd->n_ids; i++)
		release(peer, fake_held(peer, ids[i]));
	return 0;
}

int fake_free_slices(struct fake_peer *peer, const uint64_t *ids, uint32_t n)
{
	struct fake_slice *s;
	uint32_t i, k;

	for (i = 0; i < n; i++) {
		for (s = peer->slices; s && s->id != ids[i]; s = s->next)
			;
		for (k = 0; k < i && ids[k] != ids[i]; k++)
			;
		if (!s || k < i)
			return ENXIO;
	}
	for (i = 0; i < n; i++)
		fake_slice_free(peer, ids[i]);
	return 0;
}

static int cmd_transfer(struct fake_peer *peer, const struct bus1_cmd_transfer *cmd)
{
	const uint64_t *ids = PTR(cmd->ids);
	struct fake_peer *to = peer_of(cmd->peer_fd);
	struct fake_node *node;
	uint64_t *out = PTR(cmd->out);
	uint32_t i;

	if (!to)
		return fcntl(cmd->peer_fd, F_GETFD) < 0 ? EBADF : EMEDIUMTYPE;
	for (i = 0; i < cmd->n_ids; i++) {
		if (!fake_node_of(peer, ids[i]))
			return ENXIO;
		if (cmd->flags & BUS1_TRANSFER_MOVE && own(peer, ids[i]))
			return EPERM;
	}
	for (i = 0; i < cmd->n_ids; i++) {
		node = fake_node_of(peer, ids[i]);
		out[i] = fake_arrive(to, node);
		if (!node->owner && fake_held(to, out[i]) && fake_held(to, out[i])->counts == 1)
			notice(to, BUS1_MSG_NODE_DEAD, node);
		if (cmd->flags & BUS1_TRANSFER_MOVE)
			release(peer, fake_held(peer, ids[i]));
	}
	return 0;
}

/*
 * What is wrapped
 */

int __real_open64(const char *path, int flags, ...);
int __real_ioctl(int fd, unsigned long command, ...);
void *__real_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_ioctl(int fd, unsigned long command, ...);
void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
int __wrap_close(int fd);

int __wrap_open64(const char *path, int flags, ...)
{
	unsigned int mode;
	va_list ap;
	int fd;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, unsigned int) : 0;
	va_end(ap);
	if (strcmp(path, "/dev/" BUS1_DEVICE))
		return __real_open64(path, flags, mode);
	pthread_once(&once, init);
	fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (fd < 0)
		return -1;
	if (fd >= MAX_FDS)
		abort();
	pthread_mutex_lock(&fake_lock);
	fake_peers[fd] = fake_zalloc(sizeof(*fake_peers[fd]));
	fake_peers[fd]->fd = fd;
	fake_peers[fd]->serial = ++serials;
	pthread_mutex_unlock(&fake_lock);
	return fd;
}

int __wrap_ioctl(int fd, unsigned long command, ...)
{
	struct fake_peer *peer;
	va_list ap;
	void *arg;
	int r;

	va_start(ap, command);
	arg = va_arg(ap, void *);
	va_end(ap);
	pthread_mutex_lock(&fake_lock);
	peer = peer_of(fd);
	if (!peer) {
		pthread_mutex_unlock(&fake_lock);
		return __real_ioctl(fd, command, arg);
	}
	switch (command) {
	case BUS1_CMD_NODE_CREATE:
		r = cmd_node_create(peer, arg);
		break;
	case BUS1_CMD_NODE_DESTROY:
		r = cmd_node_destroy(peer, arg);
		break;
	case BUS1_CMD_HANDLE_RELEASE:
		r = fake_release(peer, arg);
		break;
	case BUS1_CMD_SLICE_RELEASE:
		r = fake_free_slices(peer, PTR(((struct bus1_cmd_ids *)arg)->ids), ((struct bus1_cmd_ids *)arg)->n_ids);
		break;
	case BUS1_CMD_HANDLE_TRANSFER:
		r = cmd_transfer(peer, arg);
		break;
	case BUS1_CMD_SEND:
		r = fake_send(peer, arg);
		break;
	case BUS1_CMD_RECV:
		r = fake_recv(peer, arg);
		break;
	case BUS1_CMD_CALL:
		r = fake_call(peer, arg);
		break;
	case BUS1_CMD_REPLY:
		r = fake_reply(peer, arg);
		break;
	case BUS1_CMD_CALL_CANCEL:
		r = fake_cancel(peer, arg);
		break;
	case BUS1_CMD_LEASE:
		r = fake_lease(peer, arg);
		break;
	case BUS1_CMD_PEER_INFO: {
		struct bus1_cmd_info *info = arg;

		*info = (struct bus1_cmd_info){ .pool_size = peer->pool_size, .max_inline = MAX_INLINE };
		for (struct fake_node *n = peer->nodes; n; n = n->next)
			info->n_nodes++;
		for (struct fake_handle *h = peer->handles; h; h = h->next)
			info->n_handles++;
		for (struct fake_slice *s = peer->slices; s; s = s->next)
			info->n_slices++;
		for (struct fake_msg *m = peer->queue; m; m = m->next)
			info->n_queued++;
		info->n_calls = fake_n_calls(peer);
		r = 0;
		break;
	}
	default:
		r = ENOTTY;
	}
	pthread_mutex_unlock(&fake_lock);
	errno = r;
	return r ? -1 : 0;
}

void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	struct fake_peer *peer;
	void *p;
	int memfd;

	pthread_mutex_lock(&fake_lock);
	peer = peer_of(fd);
	if (!peer) {
		pthread_mutex_unlock(&fake_lock);
		return __real_mmap64(addr, len, prot, flags, fd, offset);
	}
	if (len > BUS1_MAX_POOL) {
		pthread_mutex_unlock(&fake_lock);
		errno = EINVAL;
		return MAP_FAILED;
	}
	memfd = memfd_create("bus1-pool", MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, (off_t)len) < 0)
		abort();
	peer->pool = __real_mmap64(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	peer->pool_size = len;
	p = __real_mmap64(addr, len, prot, flags, memfd, 0);
	__real_close(memfd);
	pthread_mutex_unlock(&fake_lock);
	return p;
}

int __wrap_close(int fd)
{
	struct fake_peer *peer;

	pthread_mutex_lock(&fake_lock);
	peer = peer_of(fd);
	if (peer) {
		fake_call_close(peer);
		while (peer->nodes)
			destroy(peer, peer->nodes);
		while (peer->queue)
			fake_drop_msg(peer, dequeue(peer));
		while (peer->handles)
			release(peer, peer->handles);
		while (peer->queue)
			fake_drop_msg(peer, dequeue(peer));
		while (peer->slices)
			fake_slice_free(peer, peer->slices->id);
		if (peer->pool)
			munmap(peer->pool, peer->pool_size);
		free(peer);
		fake_peers[fd] = NULL;
	}
	pthread_mutex_unlock(&fake_lock);
	return __real_close(fd);
}
