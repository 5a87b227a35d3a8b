/* What the tables say of an address, a packet and a tenant. */
#ifndef ISTHMUS_DECIDING_H
#define ISTHMUS_DECIDING_H

#include "tables.h"

#define VOLATILE(X) (*(volatile typeof(X) *)&(X))

struct found {
    __u64 hash;
    __u32 subnet;
    __u32 peer;
    __u64 mac; /* six octets in the order of memory, then two zeros */
};

static __always_inline int take_place(struct place *place, __u32 scope, __u64 first, __u64 second,
                                      struct found *found)
{
    __u64 whose = VOLATILE(place->whose);
    __u64 where;

    if ((whose & 0xFFFFFF) != scope || VOLATILE(place->address[0]) != first ||
        VOLATILE(place->address[1]) != second)
        return 0;
    where = VOLATILE(place->where);
    /* Somebody has written there meanwhile: it is as good as not found. */
    if (VOLATILE(place->whose) != whose)
        return 0;
    found->peer = (__u32)(whose >> 32) & 0xFFFFFF;
    found->subnet = (__u32)(whose >> 56) | (__u32)(where >> 48) << 8;
    found->mac = where & 0xFFFFFFFFFFFF;
    return 1;
}

/* A product mixes upwards only, and the last octets of an address are the highest of its words: so each is folded. */
static __always_inline __u64 hash_of(const struct config *settings, __u32 scope, __u64 first, __u64 second)
{
    __u64 hash = first ^ settings->seed;

    hash = (hash ^ hash >> 32) * 0x9E3779B97F4A7C15;
    hash ^= hash >> 32 ^ second ^ scope;
    hash = (hash ^ hash >> 32) * 0xD6E8FEB86659FD93;
    hash = (hash ^ hash >> 32) * 0xFF51AFD7ED558CCD;
    return hash ^ hash >> 32;
}

static __always_inline __u64 ipv4_hash_of(const struct config *settings, __u32 scope, __u32 address)
{
    __u64 hash = (address ^ settings->seed) * 0x9E3779B97F4A7C15;

    hash = (hash ^ hash >> 32 ^ scope) * 0xD6E8FEB86659FD93;
    return hash ^ hash >> 32;
}

static __always_inline __u32 first_bucket(__u64 hash, __u32 buckets)
{
    return (__u64)(__u32)hash * buckets >> 32;
}

static __always_inline __u32 second_bucket(__u64 hash, __u32 buckets)
{
    return (hash >> 32) * buckets >> 32;
}

static __always_inline int find(const struct config *settings, __u32 scope, __u64 first, __u64 second,
                                struct found *found)
{
    __u64 hash = scope == VSIDS || scope == IPV4_PEERS ? ipv4_hash_of(settings, scope, first)
                                                       : hash_of(settings, scope, first, second);
    struct bucket *bucket;
    __u32 number = first_bucket(hash, settings->buckets);

    found->hash = hash;
    bucket = bpf_map_lookup_elem(&places, &number);
    if (!bucket)
        return 0;
    if (take_place(&bucket->places[0], scope, first, second, found) ||
        take_place(&bucket->places[1], scope, first, second, found))
        return 1;
    number = second_bucket(hash, settings->buckets);
    bucket = bpf_map_lookup_elem(&places, &number);
    if (!bucket)
        return 0;
    return take_place(&bucket->places[0], scope, first, second, found) ||
           take_place(&bucket->places[1], scope, first, second, found);
}

/* Find once more what has not been found where nothing means that it is not there: it may just have been moved from
 * the bucket that was looked at last to the first one. */
static __noinline int find_moved(const struct config *settings, __u32 scope, __u64 first, __u64 second,
                                 struct found *found)
{
    return find(settings, scope, first, second, found);
}

static __always_inline int take_ipv4_place(struct ipv4_place *place, __u32 tenant, __u32 address, int is_block,
                                           struct found *found)
{
    __u64 whose = VOLATILE(place->address), where;
    struct subnet *subnet;
    __u32 number, peer = (__u32)(whose >> 32) & 0xFFFFF;

    if ((__u32)whose != address || !peer || (peer == IS_BLOCK) != is_block)
        return 0;
    where = VOLATILE(place->where);
    if (VOLATILE(place->address) != whose)
        return 0;
    number = (__u32)(whose >> 58) | (__u32)(where >> 48) << 6;
    subnet = bpf_map_lookup_elem(&subnets, &number);
    if (!subnet || subnet->tenant != tenant)
        return 0;
    found->peer = peer;
    found->subnet = number;
    found->mac = where & 0xFFFFFFFFFFFF;
    return 1;
}

