// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* NVGRE in, NVGRE out: what gateway/forwarding decides, decided where the driver hands a packet over.
 *
 * A packet is carried here if all that its decision rests on is in the tables. All else is left to Python, by
 * XDP_PASS, and nothing of it has been changed or debited then: so a table may lack anything at any time. The
 * order of the steps is Python's own wherever two of them could refuse a packet for different reasons.
 */
#include "changing.h"

char _license[] SEC("license") = "Dual BSD/GPL";

static __always_inline int is_for_us(const struct config *settings, __u32 interface, const struct ethernet *outer)
{
    for (int i = 0; i < INTERFACES; i++) {
        const struct interface *ours = &settings->interfaces[i];

        if (ours->index == interface)
            return *(const __u32 *)outer->destination == *(const __u32 *)ours->mac &&
                   *(const __u16 *)(outer->destination + 4) == *(const __u16 *)(ours->mac + 4);
    }
    return 0;
}

static __always_inline int is_our_ipv4(const struct config *settings, __u32 address)
{
    for (int i = 0; i < OWN_ADDRESSES && i < settings->ipv4_addresses; i++)
        if (settings->ipv4[i] == address)
            return 1;
    return 0;
}

static __always_inline int is_our_ipv6(const struct config *settings, const __u64 *address)
{
    for (int i = 0; i < OWN_ADDRESSES && i < settings->ipv6_addresses; i++)
        if (settings->ipv6[i][0] == address[0] && settings->ipv6[i][1] == address[1])
            return 1;
    return 0;
}

/* Whether a packet comes from one of our own addresses: that is Python's to say. */
static __always_inline int is_loop(const struct config *settings, __u8 outer_octets, __u64 first, __u64 second)
{
    __u64 sender[2] = {first, second};

    return outer_octets == IPV6_LENGTH ? is_our_ipv6(settings, sender) : is_our_ipv4(settings, first);
}

/* How often a sender is taught, in nanoseconds, and how much of that may be saved up: Python does it beside its work. */
#define TEACHING 2000000
#define TEACHING_BURST 100000000

/* Whether Python is to see this packet so that it can teach the sender where the destination is: one for each
 * pair of them in 30 s, or seldom one for two pairs, and none while there is too much to teach. */
static __always_inline int is_to_teach(const struct config *settings, __u32 sender, __u64 hash)
{
    __u32 slot = (__u32)((hash ^ sender * 0x9E3779B1U) >> 7) & (TAUGHT - 1);
    __u32 *last, now, nobody = 0;
    struct debts *debts;

    if (!(settings->flags & TEACHES))
        return 0;
    /* In units of 2^30 ns. Never as little as 28, so that a slot that has not been used is always old. */
    now = (__u32)(bpf_ktime_get_coarse_ns() >> 30) + 64;
    last = bpf_map_lookup_elem(&taught, &slot);
    if (!last || now - *last < 28)
        return 0;
    debts = bpf_map_lookup_elem(&tenant_debts, &nobody);
    if (!debts || take(&debts->passed, TEACHING, TEACHING_BURST, 0) != TAKEN)
        return 0;
    *last = now;
    return 1;
}

static __always_inline int carry(struct xdp_md *context, const struct config *settings, struct packet *packet,
                                 struct carriage *carriage, __u32 tenant_number, __u32 sender, __u8 outer_hop_limit)
{
    void *start = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    __u32 inner_at = ETHERNET_LENGTH + carriage->old_octets + GRE_LENGTH + ETHERNET_LENGTH;
    __u32 peer_number = carriage->destination.peer, subnet_number = carriage->destination.subnet, vsid, hop_number;
    __u32 mtu, mss_limit = 0, new_octets, excess;
    struct tenant *tenant = bpf_map_lookup_elem(&tenants, &tenant_number);
    struct subnet *subnet = bpf_map_lookup_elem(&subnets, &subnet_number);
    struct peer *peer = bpf_map_lookup_elem(&peers, &peer_number);
    struct meter *meter;
    struct hop *hop;
    int is_ipv6 = packet->tuple.is_ipv6;

