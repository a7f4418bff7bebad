// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * D-Bus: a method call with an array of bytes, answered with another or not, by sd-bus and
 * through a dbus-broker of our own, which goes when it is done.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include "bench.h"

#define NAME "org.bus1.Bench"
#define PATH "/org/bus1/Bench"
#define BROKER "/usr/bin/dbus-broker"

/* What dbus-broker takes for rules: to connect, own names, send and receive. */
#define RULES "bta(btbs)a(btssssuutt)a(btssssuutt)"
#define POLICY "(a(u(" RULES "))a(buu(" RULES "))a(ss)bs)"

struct dbus_end {
	struct end end;
	bool server;
	pid_t opener, broker;		/* the process that has started the broker */
	sd_bus *control;		/* which runs as long as this is connected */
	struct sockaddr_un address;
	socklen_t address_len;
	sd_bus *bus;
	sd_bus_message *last;		/* whose payload e->data is */
	const void *data;		/* of a client: what is sent next */
	size_t len;
};

static void dbus_close(struct end *e)
{
	struct dbus_end *d = (struct dbus_end *)e;

	sd_bus_message_unref(d->last);
	/* A process does not share the connections of the one it was forked from. */
	if (d->opener == getpid()) {
		sd_bus_close_unref(d->bus);
		sd_bus_close_unref(d->control);
		if (d->broker > 0) {
			kill(d->broker, SIGKILL);
			waitpid(d->broker, NULL, 0);
		}
	}
	free(d);
}

static struct dbus_end *dbus_new(size_t size, bool server)
{
	struct dbus_end *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->end.transport = &transport_dbus;
	d->end.chunk = size;
	d->server = server;
	d->opener = getpid();
	return d;
}

static void broker_exec(int fd, pid_t parent)
{
	char number[16];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fd = dup(fd);	/* not close-on-exec */
	if (getppid() != parent || fd < 0)
		_exit(127);
	snprintf(number, sizeof(number), "%d", fd);
	execl(BROKER, BROKER, "--controller", number, "--machine-id", "0123456789abcdef0123456789abcdef",
	      (char *)NULL);
	_exit(127);
}

/* Everyone may do everything. */
static int add_listener(sd_bus *control, int fd)
{
	const uint64_t priority = 1, none = 0, any = UINT64_MAX;

	return sd_bus_call_method(control, NULL, "/org/bus1/DBus/Broker", "org.bus1.DBus.Broker", "AddListener",
				  NULL, NULL, "ohv", "/org/bus1/DBus/Listener/0", fd, POLICY,
				  1, UINT32_MAX, true, priority,
				  1, true, priority, true, "",
				  1, true, priority, "", "", "", "", 0, 0, none, any,
				  1, true, priority, "", "", "", "", 0, 0, none, any,
				  0, 0, false, "session");
}

static int control_new(sd_bus **out, int fd)
{
	sd_bus *bus;
	int r = sd_bus_new(&bus);

	if (r < 0) {
		close(fd);
		return r;
	}
	r = sd_bus_set_fd(bus, fd, fd);
	if (r >= 0)
		r = sd_bus_start(bus);
	if (r < 0) {
		sd_bus_unref(bus);
		return r;
	}
	*out = bus;
	return 0;
}

static int broker_start(struct dbus_end *d)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	pid_t parent = getpid();
	int listener, pair[2], r;

	if (access(BROKER, X_OK) < 0)
		return absent("%s: %s", BROKER, strerror(errno));
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener < 0)
		return -errno;
	/* The kernel finds an abstract name. */
	d->address_len = sizeof(d->address);
	if (bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 ||
	    listen(listener, 16) < 0 ||
	    getsockname(listener, (struct sockaddr *)&d->address, &d->address_len) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
		r = -errno;
		close(listener);
		return r;
	}
	d->broker = fork();
	if (d->broker == 0)
		broker_exec(pair[1], parent);
	r = d->broker < 0 ? -errno : 0;
	close(pair[1]);
	if (r < 0)
		close(pair[0]);
	else
		r = control_new(&d->control, pair[0]);
	if (r >= 0) {
		r = add_listener(d->control, listener);
		if (r < 0)
			r = absent("dbus-broker does not take a listener: %s", strerror(-r));
	}
	close(listener);
	return r < 0 ? r : 0;
}