static __always_inline int take_ipv4_bucket(__u32 number, __u32 tenant, __u32 address, int is_block,
                                            struct found *found)
{
    struct ipv4_bucket *bucket = bpf_map_lookup_elem(&ipv4_places, &number);

    return bucket && (take_ipv4_place(&bucket->places[0], tenant, address, is_block, found) ||
                      take_ipv4_place(&bucket->places[1], tenant, address, is_block, found) ||
                      take_ipv4_place(&bucket->places[2], tenant, address, is_block, found) ||
                      take_ipv4_place(&bucket->places[3], tenant, address, is_block, found));
}

static __always_inline int find_ipv4(const struct config *settings, __u32 tenant, __u32 address, int is_block,
                                     struct found *found)
{
    __u64 hash = ipv4_hash_of(settings, FIRST_SCOPE + 2 * tenant, address);

    found->hash = hash;
    return take_ipv4_bucket(first_bucket(hash, settings->ipv4_buckets), tenant, address, is_block, found) ||
           take_ipv4_bucket(second_bucket(hash, settings->ipv4_buckets), tenant, address, is_block, found);
}

static __always_inline int find_in_block(const struct config *settings, __u32 tenant, __u32 address,
                                         struct found *found)
{
    struct ipv4_block *block;
    __u32 number;
    __u64 place;

    if (!find_ipv4(settings, tenant, address & 0x00FFFFFF, 1, found))
        return 0;
    number = (__u32)found->mac;
    block = bpf_map_lookup_elem(&ipv4_blocks, &number);
    place = block ? VOLATILE(block->places[address >> 24]) : 0;
    if (!place)
        return 0;
    found->hash += (__u64)(address >> 24) << 7;
    found->peer = place >> 48;
    found->mac = place & 0xFFFFFFFFFFFF;
    return 1;
}

/* Find a record of a tenant's. */
static __noinline int find_record(const struct config *settings, __u32 tenant, int is_ipv6, const __u64 *address,
                                  struct found *found)
{
    if (is_ipv6)
        return find(settings, FIRST_SCOPE + 2 * tenant + 1, address[0], address[1], found);
    return find_in_block(settings, tenant, address[0], found) || find_ipv4(settings, tenant, address[0], 0, found);
}

/* What leads to an address that has no record here, and the address of the VM through which it does. */
enum { DIRECTLY = 16, NOWHERE };

static __noinline int look_up_route(__u32 tenant, int is_ipv6, const __u64 *address, __u64 *through)
{
    struct route_key key = {is_ipv6 ? 160 : 64, FIRST_SCOPE + 2 * tenant + is_ipv6, {address[0], address[1]}};
    struct route *route = bpf_map_lookup_elem(&routes, &key);

    if (!route || route->kind == ROUTE_SUBNET)
        return NOWHERE;
    through[0] = route->address[0];
    through[1] = route->address[1];
    return route->kind;
}

/* Find the record by which a packet for an address goes, and say what it has to do with it. */
static __always_inline int find_way(const struct config *settings, __u32 tenant, int is_ipv6, const __u64 *address,
                                    int may_be_behind, struct found *found)
{
    __u64 through[2] = {};
    int kind;

    if (find_record(settings, tenant, is_ipv6, address, found))
        return DIRECTLY;
    if (!may_be_behind)
        return NOWHERE;
    kind = look_up_route(tenant, is_ipv6, address, through);
    if (kind != ROUTE_ADDRESS)
        return kind;
    return find_record(settings, tenant, is_ipv6, through, found) ? ROUTE_ADDRESS : NOWHERE;
}

static __always_inline void count(const struct config *settings, __u32 tenant, __u32 outcome)
{
    __u32 index = (bpf_get_smp_processor_id() * settings->tenants + tenant) * OUTCOMES + outcome;
    __u64 *counter = bpf_map_lookup_elem(&counts, &index);

    if (counter)
        *counter += 1;
}

static __always_inline int drop(const struct config *settings, __u32 tenant, __u32 outcome)
{
    count(settings, tenant, outcome);
    return XDP_DROP;
}

enum taken { REFUSED, TAKEN, UNDECIDED };

/* Take time from a token bucket that is full for a burst, and empty where its debt reaches that far ahead. The clock
 * that is read first costs little and is some milliseconds late: only what it would refuse is asked of the exact one. Not all programs have it. */
