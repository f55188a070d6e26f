/*
 * The control thread's side: commands change what workers see, events come back. Nothing here runs in a worker.
 *
 * A command first makes all that can fail, then publishes; so it is done wholly or not at all.
 */
#include <stdlib.h>

#include "link.h"
#include "steer.h"
#include "worker.h"

#define BOTH (IPSF_WORKER_OUTBOUND | IPSF_WORKER_INBOUND)
#define HANDOVER_RING (1u << 20) /* bytes, between each two inbound workers, each way; memory that nothing was put into is not used */
#define HANDOVER_RING_OF_MANY (1u << 18)
#define FEW_WORKERS 8u

struct ipsf_dataplane {
	const struct ipsf_aead_engine *engine;
	struct ipsf_keycache *keys; /* expanded, a part for each worker */
	struct ipsf_published published;
	struct ipsf_epoch epoch;
	struct ipsf_doorbell event_bell;
	struct ipsf_worker *worker[IPSF_MAX_WORKERS];
	unsigned n_workers;
	unsigned inbound[IPSF_MAX_WORKERS]; /* those of them that are, in their order: SPIs are divided among them */
	unsigned n_inbound;
	unsigned turn; /* whose events are asked for first */
	size_t n_out;  /* outbound SAs */
};

static struct ipsf_children *children_of(const struct ipsf_dataplane *dp)
{
	return atomic_load(&dp->published.children);
}

static void wake_outbound(const struct ipsf_dataplane *dp)
{
	for (unsigned i = 0; i < dp->n_workers; i++) {
		if (dp->worker[i]->directions & IPSF_WORKER_OUTBOUND)
			ipsf_worker_wake(dp->worker[i]);
	}
}

/* ---- what is retired, by its type ---- */

static void free_sa_out(void *sa)
{
	ipsf_sa_out_free(sa);
}

static void free_sa_in(void *sa)
{
	ipsf_sa_in_free(sa);
}

static void free_child(void *child)
{
	ipsf_child_free(child);
}

static void free_spd(void *spd)
{
	ipsf_spd_free(spd);
}

/* The path that an SA began with is a part of it. */
static void retire_path(struct ipsf_dataplane *dp, const struct ipsf_path *path, const struct ipsf_path *home)
{
	if (path != home)
		ipsf_epoch_retire(&dp->epoch, free, (void *)(uintptr_t)path);
}

/* ---- making and freeing ---- */

static int make_published(struct ipsf_dataplane *dp)
{
	struct ipsf_spd *spd;
	struct ipsf_children *children;
	int status = ipsf_keycache_new(dp->engine, IPSF_MAX_WORKERS, &dp->keys);
	if (status == IPSF_OK)
		status = ipsf_spd_compile(NULL, 0, &spd);
	if (status != IPSF_OK)
		return status;
	atomic_store(&dp->published.spd, spd);
	status = ipsf_children_new(0, &children);
	if (status != IPSF_OK)
		return status;
	atomic_store(&dp->published.children, children);
	return ipsf_doorbell_init(&dp->event_bell);
}

int ipsf_dataplane_new(const char *engine, struct ipsf_dataplane **out)
{
	const struct ipsf_aead_engine *found = ipsf_aead_find(engine);
	if (!found)
		return IPSF_ENOENT;
	struct ipsf_dataplane *dp = aligned_alloc(IPSF_CACHE_LINE, sizeof *dp);
	if (!dp)
		return IPSF_ENOMEM;
	memset(dp, 0, sizeof *dp);
	dp->engine = found;
	dp->event_bell.fd = -1;
	ipsf_sad_init(&dp->published.sad);
	ipsf_epoch_init(&dp->epoch);
	const int status = make_published(dp);
	if (status != IPSF_OK) {
		ipsf_dataplane_free(dp);
		return status;
	}
	*out = dp;
	return IPSF_OK;
}

static void free_children(struct ipsf_children *children)
{
	struct ipsf_child *child;
	for (uint32_t cursor = 0; children && (child = ipsf_children_next(children, &cursor)) != NULL;) {
		for (struct ipsf_sa_out *sa = child->sas, *next; sa; sa = next) {
			next = sa->next;
			ipsf_sa_out_free(sa);
		}
		ipsf_child_free(child);
	}
	free(children);
}

