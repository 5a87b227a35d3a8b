/* A generator and a sink of numbered NVGRE packets: the far ends of a gateway, in the kernel.
 *
 * `generate` is run by BPF_PROG_TEST_RUN with live frames. It makes each frame anew: from a talker to a record that is
 * drawn at random, with a number and the time in it. `sink` takes what the gateway sends, and judges each packet by
 * itself: by what it carries, and by where the one who changes records says that the record is, or was until when.
 * `pass` lets a driver redirect into an interface that has no program of the gateway's. tests/soak/numbered.py has the
 * same tables, and says what they mean.
 */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include "../../gateway/fastpath/helpers.h"

#define MAGIC 0x6973746d
#define GRE_FLAGS 0x0020     /* 0x2000 in the network's order: a key */
#define GRE_CHECKSUM 0x00a0  /* with a checksum besides: not NVGRE */
#define GRE_ETHERNET 0x5865
#define FIRST_SUFFIX 256     /* of the records' addresses within their subnet; talkers have the lower ones */
#define TALKER_SUFFIX 16
#define UNRECORDED_SUFFIX 0xf000
#define FIRST_PLACE 16       /* the last octet of the first place's address */
#define CHANGING (~0ULL)
#define PORT_ALLOWED 5001
#define PORT_DENIED 666
#define MARK_OCTETS 32
#define OFFENDERS 64
#define OFFENDER_OCTETS 192
#define HOT 256
#define SOON_AFTER 1000000ULL /* nanoseconds from a change to the first packets that show what has come of it */
#define SEEN_WORDS 65536

enum kind {
    ROUTED, SWITCHED, ALLOWED, DENIED, LIMITED, UNRECORDED, EXPIRED, NO_SUBNET, SPOOFED, NOT_NVGRE, CONGESTED, ELSEWHERE,
    KINDS = 16
};

enum judgement {
    RIGHT = 16, OLD_IN_TIME, STALE, WRONG_PLACE, WRONG_TENANT, MALFORMED, FORBIDDEN, UNKNOWN, TWICE, NOT_NVGRE_HERE, BACK
};

/* What else is counted, each by virtual subnet. */
#define TO_PACKETS 32
#define TO_OCTETS 48
#define FROM_PACKETS 64
#define FROM_OCTETS 80
#define BY_KIND 96
#define SOON 112
#define COUNTS 113

struct settings {
    __u8 gateway_mac[ETH_ALEN], own_mac[ETH_ALEN]; /* of the generator's link */
    __u32 shift;                                    /* 1 << shift records in each virtual subnet */
    __u8 gateway4[4], gateway6[16];
    __u32 links[2];                                 /* the sinks' interfaces */
    __u32 shared;                                   /* log2 of how many records have one MAC */
    __u32 chances[KINDS];                           /* of 65,536, each with those before it */
    __u32 unknown_vsid;
    __u32 hot;                                      /* of 256 packets to records, so many are to those changed lately */
};

struct subnet {
    __u32 vsid, tenant;
    __u32 first, count; /* the tenant's records */
    __u8 number;        /* within the tenant: part of its addresses */
    __u8 gateway_mac[ETH_ALEN];
    __u8 padding;
};

struct talker {
    __u8 pa4[4], pa6[16];
    __u8 other4[4]; /* of a host that may hold the tenant, and has not this talker */
};

struct place {
    __u8 address[16];
    __u32 is_six, link;
};

struct expectation {
    __u64 places; /* now, and before << 32 */
    __u64 since;  /* packets made later go to `now`; CHANGING: to either */
};

struct mark {
    __u32 magic, index;
    __u64 number, made;
    __u8 kind, from, padding[6];
};

struct offender {
    __u64 judgement, at, places, since;
    __u32 link, length;
    __u8 octets[OFFENDER_OCTETS];
};

struct gre {
    __u16 flags, protocol;
    __u32 key;
};

