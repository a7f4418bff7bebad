// SPDX-License-Identifier: GPL-2.0-only
/*
 * What only C can hold of the memory behind a pool: whom its pages are charged
 * to, where they are mapped, and the shrinker that takes idle ones back. Which
 * pages are idle is known to Rust: see reclaim.rs.
 */
#include <linux/fs.h>
#include <linux/list_lru.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/swap.h>

#include "bridge.h"

/*
 * One a pool. It is on the list of its memory cgroup while the pool may have
 * idle pages, unless a shrinker has it in its hand.
 */
struct bus1_backing {
	struct list_head link;
	/* Alive while this is linked: see bus1_backing_list(). */
	void *peer;
	/* About how many pages are idle. Written under the peer's lock. */
	unsigned long idle;
	/* Referenced. NULL without memory cgroups. */
	struct mem_cgroup *memcg;
};

static struct kmem_cache *bus1_backings;
static struct list_lru bus1_idle;
static struct shrinker *bus1_shrinker;

/*
 * Each file has a mapping of its own, so that pages of one pool can be unmapped
 * without a look at others. Nothing is ever in its page cache.
 */
struct address_space *bus1_mapping_new(void)
{
	struct address_space *mapping;

	mapping = kmalloc(sizeof(*mapping), GFP_KERNEL_ACCOUNT);
	if (!mapping)
		return NULL;
	address_space_init_once(mapping);
	init_rwsem(&mapping->invalidate_lock);
	mapping->a_ops = &empty_aops;
	mapping_set_gfp_mask(mapping, GFP_HIGHUSER);
	return mapping;
}

void bus1_mapping_free(struct address_space *mapping)
{
	kfree(mapping);
}

void bus1_mapping_unmap(struct address_space *mapping, unsigned long first,
			unsigned long pages)
{
	unmap_mapping_range(mapping, (loff_t)first << PAGE_SHIFT,
			    (loff_t)pages << PAGE_SHIFT, 0);
}

struct bus1_backing *bus1_backing_new(void *peer)
{
	struct mem_cgroup *memcg = get_mem_cgroup_from_mm(current->mm), *old;
	struct bus1_backing *backing;

	/* Its own memory says whose list it belongs on. */
	old = set_active_memcg(memcg);
	backing = kmem_cache_alloc_lru(bus1_backings, &bus1_idle,
				       GFP_KERNEL_ACCOUNT);
	set_active_memcg(old);
	if (!backing) {
		mem_cgroup_put(memcg);
		return NULL;
	}
	INIT_LIST_HEAD(&backing->link);
	backing->peer = peer;
	backing->idle = 0;
	backing->memcg = memcg;
	return backing;
}

void bus1_backing_free(struct bus1_backing *backing)
{
	WARN_ON_ONCE(!list_empty(&backing->link));
	mem_cgroup_put(backing->memcg);
	kmem_cache_free(bus1_backings, backing);
}

struct page *bus1_backing_pages(struct bus1_backing *backing,
				unsigned int order)
{
	struct mem_cgroup *old = set_active_memcg(backing->memcg);
	gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN;
	struct page *page;

	/*
	 * The caller is a sender, to whom the owner's cgroup may be foreign: it
	 * must not have anything killed in there.
	 */
	if (order)
		gfp = (gfp & ~__GFP_DIRECT_RECLAIM) | __GFP_NORETRY;
	else
		gfp |= __GFP_RETRY_MAYFAIL;
	page = alloc_pages(gfp, order);
	set_active_memcg(old);
	if (page && order)
		split_page(page, order);
	return page;
}

void bus1_backing_set_idle(struct bus1_backing *backing, unsigned long idle)
{
	WRITE_ONCE(backing->idle, idle);
}

/*
 * Under the peer's lock, of a peer that is open; and so is what takes it off
 * before the peer is closed. So whoever finds it linked, under the list's lock,
 * finds the reference that the open file has.
 */
void bus1_backing_list(struct bus1_backing *backing)
{
	list_lru_add_obj(&bus1_idle, &backing->link);
}