void ipsf_dataplane_free(struct ipsf_dataplane *dp)
{
	if (!dp)
		return;
	for (unsigned i = 0; i < dp->n_workers; i++)
		ipsf_worker_free(dp->worker[i]);
	ipsf_epoch_fini(&dp->epoch);
	free_children(children_of(dp));
	ipsf_sad_fini(&dp->published.sad);
	ipsf_keycache_free(dp->keys);
	ipsf_spd_free(atomic_load(&dp->published.spd));
	ipsf_doorbell_fini(&dp->event_bell);
	free(dp);
}

const char *ipsf_dataplane_engine(const struct ipsf_dataplane *dp)
{
	return dp->engine->name;
}

int ipsf_dataplane_event_fd(const struct ipsf_dataplane *dp)
{
	return dp->event_bell.fd;
}

static bool has_port(const struct ipsf_worker *worker, const struct ipsf_port *port)
{
	for (unsigned i = 0; i < worker->n_ports; i++) {
		if (worker->port[i] == port)
			return true;
	}
	return false;
}

/* A port's receiving half belongs to one worker, its sending half to one (port.h). */
static bool clashes(const struct ipsf_dataplane *dp, struct ipsf_port *const *ports, size_t n, unsigned directions)
{
	for (unsigned i = 0; i < dp->n_workers; i++) {
		for (size_t j = 0; j < n && (dp->worker[i]->directions & directions & BOTH); j++) {
			if (has_port(dp->worker[i], ports[j]))
				return true;
		}
	}
	return false;
}

static int join_inbound(struct ipsf_dataplane *dp, struct ipsf_worker *worker)
{
	for (unsigned i = 0; i < dp->n_inbound; i++) {
		const size_t capacity = dp->n_inbound < FEW_WORKERS ? HANDOVER_RING : HANDOVER_RING_OF_MANY;
		const int status = ipsf_desk_join(worker->desk, dp->worker[dp->inbound[i]]->desk, capacity);
		if (status != IPSF_OK)
			return status;
	}
	dp->inbound[dp->n_inbound++] = worker->pipeline.worker;
	return IPSF_OK;
}

/* What was made for a worker that failed to join is the next one's. */
static int join_keys(struct ipsf_dataplane *dp)
{
	return dp->keys->n_workers > dp->n_workers ? IPSF_OK : ipsf_keycache_join(dp->keys);
}

/* An SA's owner follows from the number of workers, and each has its part of the keys: all workers come before the first SA. */
int ipsf_dataplane_add_worker(struct ipsf_dataplane *dp, const char *name, struct ipsf_port *const *inner, size_t n_inner,
			      struct ipsf_port *const *outer, size_t n_outer, unsigned directions, struct ipsf_worker **worker)
{
	if (dp->n_out || dp->published.sad.count)
		return IPSF_ELATE;
	if (dp->n_workers == IPSF_MAX_WORKERS || clashes(dp, inner, n_inner, directions) || clashes(dp, outer, n_outer, directions))
		return IPSF_EINVAL;
	const int status = ipsf_worker_new(name, dp->n_workers, inner, n_inner, outer, n_outer, directions, worker);
	if (status != IPSF_OK)
		return status;
	const bool inbound = (*worker)->directions & IPSF_WORKER_INBOUND;
	if (join_keys(dp) != IPSF_OK || (inbound && join_inbound(dp, *worker) != IPSF_OK)) {
		ipsf_worker_free(*worker);
		return IPSF_ENOMEM;
	}
	(*worker)->pipeline.published = &dp->published;
	(*worker)->epoch = &dp->epoch;
	(*worker)->event_bell = &dp->event_bell;
	(*worker)->workers = dp->worker;
	dp->worker[dp->n_workers++] = *worker;
	return IPSF_OK;
}

/* ---- children ---- */

/* The child of reqid, or NULL. */
static struct ipsf_child *child_of(const struct ipsf_dataplane *dp, uint32_t reqid)
{
	return reqid ? ipsf_child_find(children_of(dp), reqid) : NULL;
}

static int grow_children(struct ipsf_dataplane *dp)
{
	struct ipsf_children *old = children_of(dp), *table;
	struct ipsf_child *child;
	if (ipsf_children_have_room(old))
		return IPSF_OK;
	if (ipsf_epoch_reserve(&dp->epoch, 1) != IPSF_OK || ipsf_children_new(2 * ((size_t)old->count + 1), &table) != IPSF_OK)
		return IPSF_ENOMEM;
	for (uint32_t cursor = 0; (child = ipsf_children_next(old, &cursor)) != NULL;)
		ipsf_children_insert(table, child);
	atomic_store(&dp->published.children, table);
	ipsf_epoch_retire(&dp->epoch, free, old);
	return IPSF_OK;
}

