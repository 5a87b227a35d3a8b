/* The tables by which the fast path decides. Python writes them through shared memory: gateway/fastpath/layout.py has
 * the same shapes, and tests hold the two together.
 *
 * Every entry is written in stores of eight octets, of which the one that makes it valid comes last. What can
 * change under a reader's eyes is a `place`, which carries a sequence number for that; all else is changed only
 * while nobody can reach it.
 */
#ifndef ISTHMUS_TABLES_H
#define ISTHMUS_TABLES_H

#include "helpers.h"

#define MMAPABLE (1U << 10)

/* What is counted of each tenant: reasons for a drop, then reasons for leaving a packet to Python. */
enum outcome {
    NOT_NVGRE,
    UNKNOWN_VSID,
    SPOOFED_SOURCE,
    ACCESS_DENIED,
    CONGESTION,
    RATE_LIMITED,
    PUNT_LIMITED,
    FIRST_PASSED = 16,
    UNUSUAL_OUTER = FIRST_PASSED, /* what the kernel alone reads of GRE: options, fragments, extension headers */
    NOT_CARRIED,                  /* the tenant is not for this program, or not now */
    GROUP,                        /* to everybody in the virtual subnet */
    NOT_IP,                       /* ARP, and what is no packet at all */
    UNUSUAL,                      /* options, fragments, extension headers, or malformed */
    NEIGHBOUR,                    /* neighbour discovery */
    ICMP_ERROR,                   /* in a tenant with access rules, which judge what it quotes */
    SOURCE,                       /* no record says that its source is behind this sender */
    SITE,
    NO_RECORD,
    NO_NEXT_HOP,
    TOO_BIG,
    HOP_LIMIT,
    TEACH, /* so that Python tells its sender where the destination is */
    CONTENDED,
    OUTCOMES = 32,
};

#define OWN_ADDRESSES 8
#define INTERFACES 8

struct interface {
    __u32 index;
    __u8 mac[6];
    __u16 unused;
};

enum { CARRIES = 1, TEACHES = 2 };

struct config {
    __u32 flags;
    __u32 buckets; /* of `places` */
    __u64 seed;
    __u32 ipv4_buckets; /* of `ipv4_places` */
    __u32 subnets;      /* how many there is room for */
    __u32 tenants;
    __u32 ipv4_addresses; /* how many of our provider addresses follow */
    __u32 ipv6_addresses;
    __u32 unused;
    __u32 ipv4[OWN_ADDRESSES];
    __u64 ipv6[OWN_ADDRESSES][2];
    struct interface interfaces[INTERFACES];
};

/* Whose addresses a place's are. Those of tenant t are FIRST_SCOPE + 2 t, and one more for IPv6. */
enum { NOBODYS, VSIDS, IPV4_PEERS, IPV6_PEERS, FIRST_SCOPE = 16 };

/* A tenant's IPv4 address -> virtual subnet, peer, and MAC. Whose it is, is the subnet's tenant. */
struct ipv4_place {
    __u64 address; /* address: 32 bits, peer: 20, sequence number: 6, the lower 6 of the subnet's 22 */
    __u64 where;   /* MAC: 48, the upper 16 of the subnet's 22 */
};

struct ipv4_bucket {
    struct ipv4_place places[4];
};

/* Where many addresses differ in their last octet alone, they are in a block, by that octet: MAC in 48 bits and peer in
 * 16, or 0. That is a quarter of what a bucket takes for each, and one line of a cache for eight that are neighbours. The
 * place of the address whose last octet is 0 has the block's number for a MAC then, and this for a peer. */
#define IS_BLOCK 0xFFFFF

struct ipv4_block {
    __u64 places[256];
};

/* (scope, address) -> virtual subnet, peer, and MAC, for all else. A provider address of IPv4, or a VSID, is all
 * of the first word; a VSID has its subnet's number for a peer, so that a single store changes it. */