void bus1_backing_unlist(struct bus1_backing *backing)
{
	list_lru_del_obj(&bus1_idle, &backing->link);
}

void bus1_page_get(struct page *page)
{
	get_page(page);
}

void bus1_page_free(struct page *page)
{
	put_page(page);
}

bool bus1_page_settle(struct page *page)
{
	if (!trylock_page(page))
		return false;
	unlock_page(page);
	return true;
}

bool bus1_page_is_shared(struct page *page)
{
	return page_count(page) != 1;
}

/* How many pools are looked at to tell how many pages all of a list have. */
#define BUS1_SAMPLE	32

struct bus1_sample {
	unsigned long n;
	unsigned long idle;
};

static enum lru_status bus1_idle_sample(struct list_head *item,
					struct list_lru_one *list, void *arg)
{
	struct bus1_sample *sample = arg;

	sample->n++;
	sample->idle += READ_ONCE(container_of(item, struct bus1_backing,
					       link)->idle);
	return LRU_SKIP;
}

static unsigned long bus1_idle_count(struct shrinker *shrinker,
				     struct shrink_control *sc)
{
	unsigned long n = list_lru_shrink_count(&bus1_idle, sc), walk = BUS1_SAMPLE;
	struct bus1_sample sample = {};

	if (!n)
		return SHRINK_EMPTY;
	list_lru_walk_one(&bus1_idle, sc->nid, sc->memcg, bus1_idle_sample,
			  &sample, &walk);
	if (!sample.n)
		return 0;
	return n <= sample.n ? sample.idle : sample.idle / sample.n * n;
}

/* Take one into the hand. Under the list's lock. */
static enum lru_status bus1_idle_take(struct list_head *item,
				      struct list_lru_one *list, void *arg)
{
	struct bus1_backing *backing = container_of(item, struct bus1_backing,
						    link);
	void **peer = arg;

	bus1_peer_get(backing->peer);
	list_lru_isolate(list, item);
	*peer = backing->peer;
	return LRU_REMOVED;
}

static unsigned long bus1_idle_scan(struct shrinker *shrinker,
				    struct shrink_control *sc)
{
	unsigned long freed = 0, seen = 0;
	/* Each once: what is passed over there is listed anew as well. */
	unsigned long n = list_lru_shrink_count(&bus1_idle, sc);

	for (; n && seen < sc->nr_to_scan; n--) {
		unsigned long walk = 1;
		void *peer = NULL;

		list_lru_walk_one(&bus1_idle, sc->nid, sc->memcg,
				  bus1_idle_take, &peer, &walk);
		if (!peer)
			break;
		/* It is listed anew from in there, if it has more. */
		freed += bus1_peer_shrink(peer, sc->nr_to_scan - seen, &seen);
		bus1_peer_put(peer);
	}
	sc->nr_scanned = seen;
	mm_account_reclaimed_pages(freed);
	return seen ? freed : SHRINK_STOP;
}

int bus1_backing_init(void)
{
	static struct lock_class_key key;

	bus1_backings = KMEM_CACHE(bus1_backing, SLAB_ACCOUNT);
	if (!bus1_backings)
		return -ENOMEM;
	bus1_shrinker = shrinker_alloc(SHRINKER_NUMA_AWARE |
				       SHRINKER_MEMCG_AWARE, "bus1-pool");
	if (!bus1_shrinker)
		goto no_shrinker;
	if (list_lru_init_memcg_key(&bus1_idle, bus1_shrinker, &key))
		goto no_list;
	bus1_shrinker->count_objects = bus1_idle_count;
	bus1_shrinker->scan_objects = bus1_idle_scan;
	shrinker_register(bus1_shrinker);
	return 0;

no_list:
	shrinker_free(bus1_shrinker);
no_shrinker:
	kmem_cache_destroy(bus1_backings);
	return -ENOMEM;
}

void bus1_backing_exit(void)
{
	/* Waits for those that are at it, who may have the last of a peer. */
	shrinker_free(bus1_shrinker);
	list_lru_destroy(&bus1_idle);
	kmem_cache_destroy(bus1_backings);
}