/* The child of reqid, made if it is new. */
static int need_child(struct ipsf_dataplane *dp, uint32_t reqid, struct ipsf_child **child)
{
	*child = child_of(dp, reqid);
	if (*child)
		return IPSF_OK;
	if (grow_children(dp) != IPSF_OK || ipsf_child_new(reqid, child) != IPSF_OK)
		return IPSF_ENOMEM;
	ipsf_children_insert(children_of(dp), *child);
	return IPSF_OK;
}

/* A child that no policy and no SA needs leaves; room to retire it is reserved. */
static void let_go(struct ipsf_dataplane *dp, struct ipsf_child *child)
{
	if (child->policies || child->sas)
		return;
	ipsf_children_remove(children_of(dp), child);
	ipsf_epoch_retire(&dp->epoch, free_child, child);
}

static struct ipsf_sa_out **find_out(const struct ipsf_dataplane *dp, uint32_t reqid, uint32_t spi)
{
	struct ipsf_child *child = child_of(dp, reqid);
	struct ipsf_sa_out **link = child ? &child->sas : NULL;
	while (link && *link && (*link)->spi != spi)
		link = &(*link)->next;
	return link && *link ? link : NULL;
}

/* ---- commands ---- */

static int install_inbound(struct ipsf_dataplane *dp, const struct ipsf_command *command)
{
	struct ipsf_sa_in *sa;
	if (!command->sa || command->sa->reqid == 0)
		return IPSF_EINVAL;
	if (ipsf_sad_find(&dp->published.sad, command->sa->spi))
		return IPSF_EEXIST;
	int status = ipsf_sa_in_share(command->sa, dp->keys, &sa);
	if (status != IPSF_OK)
		return status;
	sa->owner = (uint8_t)(dp->n_inbound ? dp->inbound[ipsf_owner(sa->spi, dp->n_inbound)] : 0);
	status = ipsf_sad_insert(&dp->published.sad, sa);
	if (status != IPSF_OK)
		ipsf_sa_in_free(sa);
	return status;
}

static int install_outbound(struct ipsf_dataplane *dp, const struct ipsf_command *command)
{
	struct ipsf_child *child;
	struct ipsf_sa_out *sa;
	if (!command->sa || command->sa->reqid == 0)
		return IPSF_EINVAL;
	if (find_out(dp, command->sa->reqid, command->sa->spi))
		return IPSF_EEXIST;
	int status = ipsf_sa_out_share(command->sa, dp->keys, &sa);
	if (status != IPSF_OK)
		return status;
	status = need_child(dp, sa->reqid, &child);
	if (status == IPSF_OK)
		status = ipsf_child_prepare(child, command->sa, dp->n_workers);
	if (status != IPSF_OK) {
		ipsf_sa_out_free(sa);
		return status;
	}
	sa->next = child->sas;
	child->sas = sa;
	dp->n_out++;
	return IPSF_OK;
}

/* The next packet takes the new SA; the old one stays registered until it is removed. */
static int activate_outbound(struct ipsf_dataplane *dp, const struct ipsf_command *command)
{
	struct ipsf_sa_out **link = find_out(dp, command->reqid, command->spi);
	if (!link)
		return IPSF_ENOENT;
	struct ipsf_child *child = child_of(dp, command->reqid);
	_Atomic(struct ipsf_sa_out *) *place = ipsf_child_place(child, (*link)->resource);
	if (place)
		atomic_store(place, *link);
	atomic_store(&child->asked, 0);
	wake_outbound(dp);
	return IPSF_OK;
}

static int remove_inbound(struct ipsf_dataplane *dp, const struct ipsf_command *command)
{
	if (!ipsf_sad_find(&dp->published.sad, command->spi))
		return IPSF_ENOENT;
	if (ipsf_epoch_reserve(&dp->epoch, 1) != IPSF_OK)
		return IPSF_ENOMEM;
	ipsf_epoch_retire(&dp->epoch, free_sa_in, ipsf_sad_remove(&dp->published.sad, command->spi));
	return IPSF_OK;
}