struct map_definition settings SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct settings), 1, BPF_F_MMAPABLE};
struct map_definition subnets SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct subnet), 16, BPF_F_MMAPABLE};
struct map_definition talkers SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct talker), 16, BPF_F_MMAPABLE};
struct map_definition places SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct place), 32, BPF_F_MMAPABLE};
struct map_definition records SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct expectation), 65536, BPF_F_MMAPABLE};
struct map_definition hot SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, 8, HOT, BPF_F_MMAPABLE};
struct map_definition counts SEC("maps") = {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, COUNTS, 0};
struct map_definition numbers SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, 8, 2, BPF_F_MMAPABLE};
struct map_definition seen SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, 8, SEEN_WORDS, BPF_F_MMAPABLE};
struct map_definition offenders SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct offender), OFFENDERS, BPF_F_MMAPABLE};
struct map_definition devices SEC("maps") = {BPF_MAP_TYPE_DEVMAP, 4, 4, 1, 0};

static __always_inline void add(__u32 what, __u64 by)
{
    __u64 *count = bpf_map_lookup_elem(&counts, &what);
    if (count)
        *count += by;
}

/* Internet checksums (RFC 1071), of whole 32-bit words. */

static __always_inline __u64 summed(const void *start, int octets)
{
    const __u32 *words = start;
    __u64 sum = 0;
#pragma unroll
    for (int n = 0; n < octets / 4; n++)
        sum += words[n];
    return sum;
}

