/* How a packet is changed that goes on: the inner one, and all that is written in front of it. */
#ifndef ISTHMUS_CHANGING_H
#define ISTHMUS_CHANGING_H

#include "packets.h"

/* What is known of a packet when it is decided that it goes on. */
struct carriage {
    struct found destination;
    __u32 source_subnet; /* 0: it is behind a VM */
    __u8 is_routed;
    __u8 new_ecn;
    __u8 old_octets; /* of the outer IP header */
};

/* RFC 6040 section 4.2; CE on a packet that cannot carry it has been dropped. */
static __always_inline __u8 ecn_on_arrival(__u8 inner, __u8 outer)
{
    if (outer == CE)
        return CE;
    return outer == ECT_1 && inner == ECT_0 ? ECT_1 : inner;
}

/* Lower the segment size that a SYN offers (gateway.packets.transport.clamp_mss): each of them, wherever it is. */
static __always_inline void clamp_mss(__u8 *tcp, const void *end, __u32 limit)
{
    __u32 header_length, position = 20;

    if ((void *)(tcp + 20) > end)
        return;
    header_length = tcp[12] >> 4 << 2;
    for (int i = 0; i < 40; i++) {
        __u8 *option, kind, length;

        position &= 63;
        if (position + 1 >= header_length)
            return;
        option = tcp + position;
        if ((void *)(option + 4) > end)
            return;
        kind = option[0];
        length = option[1];
        if (kind == 0)
            return;
        if (kind == 1) {
            position++;
            continue;
        }
        if (length < 2 || position + length > header_length)
            return;
        if (kind == 2 && length == 4) {
            __u16 offered = option[2] << 8 | option[3];
            if (offered > limit) {
                __u16 *checksum = (__u16 *)(tcp + 16);
                option[2] = limit >> 8;
                option[3] = limit;
                /* Where it straddles two words of the sum, that is the same as its octets swapped. */
                if (position & 1)
                    *checksum = updated(*checksum, offered, limit);
                else
                    *checksum = updated(*checksum, swap16(offered), swap16(limit));
            }
        }
        position += length;
    }
}

/* Change the inner packet: one hop older if it is routed, with the mark of the underlay, its segments within the path. */
static __always_inline int change_inner(void *inner, const void *end, const struct packet *packet,
                                        const struct carriage *carriage, __u32 mss_limit)
{
    if (packet->tuple.is_ipv6) {
        struct ipv6 *header = inner;
        if ((void *)(header + 1) > end)
            return 0;
        if (carriage->new_ecn != packet->ecn)
            header->first = (header->first & 0xCFFF) | carriage->new_ecn << 12;
        header->hop_limit -= carriage->is_routed;
    } else {
        struct ipv4 *header = inner;
        if ((void *)(header + 1) > end)
            return 0;
        if (carriage->new_ecn != packet->ecn) {
            __u16 old = *(__u16 *)header;
            header->service = (header->service & 0xFC) | carriage->new_ecn;
            header->checksum = updated(header->checksum, old, *(__u16 *)header);
        }
        if (carriage->is_routed) {
            header->checksum = updated(header->checksum, header->ttl, header->ttl - 1);
            header->ttl--;
        }
    }
    if (packet->tcp_flags & SYN)
        clamp_mss(inner + (packet->tuple.is_ipv6 ? IPV6_LENGTH : IPV4_LENGTH), end, mss_limit);
    return 1;
}

static __always_inline void write_ethernet(struct ethernet *header, const struct hop *hop, __u16 type)
{
    *(__u64 *)header = *(const __u64 *)hop->macs;
    *(__u32 *)((__u64 *)header + 1) = *(const __u32 *)(hop->macs + 8);
    header->type = type;
}

/* Write everything in front of the inner packet. The outer ECN field is the inner one's (RFC 6040 section 4.1). */
static __always_inline int write_outer(struct xdp_md *context, const struct hop *hop, const struct packet *packet,
                                       const struct carriage *carriage, __u32 vsid, __u8 hop_limit)
{
    void *start = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    __u32 length = GRE_LENGTH + ETHERNET_LENGTH + packet->total;
    struct ethernet *outer = start, *inner;
    struct gre *gre;

    if (hop->flags & OVER_IPV6) {
        struct ipv6 *header = (void *)(outer + 1);
        gre = (void *)(header + 1);
        inner = (void *)(gre + 1);
        if ((void *)(inner + 1) > end)
            return 0;
        write_ethernet(outer, hop, ETHERTYPE_IPV6);
        header->first = NETWORK16(0x6000) | carriage->new_ecn << 12;
        header->flow_label = 0;
        header->payload = swap16(length);
        header->next_header = GRE;
        header->hop_limit = hop_limit;
        header->source[0] = hop->source[0];
        header->source[1] = hop->source[1];
        header->destination[0] = hop->destination[0];
        header->destination[1] = hop->destination[1];
    } else {
        struct ipv4 *header = (void *)(outer + 1);
        gre = (void *)(header + 1);
        inner = (void *)(gre + 1);
        if ((void *)(inner + 1) > end)
            return 0;
        write_ethernet(outer, hop, ETHERTYPE_IPV4);
        header->version_and_length = 0x45;
        header->service = carriage->new_ecn;
        header->total = swap16(IPV4_LENGTH + length);
        header->identification = 0;
        header->fragment = NETWORK16(0x4000);
        header->ttl = hop_limit;
        header->protocol = GRE;
        header->checksum = 0;
        header->source = hop->source[0];
        header->destination = hop->destination[0];
        header->checksum = 0xFFFF - sum_of(header);
    }
    gre->flags = GRE_KEY;
    gre->protocol = GRE_ETHERNET;
    gre->key = swap32(vsid << 8 | (hop->flags & ZERO_FLOW_ID ? 0 : flow_id(&packet->tuple)));
    if (carriage->is_routed) {
        /* From the subnet's gateway, whose MAC is made of the VSID: policies.addresses.gateway_mac. */
        *(__u32 *)inner->destination = carriage->destination.mac;
        *(__u16 *)(inner->destination + 4) = carriage->destination.mac >> 32;
        *(__u16 *)inner->source = NETWORK16(0x0269);
        *(__u32 *)(inner->source + 2) = swap32(0x73000000 | vsid);
        inner->type = packet->tuple.is_ipv6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
    }
    return 1;
}

#endif