struct place {
    __u64 address[2];
    __u64 whose; /* scope: 24 bits, sequence number: 8, peer: 24, the lower 8 of the subnet's 24 */
    __u64 where; /* MAC: 48, the upper 16 of the subnet's 24 */
};

/* One cache line. An address has two buckets that it may be in. */
struct bucket {
    struct place places[2];
};

struct subnet {
    __u32 vsid;
    __u32 tenant;
};

enum { IS_CARRIED = 1, IS_LIMITED = 2, HAS_RULES = 4 };

struct tenant {
    __u32 flags;
    __u32 rules; /* how many: those that can be about what is carried here */
    __u32 first_rule;
    __u32 unused;
    __u64 octet_cost; /* nanoseconds for each octet, times 2^20 */
    __u64 burst;      /* nanoseconds */
};

/* A provider address of the underlay's: of which host, and how it is reached. Host 0 is a gateway. */
struct peer {
    __u32 host;
    __u32 hop; /* 0: it cannot be, now */
};

enum { OVER_IPV6 = 1, ZERO_FLOW_ID = 2, NO_IPV6 = 4 };

/* How a peer is reached. Never changed: a peer is given another one. */
struct hop {
    __u16 flags;
    __u16 port; /* in `ports` */
    __u16 ipv4_mtu; /* the largest inner packet */
    __u16 ipv6_mtu;
    __u8 macs[12]; /* the neighbour's, and ours */
    __u32 unused;
    __u64 source[2];
    __u64 destination[2];
    __u64 reserved;
};

/* One end of a rule: what is masked of a packet's is to be equal. A place is a subnet's number, and 2^32 for IPv6. */
struct end {
    __u64 address[2];
    __u64 address_mask[2];
    __u64 place;
    __u64 place_mask;
};

struct rule {
    __u16 first_port;
    __u16 last_port;
    __u8 protocol;
    __u8 protocol_mask;
    __u8 allows;
    __u8 unused;
    struct end source;
    struct end destination;
};

#define MOST_RULES 64

enum { ROUTE_SUBNET, ROUTE_SITE, ROUTE_ADDRESS };

struct route_key {
    __u32 length; /* in bits, with those of the scope */
    __u32 scope;
    __u64 address[2];
};

struct route {
    __u64 kind;
    __u64 address[2];
};

struct meter {
    __u64 sent_packets;
    __u64 sent_octets;
    __u64 received_packets;
    __u64 received_octets;
};

/* Until when a rate is used up, in nanoseconds of the monotonic clock: a token bucket in one word. */
struct debts {
    __u64 rate;
    __u64 passed;
};

#define TAUGHT 65536
#define UNPROVEN 16384

#define SHARED(NAME, TYPE)                                                                                             \
    struct map_definition NAME SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(TYPE), 1, MMAPABLE}

/* How many entries each has is said when the program is loaded. */
SHARED(config, struct config);
SHARED(places, struct bucket);
SHARED(ipv4_places, struct ipv4_bucket);
SHARED(ipv4_blocks, struct ipv4_block);
SHARED(subnets, struct subnet);
SHARED(tenants, struct tenant);
SHARED(peers, struct peer);
SHARED(hops, struct hop);
SHARED(rules, struct rule);
SHARED(meters, struct meter); /* of each subnet, for each processor */
SHARED(counts, __u64);        /* of each outcome of each tenant, for each processor */
struct map_definition routes SEC("maps") = {BPF_MAP_TYPE_LPM_TRIE, sizeof(struct route_key), sizeof(struct route),
                                            1, BPF_F_NO_PREALLOC};
struct map_definition tenant_debts SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct debts), 1, 0};
struct map_definition peer_debts SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct debts), 1, 0};
/* Of what a tenant sends by a peer, before any source is proven: two of them in one is seldom, and does no harm. */
struct map_definition unproven_debts SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(__u64), UNPROVEN, 0};
struct map_definition taught SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(__u32), TAUGHT, 0};
struct map_definition ports SEC("maps") = {BPF_MAP_TYPE_DEVMAP, 4, 4, INTERFACES, 0};

#endif