static __always_inline __u16 folded(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

#define swapped16(NUMBER) __builtin_bswap16(NUMBER)
#define swapped32(NUMBER) __builtin_bswap32(NUMBER)

static __always_inline int is_six(__u32 index)
{
    return (index & 3) == 3;
}

static __always_inline void write_mac(__u8 *mac, __u8 number, __u32 suffix)
{
    mac[0] = 2;
    mac[1] = number;
    *(__u32 *)(mac + 2) = swapped32(suffix);
}

static __always_inline int has_mac(const __u8 *mac, __u8 number, __u32 suffix)
{
    return mac[0] == 2 && mac[1] == number && *(const __u32 *)(mac + 2) == swapped32(suffix);
}

static __always_inline __u32 address4(__u8 number, __u32 suffix)
{
    return swapped32(10u << 24 | (__u32)number << 16 | suffix);
}

static __always_inline void write_address6(__u32 *words, __u8 number, __u32 suffix)
{
    words[0] = swapped32(0xfd000000 | number);
    words[1] = 0;
    words[2] = 0;
    words[3] = swapped32(suffix);
}

static __always_inline int is_address6(const __u32 *words, __u8 number, __u32 suffix)
{
    return words[0] == swapped32(0xfd000000 | number) && !words[1] && !words[2] && words[3] == swapped32(suffix);
}

static __always_inline __u64 next_number(void)
{
    __u32 zero = 0;
    __u64 *number = bpf_map_lookup_elem(&numbers, &zero);
    if (!number)
        return 0;
    __u64 own = __sync_fetch_and_add(number, 1);
    if (own % 64 == 0) { /* what is seen is kept for half of the table */
        __u32 word = (own / 64 + SEEN_WORDS / 2) % SEEN_WORDS;
        __u64 *bits = bpf_map_lookup_elem(&seen, &word);
        if (bits)
            *bits = 0;
    }
    return own;
}

static __always_inline __u32 drawn_kind(const struct settings *set)
{
    __u32 chance = bpf_get_prandom_u32() & 0xffff;
#pragma unroll
    for (int kind = 0; kind < KINDS; kind++)
        if (chance < set->chances[kind])
            return kind;
    return ROUTED;
}

SEC("xdp") int generate(struct xdp_md *context)
{
    __u32 zero = 0;
    struct settings *set = bpf_map_lookup_elem(&settings, &zero);
    if (!set)
        return XDP_ABORTED;
    __u32 kind = drawn_kind(set);
    __u32 chance = bpf_get_prandom_u32();

    /* To whom: somebody of the tenant of the kind; half of those who are routed, to who has moved lately. */
    __u32 at = kind == ALLOWED || kind == DENIED ? 4 : kind == LIMITED ? 5 : 0;
    struct subnet *to = bpf_map_lookup_elem(&subnets, &at);
    if (!to)
        return XDP_ABORTED;
    __u32 index = to->first;
    if (kind == ROUTED && (chance & 0xff) < set->hot) {
        __u32 slot = chance >> 8 & (HOT - 1);
        __u64 *recent = bpf_map_lookup_elem(&hot, &slot);
        if (!recent)
            return XDP_ABORTED;
        index = *recent;
    } else {
        index += to->count ? bpf_get_prandom_u32() % to->count : 0;
    }
    at = index >> (set->shift & 31);
    to = bpf_map_lookup_elem(&subnets, &at);
    if (!to)
        return XDP_ABORTED;
    if (kind == ROUTED && to->tenant == 1)
        kind = ALLOWED;
    else if (kind == ROUTED && to->tenant == 2)
        kind = LIMITED;
    __u32 suffix = FIRST_SUFFIX + (index & ((1u << (set->shift & 31)) - 1));
    if (kind == UNRECORDED)
        suffix = UNRECORDED_SUFFIX | (suffix & 0xff);

    /* From whom: in the record's own virtual subnet if it is switched, else in any of the tenant. */
    __u32 from_at = at;
    if (kind != SWITCHED && to->tenant == 0)
        from_at = chance >> 16 & 3;
    struct subnet *from = bpf_map_lookup_elem(&subnets, &from_at);
    struct talker *talker = bpf_map_lookup_elem(&talkers, &from_at);
    if (!from || !talker)
        return XDP_ABORTED;
    int outer6 = chance >> 18 & 1, inner6 = is_six(index);
    if (kind == ELSEWHERE || kind == SPOOFED)
        outer6 = 0;

    int shorter = (outer6 ? 0 : 20) + (inner6 ? 0 : 20);
    if (shorter && bpf_xdp_adjust_tail(context, -shorter))
        return XDP_ABORTED;
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct ethhdr *ethernet = data;
    if ((void *)(ethernet + 1) > end)
        return XDP_ABORTED;
    __builtin_memcpy(ethernet->h_dest, set->gateway_mac, ETH_ALEN);
    __builtin_memcpy(ethernet->h_source, set->own_mac, ETH_ALEN);
    __u8 ecn = kind == CONGESTED ? 3 : 0;
    __u16 inside = sizeof(struct gre) + ETH_HLEN + (inner6 ? 40 : 20) + sizeof(struct udphdr) + MARK_OCTETS;
    struct gre *gre;
    if (outer6) {
        struct ipv6hdr *outer = (void *)(ethernet + 1);
        if ((void *)(outer + 1) > end)
            return XDP_ABORTED;
        ethernet->h_proto = swapped16(ETH_P_IPV6);
        *(__u32 *)outer = swapped32(0x60000000 | (__u32)ecn << 20);
        outer->payload_len = swapped16(inside);
        outer->nexthdr = IPPROTO_GRE;
        outer->hop_limit = 64;
        __builtin_memcpy(&outer->saddr, talker->pa6, 16);
        __builtin_memcpy(&outer->daddr, set->gateway6, 16);
        gre = (void *)(outer + 1);
    } else {
        struct iphdr *outer = (void *)(ethernet + 1);
        if ((void *)(outer + 1) > end)
            return XDP_ABORTED;
        ethernet->h_proto = swapped16(ETH_P_IP);
        *(__u16 *)outer = swapped16(0x4500 | ecn);
        outer->tot_len = swapped16(20 + inside);
        outer->id = 0;
        outer->frag_off = swapped16(0x4000);
        outer->ttl = 64;
        outer->protocol = IPPROTO_GRE;
        outer->check = 0;
        __builtin_memcpy(&outer->saddr, kind == ELSEWHERE ? talker->other4 : talker->pa4, 4);
        if (kind == SPOOFED)
            ((__u8 *)&outer->saddr)[3] = 250;
        __builtin_memcpy(&outer->daddr, set->gateway4, 4);
        outer->check = folded(summed(outer, 20));
        gre = (void *)(outer + 1);
    }
    struct ethhdr *frame = (void *)(gre + 1);
    if ((void *)(frame + 1) > end)
        return XDP_ABORTED;
    gre->flags = kind == NOT_NVGRE ? GRE_CHECKSUM : GRE_FLAGS;
    gre->protocol = GRE_ETHERNET;
    gre->key = swapped32((kind == NO_SUBNET ? set->unknown_vsid : from->vsid) << 8 | (chance >> 24));
    write_mac(frame->h_source, 255, from->number);
    if (kind == SWITCHED)
        write_mac(frame->h_dest, to->number, suffix >> (set->shared & 31) << (set->shared & 31));
    else
        __builtin_memcpy(frame->h_dest, from->gateway_mac, ETH_ALEN);

    __u64 sum = swapped16(IPPROTO_UDP) + (__u64)swapped16(sizeof(struct udphdr) + MARK_OCTETS);
    struct udphdr *udp;
    if (inner6) {
        struct ipv6hdr *inner = (void *)(frame + 1);
        if ((void *)(inner + 1) > end)
            return XDP_ABORTED;
        frame->h_proto = swapped16(ETH_P_IPV6);
        *(__u32 *)inner = swapped32(0x60000000);
        inner->payload_len = swapped16(sizeof(struct udphdr) + MARK_OCTETS);
        inner->nexthdr = IPPROTO_UDP;
        inner->hop_limit = kind == EXPIRED ? 1 : 64;
        write_address6((void *)&inner->saddr, from->number, TALKER_SUFFIX);
        write_address6((void *)&inner->daddr, to->number, suffix);
        sum += summed(&inner->saddr, 32);
        udp = (void *)(inner + 1);
    } else {
        struct iphdr *inner = (void *)(frame + 1);
        if ((void *)(inner + 1) > end)
            return XDP_ABORTED;
        frame->h_proto = swapped16(ETH_P_IP);
        *(__u16 *)inner = swapped16(0x4500);
        inner->tot_len = swapped16(20 + sizeof(struct udphdr) + MARK_OCTETS);
        inner->id = 0;
        inner->frag_off = swapped16(0x4000);
        inner->ttl = kind == EXPIRED ? 1 : 64;
        inner->protocol = IPPROTO_UDP;
        inner->check = 0;
        inner->saddr = address4(from->number, TALKER_SUFFIX);
        inner->daddr = address4(to->number, suffix);
        inner->check = folded(summed(inner, 20));
        sum += summed(&inner->saddr, 8);
        udp = (void *)(inner + 1);
    }
    struct mark *mark = (void *)(udp + 1);
    if ((void *)(mark + 1) > end)
        return XDP_ABORTED;
    udp->source = chance >> 8 | swapped16(0x8000); /* never the allowed one: that would be a reply */
    udp->dest = swapped16(kind == DENIED ? PORT_DENIED : PORT_ALLOWED);
    udp->len = swapped16(sizeof(struct udphdr) + MARK_OCTETS);
    udp->check = 0;
    mark->magic = MAGIC;
    mark->index = index;
    mark->number = next_number();
    mark->kind = kind;
    mark->from = from_at;
    __builtin_memset(mark->padding, 0, sizeof(mark->padding));
    add(kind, 1);
    mark->made = bpf_ktime_get_ns();
    udp->check = folded(sum + summed(udp, sizeof(struct udphdr) + MARK_OCTETS));
    if (!udp->check)
        udp->check = 0xffff;
    return bpf_redirect_map(&devices, 0, XDP_ABORTED);
}

/* What a packet is judged by, and what is known of it then. */
struct judged {
    __u32 judgement, link;
    __u64 places, since;
};

static __always_inline int is_seen_already(__u64 number)
{
    __u32 word = number / 64 % SEEN_WORDS;
    __u64 bit = 1ULL << (number % 64);
    __u64 *bits = bpf_map_lookup_elem(&seen, &word);
    return bits && (__sync_fetch_and_or(bits, bit) & bit) != 0;
}

/* The place that a packet has been sent to, by its outer header; NULL: to nobody, or not as we send. */
static __always_inline struct place *sent_to(const struct settings *set, void *outer_start, void *end, int six, int ttl)
{
    __u32 at;
    struct place *place;
    if (six) {
        struct ipv6hdr *outer = outer_start;
        if ((void *)(outer + 1) > end)
            return 0;
        at = outer->daddr.s6_addr[15] - FIRST_PLACE;
        place = bpf_map_lookup_elem(&places, &at);
        const __u64 *named = (void *)&outer->daddr, *source = (void *)&outer->saddr;
        if (!place || !place->is_six || *(__u32 *)outer != swapped32(0x60000000) || outer->hop_limit != ttl)
            return 0;
        if (named[0] != *(__u64 *)place->address || named[1] != *(__u64 *)(place->address + 8))
            return 0;
        if (source[0] != *(__u64 *)set->gateway6 || source[1] != *(__u64 *)(set->gateway6 + 8))
            return 0;
        if ((void *)(outer + 1) + swapped16(outer->payload_len) != end)
            return 0;
        return place;
    }
    struct iphdr *outer = outer_start;
    if ((void *)(outer + 1) > end)
        return 0;
    at = (swapped32(outer->daddr) & 0xff) - FIRST_PLACE;
    place = bpf_map_lookup_elem(&places, &at);
    if (!place || place->is_six || outer->daddr != *(__u32 *)place->address)
        return 0;
    if (outer->saddr != *(__u32 *)set->gateway4 || *(__u16 *)outer != swapped16(0x4500) || outer->ttl != ttl)
        return 0;
    if (outer->frag_off != swapped16(0x4000) || folded(summed(outer, 20)))
        return 0;
    return outer_start + swapped16(outer->tot_len) == end ? place : 0;
}

static __always_inline void judge(struct xdp_md *context, const struct settings *set, int six, struct judged *found)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    void *outer = data + ETH_HLEN;
    struct gre *gre = outer + (six ? 40 : 20);
    struct ethhdr *frame = (void *)(gre + 1);
    found->judgement = UNKNOWN;
    if ((void *)(frame + 1) > end || gre->flags != GRE_FLAGS || gre->protocol != GRE_ETHERNET)
        return;

    /* The inner packet as it says itself. */
    __u64 sum = swapped16(IPPROTO_UDP) + (__u64)swapped16(sizeof(struct udphdr) + MARK_OCTETS);
    int inner6 = frame->h_proto == swapped16(ETH_P_IPV6), ttl;
    struct iphdr *inner4 = (void *)(frame + 1);
    struct ipv6hdr *inner = (void *)(frame + 1);
    struct udphdr *udp;
    int sound;
    if (inner6) {
        if ((void *)(inner + 1) > end)
            return;
        ttl = inner->hop_limit;
        sound = *(__u32 *)inner == swapped32(0x60000000) && inner->nexthdr == IPPROTO_UDP &&
                inner->payload_len == swapped16(sizeof(struct udphdr) + MARK_OCTETS);
        sum += summed(&inner->saddr, 32);
        udp = (void *)(inner + 1);
    } else {
        if ((void *)(inner4 + 1) > end || frame->h_proto != swapped16(ETH_P_IP))
            return;
        ttl = inner4->ttl;
        sound = *(__u16 *)inner4 == swapped16(0x4500) && inner4->protocol == IPPROTO_UDP && !folded(summed(inner4, 20)) &&
                inner4->tot_len == swapped16(20 + sizeof(struct udphdr) + MARK_OCTETS);
        sum += summed(&inner4->saddr, 8);
        udp = (void *)(inner4 + 1);
    }
    struct mark *mark = (void *)(udp + 1);
    if ((void *)(mark + 1) > end || mark->magic != MAGIC)
        return;
    found->judgement = MALFORMED;
    if (!sound || (void *)(mark + 1) != end || folded(sum + summed(udp, sizeof(struct udphdr) + MARK_OCTETS)))
        return;

    /* Whose it is, and that the gateway has done to it what it should. */
    __u32 index = mark->index, kind = mark->kind, from_at = mark->from, at = index >> (set->shift & 31);
    struct subnet *to = bpf_map_lookup_elem(&subnets, &at), *from = bpf_map_lookup_elem(&subnets, &from_at);
    struct expectation *expected = bpf_map_lookup_elem(&records, &index);
    if (!to || !from || !expected || !to->count)
        return;
    __u32 vsid = swapped32(gre->key) >> 8, suffix = FIRST_SUFFIX + (index & ((1u << (set->shift & 31)) - 1));
    if (vsid != to->vsid || to->tenant != from->tenant) {
        found->judgement = WRONG_TENANT;
        return;
    }
    if (!has_mac(frame->h_dest, to->number, suffix >> (set->shared & 31) << (set->shared & 31)))
        return;
    if (kind == SWITCHED) {
        if (!has_mac(frame->h_source, 255, from->number) || ttl != 64)
            return;
    } else {
        for (int n = 0; n < ETH_ALEN; n++)
            if (frame->h_source[n] != to->gateway_mac[n])
                return;
        if (ttl != 63)
            return;
    }
    if (inner6) {
        if (!is_address6((void *)&inner->saddr, from->number, TALKER_SUFFIX) ||
            !is_address6((void *)&inner->daddr, to->number, suffix))
            return;
    } else if (inner4->saddr != address4(from->number, TALKER_SUFFIX) || inner4->daddr != address4(to->number, suffix)) {
        return;
    }
    if (inner6 != is_six(index))
        return;
    struct place *place = sent_to(set, outer, end, six, kind == SWITCHED ? 63 : 64);
    if (!place)
        return;

    /* Where it has been sent to. A change that begins or ends between the two looks is one under way. */
    __u64 since = *(volatile __u64 *)&expected->since;
    found->places = *(volatile __u64 *)&expected->places;
    found->since = *(volatile __u64 *)&expected->since;
    if (since != found->since)
        found->since = CHANGING;
    __u32 number = place->address[place->is_six ? 15 : 3] - FIRST_PLACE;
    if (place->link >= 2 || set->links[place->link & 1] != context->ingress_ifindex)
        found->judgement = WRONG_PLACE;
    else if (number == (__u32)found->places)
        found->judgement = RIGHT;
    else if (number != (__u32)(found->places >> 32))
        found->judgement = WRONG_PLACE;
    else
        found->judgement = mark->made > found->since ? STALE : OLD_IN_TIME;
    if (kind != ROUTED && kind != SWITCHED && kind != ALLOWED && kind != LIMITED && kind != ELSEWHERE)
        found->judgement = FORBIDDEN;
    if (is_seen_already(mark->number))
        found->judgement = TWICE;
    if (found->judgement == RIGHT || found->judgement == OLD_IN_TIME) {
        __u32 octets = (inner6 ? 40 : 20) + sizeof(struct udphdr) + MARK_OCTETS;
        add(TO_PACKETS + (at & 15), 1);
        add(TO_OCTETS + (at & 15), octets);
        add(FROM_PACKETS + (from_at & 15), 1);
        add(FROM_OCTETS + (from_at & 15), octets);
        add(BY_KIND + (kind & 15), 1);
        if (mark->made - found->since < SOON_AFTER)
            add(SOON, 1);
    }
}