    if (!tenant || !subnet || !peer)
        return pass(settings, tenant_number, sender, NO_RECORD);
    hop_number = VOLATILE(peer->hop);
    hop = bpf_map_lookup_elem(&hops, &hop_number);
    if (!hop_number || !hop)
        return pass(settings, tenant_number, sender, NO_NEXT_HOP);
    mtu = is_ipv6 ? hop->ipv6_mtu : hop->ipv4_mtu;
    if (packet->total > mtu || (is_ipv6 && hop->flags & NO_IPV6))
        return pass(settings, tenant_number, sender, TOO_BIG);
    if (carriage->is_routed ? packet->hop_limit <= 1 : outer_hop_limit <= 1)
        return pass(settings, tenant_number, sender, HOP_LIMIT);
    if (packet->tcp_flags & SYN) {
        struct peer *back = bpf_map_lookup_elem(&peers, &sender);
        __u32 back_number = back ? VOLATILE(back->hop) : 0, back_mtu;
        struct hop *back_hop = bpf_map_lookup_elem(&hops, &back_number);

        if (!back_number || !back_hop)
            return pass(settings, tenant_number, sender, NO_NEXT_HOP);
        back_mtu = is_ipv6 ? back_hop->ipv6_mtu : back_hop->ipv4_mtu;
        mss_limit = (back_mtu < mtu ? back_mtu : mtu) - (is_ipv6 ? 60 : 40);
    }
    packet->tuple.source_place = carriage->source_subnet | (__u64)is_ipv6 << 32;
    if (is_denied(tenant, &packet->tuple))
        return drop(settings, tenant_number, ACCESS_DENIED);
    if (is_to_teach(settings, sender, carriage->destination.hash))
        return pass(settings, tenant_number, sender, TEACH);
    if (tenant->flags & IS_LIMITED) {
        struct debts *debts = bpf_map_lookup_elem(&tenant_debts, &tenant_number);
        __u64 cost = packet->total * tenant->octet_cost >> 20;
        enum taken taken = debts ? take(&debts->rate, cost, tenant->burst, 0) : UNDECIDED;

        if (taken == REFUSED)
            return drop(settings, tenant_number, RATE_LIMITED);
        if (taken == UNDECIDED)
            return pass(settings, tenant_number, sender, CONTENDED);
    }

    /* From here on it is changed, so there is no way back. */
    vsid = subnet->vsid;
    if (start + inner_at > end || !change_inner(start + inner_at, end, packet, carriage, mss_limit))
        return XDP_DROP;
    excess = (__u32)length_of(context) - inner_at - packet->total;
    if (excess && bpf_xdp_adjust_tail(context, -(int)excess))
        return XDP_DROP;
    new_octets = hop->flags & OVER_IPV6 ? IPV6_LENGTH : IPV4_LENGTH;
    if (new_octets != carriage->old_octets &&
        bpf_xdp_adjust_head(context, (int)carriage->old_octets - (int)new_octets))
        return XDP_DROP;
    if (!write_outer(context, hop, packet, carriage, vsid, carriage->is_routed ? 64 : outer_hop_limit - 1))
        return XDP_DROP;
    {
        __u32 row = bpf_get_smp_processor_id() * settings->subnets, sent = row + carriage->source_subnet;
        __u32 received = row + subnet_number;

        meter = carriage->source_subnet ? bpf_map_lookup_elem(&meters, &sent) : 0;
        if (meter) {
            meter->sent_packets += 1;
            meter->sent_octets += packet->total;
        }
        meter = bpf_map_lookup_elem(&meters, &received);
        if (meter) {
            meter->received_packets += 1;
            meter->received_octets += packet->total;
        }
    }
    return bpf_redirect_map(&ports, hop->port, XDP_DROP);
}

/* Leave GRE to Python that is not read here. It is not known whose it is: all of it is on one account, nobody's. */
static __always_inline int pass_unread(const struct config *settings)
{
    return pass(settings, 0, 0, UNUSUAL_OUTER);
}

