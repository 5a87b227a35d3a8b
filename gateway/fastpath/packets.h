/* What a packet says, read as gateway.packets reads it, and the checksums of what is changed in it. */
#ifndef ISTHMUS_PACKETS_H
#define ISTHMUS_PACKETS_H

#include "deciding.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the tables are written for machines that put the lowest octet first"
#endif

#define NETWORK16(X) ((__u16)((((X)&0xFF) << 8) | ((X) >> 8 & 0xFF)))
#define swap16(X) __builtin_bswap16(X)
#define swap32(X) __builtin_bswap32(X)

enum { ETHERNET_LENGTH = 14, IPV4_LENGTH = 20, IPV6_LENGTH = 40, GRE_LENGTH = 8 };
enum { ETHERTYPE_IPV4 = NETWORK16(0x0800), ETHERTYPE_IPV6 = NETWORK16(0x86DD) };
enum { ICMP = 1, TCP = 6, UDP = 17, GRE = 47, ICMPV6 = 58 };
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, AUTHENTICATION = 51, DESTINATION = 60 }; /* of IPv6 */
enum { SYN = 0x02, ACK = 0x10 };
enum { NOT_ECT, ECT_1, ECT_0, CE };

/* Flag bits 6 to 12 are ignored on receipt (RFC 2784 section 2.3); the key is there, and nothing else is. */
#define GRE_SIGNIFICANT NETWORK16(0xFC07)
#define GRE_KEY NETWORK16(0x2000)
#define GRE_ETHERNET NETWORK16(0x6558)

struct ethernet {
    __u8 destination[6];
    __u8 source[6];
    __u16 type;
};

struct ipv4 {
    __u8 version_and_length;
    __u8 service;
    __u16 total;
    __u16 identification;
    __u16 fragment;
    __u8 ttl;
    __u8 protocol;
    __u16 checksum;
    __u32 source;
    __u32 destination;
};

struct ipv6 {
    __u16 first;
    __u16 flow_label;
    __u16 payload;
    __u8 next_header;
    __u8 hop_limit;
    __u64 source[2];
    __u64 destination[2];
};

struct gre {
    __u16 flags;
    __u16 protocol;
    __u32 key; /* VSID, and FlowID in the last octet */
};

#define MOST_EXTENSIONS 8

/* Whether an IPv6 packet is GRE behind extension headers, of which the first is at `at` and of this type. One with more
 * of them than anybody needs is taken for such. */
static __noinline int is_gre_behind(const __u8 *at, const void *end, __u8 type)
{
    for (int i = 0; i < MOST_EXTENSIONS; i++) {
        __u32 length;

        if (type == GRE)
            return 1;
        if ((type != HOP_BY_HOP && type != ROUTING && type != FRAGMENT && type != DESTINATION) ||
            at + 8 > (const __u8 *)end)
            return 0;
        length = type == FRAGMENT ? 8 : (at[1] + 1) * 8;
        type = at[0];
        at += length;
    }
    return 1;
}

/* How long a frame is. The compiler is kept from doing sums with the pointers, which the verifier would not have. */
static __always_inline __u64 length_of(const struct xdp_md *context)
{
    __u64 length = (long)context->data_end - (long)context->data;

    asm volatile("" : "+r"(length));
    return length;
}

/* An inner packet. Its ports and flags are 0 where its protocol has none. */
struct packet {
    struct tuple tuple;
    __u32 total;
    __u8 hop_limit;
    __u8 ecn;
    __u8 tcp_flags;
};

static __always_inline __u32 folded(__u32 sum)
{
    sum = (sum & 0xFFFF) + (sum >> 16);
    return (sum & 0xFFFF) + (sum >> 16);
}

/* The sum of a header without options: 0xFFFF if it holds its right checksum, unless it is all zeros. */
static __always_inline __u32 sum_of(const struct ipv4 *header)
{
    const __u32 *word = (const __u32 *)header;
    __u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];

    /* Two of its sums of 16 bits lie side by side in each word, and what they carry above the second. */
    sum = (sum & 0xFFFFFFFF) + (sum >> 32);
    sum = (sum & 0xFFFF) + (sum >> 16 & 0xFFFF) + (sum >> 32);
    return folded(sum);
}

/* RFC 1624, equation 3. The order of octets does not matter to it. */
static __always_inline __u16 updated(__u16 checksum, __u16 old, __u16 new)
{
    return 0xFFFF - folded(0x1FFFE - checksum - old + new);
}