static __always_inline void keep(struct xdp_md *context, const struct judged *found)
{
    __u32 one = 1;
    __u64 *next = bpf_map_lookup_elem(&numbers, &one);
    if (!next)
        return;
    __u64 slot = __sync_fetch_and_add(next, 1);
    if (slot >= OFFENDERS)
        return;
    __u32 at = slot;
    struct offender *kept = bpf_map_lookup_elem(&offenders, &at);
    if (!kept)
        return;
    kept->judgement = found->judgement;
    kept->places = found->places;
    kept->since = found->since;
    kept->at = bpf_ktime_get_ns();
    kept->link = context->ingress_ifindex;
    __u8 *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    kept->length = end - data;
    for (int n = 0; n < OFFENDER_OCTETS && data + n + 1 <= end; n++)
        kept->octets[n] = data[n];
}

/* Which outer family NVGRE comes in: 4 or 6; 0 is anything else. */
static __always_inline int nvgre_family(struct xdp_md *context)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct ethhdr *ethernet = data;
    struct iphdr *four = (void *)(ethernet + 1);
    struct ipv6hdr *six = (void *)(ethernet + 1);
    if ((void *)(four + 1) <= end && ethernet->h_proto == swapped16(ETH_P_IP) && four->protocol == IPPROTO_GRE)
        return 4;
    if ((void *)(six + 1) <= end && ethernet->h_proto == swapped16(ETH_P_IPV6) && six->nexthdr == IPPROTO_GRE)
        return 6;
    return 0;
}

SEC("xdp") int sink(struct xdp_md *context)
{
    __u32 zero = 0;
    struct settings *set = bpf_map_lookup_elem(&settings, &zero);
    int family = nvgre_family(context);
    if (!set || !family) {
        add(NOT_NVGRE_HERE, 1);
        return XDP_PASS;
    }
    struct judged found = {};
    if (family == 4)
        judge(context, set, 0, &found);
    else
        judge(context, set, 1, &found);
    add(found.judgement, 1);
    if (found.judgement != RIGHT && found.judgement != OLD_IN_TIME)
        keep(context, &found);
    return XDP_DROP;
}

/* At the generator's own end: what the gateway tells the talkers. */
SEC("xdp") int back(struct xdp_md *context)
{
    if (!nvgre_family(context))
        return XDP_PASS;
    add(BACK, 1);
    return XDP_DROP;
}

SEC("xdp") int pass(struct xdp_md *context)
{
    return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