static int dbus_open(struct end **a, struct end **b, size_t size, bool alone)
{
	struct dbus_end *x = dbus_new(size, false), *y = dbus_new(size, true);
	int r = x && y ? broker_start(x) : -ENOMEM;

	if (r < 0) {
		if (x)
			dbus_close(&x->end);
		if (y)
			dbus_close(&y->end);
		return r;
	}
	y->address = x->address;
	y->address_len = x->address_len;
	*a = &x->end;
	*b = &y->end;
	return 0;
}

static int dbus_attach(struct end *e)
{
	struct dbus_end *d = (struct dbus_end *)e;
	int fd, r;

	d->opener = getpid();
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&d->address, d->address_len) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	r = sd_bus_new(&d->bus);
	if (r < 0) {
		close(fd);
		return r;
	}
	r = sd_bus_set_fd(d->bus, fd, fd);
	if (r < 0)
		close(fd);
	if (r >= 0)
		r = sd_bus_negotiate_fds(d->bus, false);
	if (r >= 0)
		r = sd_bus_set_bus_client(d->bus, true);
	if (r >= 0)
		r = sd_bus_start(d->bus);
	if (r >= 0 && d->server)
		r = sd_bus_request_name(d->bus, NAME, 0);
	return r < 0 ? r : 0;
}

static int client_call(struct dbus_end *d)
{
	sd_bus_message *m;
	int r;

	r = sd_bus_message_new_method_call(d->bus, &m, NAME, PATH, NAME, "Call");
	if (r < 0)
		return r;
	r = sd_bus_message_append_array(m, 'y', d->data, d->len);
	if (r >= 0)
		r = sd_bus_call(d->bus, m, UINT64_MAX, NULL, &d->last);
	sd_bus_message_unref(m);
	return r;
}

/* No reply is expected. It is written at once, unless there is no room for it. */
static int dbus_push(struct end *e, const void *data, size_t len)
{
	struct dbus_end *d = (struct dbus_end *)e;
	sd_bus_message *m;
	int r;

	r = sd_bus_message_new_method_call(d->bus, &m, NAME, PATH, NAME, "Call");
	if (r < 0)
		return r;
	r = sd_bus_message_append_array(m, 'y', data, len);
	if (r >= 0)
		r = sd_bus_message_set_expect_reply(m, false);
	if (r >= 0)
		r = sd_bus_send(d->bus, m, NULL);
	sd_bus_message_unref(m);
	if (r >= 0)
		r = sd_bus_flush(d->bus);
	return r < 0 ? r : 0;
}

static int server_wait(struct dbus_end *d)
{
	int r;

	for (;;) {
		r = sd_bus_process(d->bus, &d->last);
		if (r < 0)
			return r;
		if (d->last) {
			if (sd_bus_message_is_method_call(d->last, NAME, "Call") > 0)
				return 0;
			d->last = sd_bus_message_unref(d->last);
		} else if (r == 0) {
			r = sd_bus_wait(d->bus, UINT64_MAX);
			if (r < 0)
				return r;
		}
	}
}

static int dbus_send(struct end *e, const void *data, size_t len)
{
	struct dbus_end *d = (struct dbus_end *)e;
	sd_bus_message *m;
	int r;

	if (!d->server) {
		d->data = data;
		d->len = len;
		return 0;
	}
	r = sd_bus_message_new_method_return(d->last, &m);
	if (r < 0)
		return r;
	r = sd_bus_message_append_array(m, 'y', data, len);
	if (r >= 0)
		r = sd_bus_send(d->bus, m, NULL);
	sd_bus_message_unref(m);
	return r < 0 ? r : 0;
}

static int dbus_recv(struct end *e, size_t offset, size_t len)
{
	struct dbus_end *d = (struct dbus_end *)e;
	const void *p;
	size_t n;
	int r;

	d->last = sd_bus_message_unref(d->last);
	r = d->server ? server_wait(d) : client_call(d);
	if (r >= 0)
		r = sd_bus_message_read_array(d->last, 'y', &p, &n);
	if (r < 0)
		return r;
	e->data = p;
	return n == len ? 0 : -EBADMSG;
}

const struct transport transport_dbus = {
	.name = "dbus",
	.open = dbus_open,
	.attach = dbus_attach,
	.send = dbus_send,
	.recv = dbus_recv,
	.close = dbus_close,
	.push = dbus_push,
	.slow = true,
};