static int remove_outbound(struct ipsf_dataplane *dp, const struct ipsf_command *command)
{
	struct ipsf_sa_out **link = find_out(dp, command->reqid, command->spi);
	if (!link)
		return IPSF_ENOENT;
	if (ipsf_epoch_reserve(&dp->epoch, 2) != IPSF_OK)
		return IPSF_ENOMEM;
	struct ipsf_child *child = child_of(dp, command->reqid);
	struct ipsf_sa_out *sa = *link;
	_Atomic(struct ipsf_sa_out *) *place = ipsf_child_place(child, sa->resource);
	if (place && atomic_load(place) == sa)
		atomic_store(place, NULL);
	*link = sa->next;
	dp->n_out--;
	ipsf_epoch_retire(&dp->epoch, free_sa_out, sa);
	let_go(dp, child);
	return IPSF_OK;
}

static bool path_valid(const struct ipsf_path *path)
{
	const uint8_t version = path->remote.version;
	return (version == 4 || version == 6) && path->local.version == version;
}

/* RFC 7296 s2.23. The carrier is the SA's for life: another family, or UDP where there was none, takes a rekey. */
static int move_peer(struct ipsf_dataplane *dp, const struct ipsf_command *command)
{
	struct ipsf_sa_out **link = find_out(dp, command->reqid, command->spi);
	struct ipsf_sa_in *in = ipsf_sad_find(&dp->published.sad, command->inbound_spi);
	if (!link || !in)
		return IPSF_ENOENT;
	struct ipsf_sa_out *out = *link;
	if (!command->path || !path_valid(command->path) || (out->udp_encap && command->path->remote_port == 0) ||
	    ipsf_carrier_of(command->path, out->udp_encap) != (enum ipsf_carrier)out->carrier)
		return IPSF_EINVAL;
	struct ipsf_path *paths[2] = {malloc(sizeof *paths[0]), malloc(sizeof *paths[1])};
	if (!paths[0] || !paths[1] || ipsf_epoch_reserve(&dp->epoch, 2) != IPSF_OK) {
		free(paths[0]);
		free(paths[1]);
		return IPSF_ENOMEM;
	}
	*paths[0] = *paths[1] = *command->path;
	retire_path(dp, atomic_exchange(&out->path, paths[0]), out->home);
	retire_path(dp, atomic_exchange(&in->path, paths[1]), in->home);
	return IPSF_OK;
}

/* A reqid that nothing is known of holds nothing: that is what was wanted. */
static int release_held(struct ipsf_dataplane *dp, const struct ipsf_command *command)
{
	struct ipsf_child *child = child_of(dp, command->reqid);
	if (!child)
		return IPSF_OK;
	atomic_fetch_add(&child->releases, 1);
	atomic_store(&child->asked, 0);
	wake_outbound(dp);
	return IPSF_OK;
}

/* ---- PUBLISH_SPD, REPLACE_POLICIES ---- */

/* The children that policies name: made before, so that counting them can't fail. */
static int need_children(struct ipsf_dataplane *dp, const struct ipsf_policy *policies, size_t n)
{
	struct ipsf_child *child;
	for (size_t i = 0; i < n; i++) {
		if (policies[i].action == IPSF_PROTECT && need_child(dp, policies[i].reqid, &child) != IPSF_OK)
			return IPSF_ENOMEM;
	}
	return IPSF_OK;
}

static void count_policies(const struct ipsf_dataplane *dp, const struct ipsf_policy *policies, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (policies[i].action == IPSF_PROTECT)
			child_of(dp, policies[i].reqid)->policies++;
	}
}

static bool policies_given(const struct ipsf_command *command)
{
	const size_t n = command->n_policies;
	return n == 0 || (command->policies && ipsf_policies_valid(command->policies, n) == n);
}

static void publish(struct ipsf_dataplane *dp, struct ipsf_spd *spd)
{
	ipsf_epoch_retire(&dp->epoch, free_spd, atomic_exchange(&dp->published.spd, spd));
	wake_outbound(dp);
}

/*
 * First the children that new policies name, then the policies, then away with the children that none names any more.
 */
static int publish_spd(struct ipsf_dataplane *dp, const struct ipsf_command *command)
{
	struct ipsf_spd *spd;
	struct ipsf_child *child;
	uint32_t cursor = 0;
	if (!policies_given(command))
		return IPSF_EINVAL;
	const int status = ipsf_spd_compile(command->policies, command->n_policies, &spd);
	if (status != IPSF_OK)
		return status;
	if (need_children(dp, command->policies, command->n_policies) != IPSF_OK ||
	    ipsf_epoch_reserve(&dp->epoch, 1 + children_of(dp)->count) != IPSF_OK) {
		ipsf_spd_free(spd);
		return IPSF_ENOMEM;
	}
	while ((child = ipsf_children_next(children_of(dp), &cursor)) != NULL)
		child->policies = 0;
	count_policies(dp, command->policies, command->n_policies);
	publish(dp, spd);
	cursor = 0;
	while ((child = ipsf_children_next(children_of(dp), &cursor)) != NULL)
		let_go(dp, child);
	return IPSF_OK;
}