/* Decide a packet to one of our provider addresses, whose outer header of so many octets has been read. */
static __always_inline int decide(struct xdp_md *context, const struct config *settings, __u8 outer_octets,
                                  __u64 sender_first, __u64 sender_second, __u8 outer_ecn, __u8 outer_hop_limit,
                                  __u32 outer_payload)
{
    void *start = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct gre *gre = start + ETHERNET_LENGTH + outer_octets;
    struct ethernet *inner = (void *)(gre + 1);
    struct carriage carriage = {.old_octets = outer_octets};
    __u32 vsid, sender, subnet_number, tenant_number, scope, record_peer, host;
    struct packet packet;
    struct subnet *subnet;
    struct tenant *tenant;
    struct peer *peer;
    struct found found;
    int is_ipv6, outcome, way;

    if ((void *)(gre + 1) > end || outer_payload < GRE_LENGTH)
        return pass_unread(settings);
    if ((gre->flags & GRE_SIGNIFICANT) != GRE_KEY || gre->protocol != GRE_ETHERNET)
        return is_loop(settings, outer_octets, sender_first, sender_second) ? pass_unread(settings)
                                                                            : drop(settings, 0, NOT_NVGRE);
    vsid = swap32(gre->key) >> 8;
    if (!find(settings, VSIDS, vsid, 0, &found) && !find_moved(settings, VSIDS, vsid, 0, &found))
        return is_loop(settings, outer_octets, sender_first, sender_second) ? pass_unread(settings)
                                                                            : drop(settings, 0, UNKNOWN_VSID);
    subnet_number = found.peer;
    subnet = bpf_map_lookup_elem(&subnets, &subnet_number);
    tenant_number = subnet ? subnet->tenant : 0;
    tenant = bpf_map_lookup_elem(&tenants, &tenant_number);
    if (!subnet || !tenant)
        return XDP_PASS;
    scope = outer_octets == IPV6_LENGTH ? IPV6_PEERS : IPV4_PEERS;
    if (!find(settings, scope, sender_first, sender_second, &found) &&
        !find_moved(settings, scope, sender_first, sender_second, &found))
        return drop(settings, tenant_number, SPOOFED_SOURCE);
    sender = found.peer;
    peer = bpf_map_lookup_elem(&peers, &sender);
    host = peer ? peer->host : 0;
    if (!(VOLATILE(tenant->flags) & IS_CARRIED))
        return pass(settings, tenant_number, sender, NOT_CARRIED);
    if ((void *)(inner + 1) > end || outer_payload < GRE_LENGTH + ETHERNET_LENGTH)
        return pass(settings, tenant_number, sender, UNUSUAL);
    if (inner->destination[0] & 1 || inner->source[0] & 1)
        return pass(settings, tenant_number, sender, GROUP);
    is_ipv6 = inner->type == ETHERTYPE_IPV6;
    if (!is_ipv6 && inner->type != ETHERTYPE_IPV4)
        return pass(settings, tenant_number, sender, NOT_IP);
    outcome = read_inner(inner + 1, end, is_ipv6, outer_payload - GRE_LENGTH - ETHERNET_LENGTH,
                         tenant->flags & HAS_RULES, &packet);
    if (outcome >= 0)
        return pass(settings, tenant_number, sender, outcome);

    way = find_way(settings, tenant_number, is_ipv6, packet.tuple.source, 1, &found);
    if (!host || way == NOWHERE || way == ROUTE_SITE)
        return pass(settings, tenant_number, sender, host ? SOURCE : NOT_CARRIED);
    record_peer = found.peer;
    if (record_peer != sender) {
        peer = bpf_map_lookup_elem(&peers, &record_peer);
        if (!peer || peer->host != host)
            return pass(settings, tenant_number, sender, SOURCE);
    }
    carriage.source_subnet = way == DIRECTLY ? found.subnet : 0;
    if (outer_ecn == CE && packet.ecn == NOT_ECT)
        return drop(settings, tenant_number, CONGESTION);
    carriage.new_ecn = ecn_on_arrival(packet.ecn, outer_ecn);

    carriage.is_routed = *(__u16 *)inner->destination == NETWORK16(0x0269) &&
                         *(__u32 *)(inner->destination + 2) == swap32(0x73000000 | vsid);
    way = find_way(settings, tenant_number, is_ipv6, packet.tuple.destination, carriage.is_routed,
                   &carriage.destination);
    if (carriage.is_routed) {
        if (way == NOWHERE || way == ROUTE_SITE)
            return pass(settings, tenant_number, sender, way == ROUTE_SITE ? SITE : NO_RECORD);
    } else {
        __u64 mac = *(__u32 *)inner->destination | (__u64) * (__u16 *)(inner->destination + 4) << 32;
        if (way == NOWHERE || carriage.destination.subnet != subnet_number || carriage.destination.mac != mac)
            return pass(settings, tenant_number, sender, NO_RECORD);
    }
    packet.tuple.destination_place = (way == DIRECTLY ? carriage.destination.subnet : 0) | (__u64)is_ipv6 << 32;
    return carry(context, settings, &packet, &carriage, tenant_number, sender, outer_hop_limit);
}