static __always_inline enum taken take(__u64 *debt, __u64 cost, __u64 burst, int is_exact)
{
    __u64 now = is_exact ? bpf_ktime_get_ns() : bpf_ktime_get_coarse_ns();

    for (int attempt = 0; attempt < 8; attempt++) {
        __u64 old = VOLATILE(*debt);
        __u64 paid = (old > now ? old : now) + cost;

        if (paid - now > burst) {
            if (is_exact)
                return REFUSED;
            now = bpf_ktime_get_ns();
            is_exact = 1;
            continue;
        }
        if (__sync_val_compare_and_swap(debt, old, paid) == old)
            return TAKEN;
    }
    return UNDECIDED;
}

/* What a packet costs Python, in nanoseconds: one of a flow that it carries, or one that it has to think about. Each
 * tenant, and each sender whose source is not proven, may take half of a processor's time; of what a sender may, each
 * tenant may take half, so that one VM that floods leaves something to the others of its host. So many nanoseconds
 * of a bucket, which fills at the pace of the clock, are twice or four times those of Python. */
#define CARRYING 10000
#define THINKING 100000
#define PASSED_BURST 250000000

/* Take what a packet costs Python out of what its sender, or its tenant where the source is proven, may take. */
static __always_inline int is_too_much(const struct config *settings, __u32 tenant, __u32 peer, __u64 cost,
                                       int is_proven)
{
    __u32 slot = (__u32)ipv4_hash_of(settings, tenant, peer) & (UNPROVEN - 1);
    struct debts *debts;
    __u64 *unproven;

    if (is_proven)
        debts = bpf_map_lookup_elem(&tenant_debts, &tenant);
    else {
        debts = bpf_map_lookup_elem(&peer_debts, &peer);
        unproven = bpf_map_lookup_elem(&unproven_debts, &slot);
        if (unproven && take(unproven, 4 * cost, 2 * PASSED_BURST, 0) == REFUSED)
            return 1;
    }
    return debts && take(&debts->passed, 2 * cost, 2 * PASSED_BURST, 0) == REFUSED;
}

static __noinline int pass(const struct config *settings, __u32 tenant, __u32 peer, __u32 outcome)
{
    int is_carried = outcome == SITE || outcome == NOT_CARRIED || outcome == NO_NEXT_HOP || outcome == TEACH;

    if (is_too_much(settings, tenant, peer, is_carried ? CARRYING : THINKING, outcome >= SITE))
        return drop(settings, tenant, PUNT_LIMITED);
    count(settings, tenant, outcome);
    return XDP_PASS;
}

struct tuple {
    __u64 source[2];
    __u64 destination[2];
    __u64 source_place; /* the subnet's number, 0 for what is behind a VM, and 2^32 for IPv6 */
    __u64 destination_place;
    __u16 source_port;
    __u16 destination_port;
    __u8 protocol;
    __u8 is_ipv6;
    __u8 is_bare_syn;
};

/* Not 0 if an address is not at an end. */
static __always_inline __u64 misses(const struct end *end, const __u64 *address, __u64 place)
{
    return ((address[0] & end->address_mask[0]) ^ end->address[0]) |
           ((address[1] & end->address_mask[1]) ^ end->address[1]) | ((place & end->place_mask) ^ end->place);
}

/* The first rule that matches decides, and none denies: gateway.policies.access says more. All that a rule asks for
 * is computed without a branch, as each would have the verifier walk all further rules twice. */
static __noinline int may_pass(__u32 first, __u32 rule_count, const struct tuple *tuple, int is_reply)
{
    __s64 port = is_reply ? tuple->source_port : tuple->destination_port;

    for (__u32 i = 0; i < MOST_RULES; i++) {
        __u32 index = first + i;
        struct rule *rule;
        __u64 missed;

        if (i >= rule_count)
            break;
        rule = bpf_map_lookup_elem(&rules, &index);
        if (!rule)
            break;
        missed = (tuple->protocol & rule->protocol_mask) ^ rule->protocol;
        /* One of the two is negative outside the range. */
        missed |= (__u64)((port - rule->first_port) | (rule->last_port - port)) >> 63;
        missed |= misses(is_reply ? &rule->destination : &rule->source, tuple->source, tuple->source_place);
        missed |= misses(is_reply ? &rule->source : &rule->destination, tuple->destination, tuple->destination_place);
        if (!missed)
            return rule->allows;
    }
    return 0;
}

static __always_inline int is_denied(const struct tenant *tenant, const struct tuple *tuple)
{
    __u32 first = tenant->first_rule, rule_count = tenant->rules;

    if (!(tenant->flags & HAS_RULES) || may_pass(first, rule_count, tuple, 0))
        return 0;
    return tuple->is_bare_syn || !may_pass(first, rule_count, tuple, 1);
}

#endif