/* Those whose policies go; NULL: no memory. */
static struct ipsf_child **children_at(const struct ipsf_dataplane *dp, const struct ipsf_spd *spd, size_t index, size_t n)
{
	struct ipsf_child **children = malloc((n ? n : 1) * sizeof(struct ipsf_child *));
	for (size_t i = 0; children && i < n; i++)
		children[i] = child_of(dp, ipsf_spd_reqid(spd, index + i));
	return children;
}

/* A child may have lost several policies: it is let go with the last one. */
static void uncount_policies(struct ipsf_dataplane *dp, struct ipsf_child *const *children, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (children[i] && --children[i]->policies == 0)
			let_go(dp, children[i]);
	}
}

static int replace_policies(struct ipsf_dataplane *dp, const struct ipsf_command *command)
{
	struct ipsf_spd *spd = atomic_load(&dp->published.spd), *next;
	const size_t count = ipsf_spd_count(spd), index = command->index, gone = command->n_removed, n = command->n_policies;
	if (index > count || gone > count - index || !policies_given(command))
		return IPSF_EINVAL;
	if (need_children(dp, command->policies, n) != IPSF_OK || ipsf_epoch_reserve(&dp->epoch, 1 + gone) != IPSF_OK)
		return IPSF_ENOMEM;
	struct ipsf_child **children = children_at(dp, spd, index, gone);
	const int status = children ? ipsf_spd_splice(spd, index, gone, command->policies, n, &next) : IPSF_ENOMEM;
	if (status == IPSF_OK) {
		count_policies(dp, command->policies, n);
		publish(dp, next);
		uncount_policies(dp, children, gone);
	}
	free(children);
	return status;
}

/* ---- PUBLISH_HOPS ---- */

static void free_hops(void *hops)
{
	ipsf_hops_free(hops);
}

static int publish_hops(struct ipsf_dataplane *dp, const struct ipsf_command *command)
{
	struct ipsf_hops *hops;
	if (!command->port || !command->port->ops->reaches || (command->n_hops && !command->hops))
		return IPSF_EINVAL;
	const int status = ipsf_hops_new(command->hops, command->n_hops, &hops);
	if (status != IPSF_OK)
		return status;
	if (ipsf_epoch_reserve(&dp->epoch, 1) != IPSF_OK) {
		ipsf_hops_free(hops);
		return IPSF_ENOMEM;
	}
	ipsf_epoch_retire(&dp->epoch, free_hops, atomic_exchange(&command->port->hops, hops));
	return IPSF_OK;
}

int ipsf_dataplane_apply(struct ipsf_dataplane *dp, const struct ipsf_command *command)
{
	static int (*const apply[])(struct ipsf_dataplane *, const struct ipsf_command *) = {
		[IPSF_CMD_INSTALL_INBOUND] = install_inbound,
		[IPSF_CMD_INSTALL_OUTBOUND] = install_outbound,
		[IPSF_CMD_ACTIVATE_OUTBOUND] = activate_outbound,
		[IPSF_CMD_REMOVE_INBOUND] = remove_inbound,
		[IPSF_CMD_REMOVE_OUTBOUND] = remove_outbound,
		[IPSF_CMD_MOVE_PEER] = move_peer,
		[IPSF_CMD_RELEASE_HELD] = release_held,
		[IPSF_CMD_PUBLISH_SPD] = publish_spd,
		[IPSF_CMD_REPLACE_POLICIES] = replace_policies,
		[IPSF_CMD_PUBLISH_HOPS] = publish_hops,
	};
	if ((size_t)command->kind >= sizeof apply / sizeof apply[0])
		return IPSF_EINVAL;
	const int status = apply[command->kind](dp, command);
	ipsf_epoch_collect(&dp->epoch);
	return status;
}

size_t ipsf_dataplane_policy_count(const struct ipsf_dataplane *dp)
{
	return ipsf_spd_count(atomic_load(&dp->published.spd));
}

size_t ipsf_dataplane_policy_memory(const struct ipsf_dataplane *dp)
{
	return ipsf_spd_memory(atomic_load(&dp->published.spd));
}

/* ---- events and status ---- */