SEC("xdp")
int nvgre(struct xdp_md *context)
{
    void *start = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct ethernet *outer = start;
    __u32 zero = 0;
    struct config *settings = bpf_map_lookup_elem(&config, &zero);

    if (!settings || !(VOLATILE(settings->flags) & CARRIES) || (void *)(outer + 1) > end)
        return XDP_PASS;
    if (outer->type == ETHERTYPE_IPV4) {
        struct ipv4 *header = (void *)(outer + 1);
        __u32 total;

        if ((void *)(header + 1) > end || header->protocol != GRE || !is_our_ipv4(settings, header->destination) ||
            !is_for_us(settings, context->ingress_ifindex, outer))
            return XDP_PASS;
        if (header->version_and_length != 0x45 || header->fragment & NETWORK16(0x3FFF))
            return pass_unread(settings);
        if (sum_of(header) != 0xFFFF)
            return XDP_PASS;
        total = swap16(header->total);
        if (total < IPV4_LENGTH || total > length_of(context) - ETHERNET_LENGTH)
            return XDP_PASS;
        return decide(context, settings, IPV4_LENGTH, header->source, 0, header->service & 3, header->ttl,
                      total - IPV4_LENGTH);
    }
    if (outer->type == ETHERTYPE_IPV6) {
        struct ipv6 *header = (void *)(outer + 1);
        __u32 payload;

        if ((void *)(header + 1) > end || (header->first & 0xF0) != 0x60 ||
            !is_our_ipv6(settings, header->destination) || !is_for_us(settings, context->ingress_ifindex, outer))
            return XDP_PASS;
        if (header->next_header != GRE)
            return is_gre_behind((const __u8 *)(header + 1), end, header->next_header) ? pass_unread(settings)
                                                                                       : XDP_PASS;
        payload = swap16(header->payload);
        if (payload > length_of(context) - ETHERNET_LENGTH - IPV6_LENGTH)
            return XDP_PASS;
        return decide(context, settings, IPV6_LENGTH, header->source[0], header->source[1], header->first >> 12 & 3,
                      header->hop_limit, payload);
    }
    return XDP_PASS;
}

/* What Python asks for: octets of a tenant's rate, or to have some back, which never fails. */
struct request {
    __u32 tenant;
    __s32 octets;
    __u32 is_granted;
    __u32 unused;
};

SEC("syscall")
int debit(struct request *request)
{
    __u32 number = request->tenant;
    struct tenant *tenant = bpf_map_lookup_elem(&tenants, &number);
    struct debts *debts = bpf_map_lookup_elem(&tenant_debts, &number);

    request->is_granted = 1;
    if (!tenant || !debts)
        return 1;
    if (request->octets < 0) {
        __sync_fetch_and_add(&debts->rate, -((__u64)-request->octets * tenant->octet_cost >> 20));
        return 0;
    }
    request->is_granted = take(&debts->rate, (__u64)request->octets * tenant->octet_cost >> 20, tenant->burst, 1) ==
                          TAKEN;
    return 0;
}