/* Read an inner packet that `space` octets are there for. Returns an outcome if it is not to be carried here; else a
 * negative number. */
static __always_inline int read_inner(const void *start, const void *end, int is_ipv6, __u32 space, int has_rules,
                                      struct packet *packet)
{
    struct tuple *tuple = &packet->tuple;
    const __u8 *upper;
    __u32 length;

    if (is_ipv6) {
        const struct ipv6 *header = start;
        if ((const void *)(header + 1) > end || (header->first & 0xF0) != 0x60)
            return UNUSUAL;
        length = swap16(header->payload);
        packet->total = length + IPV6_LENGTH;
        packet->hop_limit = header->hop_limit;
        packet->ecn = header->first >> 12 & 3;
        tuple->protocol = header->next_header;
        tuple->source[0] = header->source[0];
        tuple->source[1] = header->source[1];
        tuple->destination[0] = header->destination[0];
        tuple->destination[1] = header->destination[1];
        upper = (const __u8 *)(header + 1);
        if (tuple->protocol == HOP_BY_HOP || tuple->protocol == ROUTING || tuple->protocol == FRAGMENT ||
            tuple->protocol == AUTHENTICATION || tuple->protocol == DESTINATION)
            return UNUSUAL;
    } else {
        const struct ipv4 *header = start;
        if ((const void *)(header + 1) > end || header->version_and_length != 0x45 ||
            header->fragment & NETWORK16(0x3FFF) || sum_of(header) != 0xFFFF)
            return UNUSUAL;
        packet->total = swap16(header->total);
        if (packet->total < IPV4_LENGTH)
            return UNUSUAL;
        length = packet->total - IPV4_LENGTH;
        packet->hop_limit = header->ttl;
        packet->ecn = header->service & 3;
        tuple->protocol = header->protocol;
        tuple->source[0] = header->source;
        tuple->source[1] = 0;
        tuple->destination[0] = header->destination;
        tuple->destination[1] = 0;
        upper = (const __u8 *)(header + 1);
    }
    if (packet->total > space)
        return UNUSUAL;
    tuple->source_port = tuple->destination_port = 0;
    tuple->is_ipv6 = is_ipv6;
    tuple->is_bare_syn = 0;
    packet->tcp_flags = 0;
    if (tuple->protocol == UDP) {
        __u16 claimed;
        if (length < 8 || upper + 8 > (const __u8 *)end)
            return UNUSUAL;
        claimed = swap16(*(const __u16 *)(upper + 4));
        if (claimed < 8 || claimed > length)
            return UNUSUAL;
    } else if (tuple->protocol == TCP) {
        __u32 header_length;
        if (length < 20 || upper + 20 > (const __u8 *)end)
            return UNUSUAL;
        header_length = upper[12] >> 4 << 2;
        if (header_length < 20 || header_length > length)
            return UNUSUAL;
        packet->tcp_flags = upper[13];
        tuple->is_bare_syn = (packet->tcp_flags & (SYN | ACK)) == SYN;
    } else {
        if (tuple->protocol == (is_ipv6 ? ICMPV6 : ICMP)) {
            __u8 type;
            if (length < 8 || upper + 8 > (const __u8 *)end)
                return UNUSUAL;
            type = upper[0];
            if (is_ipv6 && type >= 133 && type <= 137)
                return NEIGHBOUR;
            if (has_rules && (is_ipv6 ? type < 128 : type == 3 || type == 4 || type == 5 || type == 11 || type == 12))
                return ICMP_ERROR;
        }
        return -1;
    }
    tuple->source_port = swap16(*(const __u16 *)upper);
    tuple->destination_port = swap16(*(const __u16 *)(upper + 2));
    return -1;
}

static __always_inline __u64 mixed(__u64 hash, __u64 word)
{
    hash = (hash ^ word) * 0x9E3779B97F4A7C15;
    return hash ^ hash >> 32;
}

/* The FlowID: gateway.packets.transport.flow_id. */
static __always_inline __u8 flow_id(const struct tuple *tuple)
{
    __u64 rest = tuple->destination_port | (__u64)tuple->source_port << 16 | (__u64)tuple->protocol << 32;
    __u64 hash;

    if (tuple->is_ipv6) {
        hash = mixed(mixed(0, tuple->source[0]), tuple->source[1]);
        hash = mixed(mixed(hash, tuple->destination[0]), tuple->destination[1]);
    } else
        hash = mixed(0, tuple->source[0] | tuple->destination[0] << 32);
    return mixed(hash, rest);
}

#endif