/* The workers take turns, so that a flood at one can't hide what another has to say. */
static int take_event(struct ipsf_dataplane *dp, struct ipsf_event *event, uint8_t *data, size_t size)
{
	for (unsigned i = 0; i < dp->n_workers; i++) {
		const unsigned at = (dp->turn + i) % dp->n_workers;
		const int got = ipsf_event_take(dp->worker[at]->pipeline.events, event, data, size);
		if (got == 0)
			continue;
		dp->turn = got == 1 ? at + 1 : at;
		return got;
	}
	return 0;
}

int ipsf_dataplane_next_event(struct ipsf_dataplane *dp, struct ipsf_event *event, uint8_t *data, size_t size)
{
	const int got = take_event(dp, event, data, size);
	if (got != 0)
		return got;
	ipsf_epoch_collect(&dp->epoch);
	ipsf_doorbell_silence(&dp->event_bell);
	return take_event(dp, event, data, size); /* what came before it was silent */
}

/* One SA after the other: the outbound ones by their children, then the inbound ones by their SPIs. */
struct sa_walk {
	uint32_t child_cursor, sad_cursor;
	struct ipsf_child *child;
	const struct ipsf_sa_out *out;
	const struct ipsf_sa_in *in;
};

/* False at the end; else walk->out or walk->in is the next SA. */
static bool next_sa(const struct ipsf_dataplane *dp, struct sa_walk *walk)
{
	walk->out = walk->out ? walk->out->next : NULL;
	while (!walk->out && !walk->in && (walk->child = ipsf_children_next(children_of(dp), &walk->child_cursor)) != NULL)
		walk->out = walk->child->sas;
	if (walk->out)
		return true;
	walk->in = ipsf_sad_next(&dp->published.sad, &walk->sad_cursor, walk->in);
	return walk->in != NULL;
}

static uint64_t all_dropped(const _Atomic(struct ipsf_sa_drops *) *drops)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < IPSF_DROP_COUNT && atomic_load(drops); i++)
		sum += ipsf_sa_dropped(drops, i);
	return sum;
}

static struct ipsf_sa_count count_out(const struct ipsf_sa_out *sa, bool active)
{
	const uint64_t sequence = ipsf_sa_out_sequence(sa);
	return (struct ipsf_sa_count){.spi = sa->spi, .reqid = sa->reqid, .active = active, .packets = sequence,
				      .bytes = atomic_load_explicit(&sa->bytes, memory_order_relaxed), .sequence = sequence,
				      .drops = all_dropped(&sa->drops)};
}

static struct ipsf_sa_count count_in(const struct ipsf_sa_in *sa)
{
	return (struct ipsf_sa_count){.spi = sa->spi, .reqid = sa->reqid, .inbound = 1, .active = 1,
				      .packets = atomic_load_explicit(&sa->packets, memory_order_relaxed),
				      .bytes = atomic_load_explicit(&sa->bytes, memory_order_relaxed),
				      .sequence = ipsf_replay_top(sa->replay), .drops = all_dropped(&sa->drops)};
}

static struct ipsf_sa_count count_sa(const struct sa_walk *walk)
{
	if (!walk->out)
		return count_in(walk->in);
	const _Atomic(struct ipsf_sa_out *) *place = ipsf_child_place(walk->child, walk->out->resource);
	return count_out(walk->out, place && atomic_load(place) == walk->out);
}

size_t ipsf_dataplane_sa_status(const struct ipsf_dataplane *dp, struct ipsf_sa_status *status, size_t n)
{
	struct sa_walk walk = {.child = NULL};
	for (size_t i = 0; i < n && next_sa(dp, &walk); i++) {
		const struct ipsf_sa_count count = count_sa(&walk);
		status[i] = (struct ipsf_sa_status){.spi = count.spi, .reqid = count.reqid, .inbound = count.inbound,
						    .active = count.active, .packets = count.packets, .bytes = count.bytes,
						    .sequence = count.sequence};
		for (unsigned reason = 0; reason < IPSF_DROP_COUNT; reason++)
			status[i].drops[reason] = ipsf_sa_dropped(walk.out ? &walk.out->drops : &walk.in->drops, reason);
	}
	return dp->n_out + dp->published.sad.count;
}

size_t ipsf_dataplane_sa_counts(const struct ipsf_dataplane *dp, struct ipsf_sa_count *counts, size_t n)
{
	struct sa_walk walk = {.child = NULL};
	for (size_t i = 0; i < n && next_sa(dp, &walk); i++)
		counts[i] = count_sa(&walk);
	return dp->n_out + dp->published.sad.count;
}
