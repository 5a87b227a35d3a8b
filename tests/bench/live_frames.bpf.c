/* The two ends of every way that is measured with frames of the kernel's own, and what stands beside a VM there.
 *
 * `generate` is run by BPF_PROG_TEST_RUN as often as it is asked, on a frame each time: it sends the frame, or holds
 * it back because the next one is not due yet. `count` is where a way ends. `decide` has the program that is measured
 * decide a packet, without a way. Frames come back used, since the kernel hands the same memory out again: so every
 * header is written anew, with a tenant and a destination by chance.
 *
 * `encapsulate` and `decapsulate` are a host that does nothing but NVGRE, for a VM's TCP stream.
 */
#include "../../gateway/fastpath/helpers.h"

#define MMAPABLE (1U << 10)
#define IPV4 0x0008 /* in the order of the network */
#define GRE 47

/* Ethernet, IPv4, NVGRE, Ethernet, IPv4, ports: what is written anew. */
#define HEADERS 80
#define OUTER_PROTOCOL 23
#define KEY 38
#define GATEWAY_MAC_VSID 45
#define INNER_CHECKSUM 66
#define INNER_DESTINATION 72

#define ENCAPSULATION 42
#define OUTER_LENGTH 16
#define OUTER_CHECKSUM 24

/* How late a frame may be and still be made up for, in nanoseconds: a short burst is what traffic is like. */
#define LATEST 100000

static long (*const bpf_tail_call)(void *context, void *map, __u32 index) = (void *)BPF_FUNC_tail_call;

/* What is sent, and how fast. Tenant t has the virtual subnets `vsid + 2 t`, where the packets come from, and
 * `vsid + 2 t + 1`, whose VMs they go to: those are at `first`, `first + stride` and so on. */
struct plan {
    __u64 period; /* of a frame, in nanoseconds times 1024 */
    __u32 vsid;
    __u32 tenants;
    __u32 records; /* of each tenant */
    __u32 first;
    __u32 stride;
    __u32 checksum; /* of the inner IPv4 header without its destination, not folded */
    __u32 program;  /* in `programs`: what `decide` has decide */
    __u32 unused;
    __u64 headers[HEADERS / 8];
};

/* What became of it; addresses are added up, so that it shows whether the same came as went. */
struct tally {
    __u64 due; /* when the next frame is, in nanoseconds times 1024 */
    __u64 began; /* when the first was sent, and the last, in nanoseconds */
    __u64 ended;
    __u64 sent;
    __u64 sent_addresses;
    __u64 arrived;
    __u64 arrived_addresses;
    __u64 octets;
    __u64 routed; /* of those that arrived, in the subnet that they go to */
    __u64 others;
};

struct host {
    __u32 checksum; /* of the outer IPv4 header without its length, not folded */
    __u8 headers[ENCAPSULATION];
    __u8 unused[2];
};

struct map_definition plan SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct plan), 1, MMAPABLE};
struct map_definition tally SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct tally), 1, MMAPABLE};
struct map_definition host SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct host), 1, MMAPABLE};
struct map_definition programs SEC("maps") = {BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 2, 0};
struct map_definition ports SEC("maps") = {BPF_MAP_TYPE_DEVMAP, 4, 4, 2, 0};
enum { UNDERLAY, VM };
#define LINES 131072
struct map_definition memory SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, 64, LINES, 0};

static __always_inline __u16 folded(__u32 sum)
{
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    return ~sum;
}

/* Write the headers of a packet of a tenant by chance, to a destination by chance, and return that, or 0. */
static __always_inline __u32 write_headers(struct xdp_md *context, const struct plan *plan)
{
    __u8 *frame = (void *)(long)context->data;
    __u32 tenant, vsid, address, destination;
    __u64 *words = (void *)frame;

    if (frame + HEADERS > (__u8 *)(long)context->data_end)
        return 0;
#pragma unroll
    for (int i = 0; i < HEADERS / 8; i++)
        words[i] = plan->headers[i];
    /* Meanwhile they are on their way to the cache: on the wire, too, they are written long before they are read. */
    tenant = (__u64)bpf_get_prandom_u32() * plan->tenants >> 32;
    address = plan->first + plan->stride * (__u32)((__u64)bpf_get_prandom_u32() * plan->records >> 32);
    vsid = __builtin_bswap32((plan->vsid + 2 * tenant) << 8);
    *(__u32 *)(frame + KEY) = vsid;
    *(__u16 *)(frame + GATEWAY_MAC_VSID) = vsid;
    *(frame + GATEWAY_MAC_VSID + 2) = vsid >> 16;
    destination = __builtin_bswap32(address);
    *(__u32 *)(frame + INNER_DESTINATION) = destination;
    *(__u16 *)(frame + INNER_CHECKSUM) = folded(plan->checksum + (destination & 0xFFFF) + (destination >> 16));
    return address;
}

SEC("xdp") int generate(struct xdp_md *context)
{
    __u32 zero = 0, address;
    struct plan *said = bpf_map_lookup_elem(&plan, &zero);
    struct tally *counted = bpf_map_lookup_elem(&tally, &zero);
    __u64 now;

    if (!said || !counted)
        return XDP_ABORTED;
    now = bpf_ktime_get_ns();
    if (now << 10 < counted->due)
        return XDP_DROP;
    if (counted->due + ((__u64)LATEST << 10) < now << 10)
        counted->due = now << 10;
    counted->due += said->period;
    address = write_headers(context, said);
    if (!address)
        return XDP_ABORTED;
    if (!counted->sent++)
        counted->began = now;
    counted->ended = now;
    counted->sent_addresses += address;
    return bpf_redirect_map(&ports, UNDERLAY, XDP_ABORTED);
}

SEC("xdp") int count(struct xdp_md *context)
{
    __u8 *frame = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    __u32 zero = 0, number;
    struct plan *said = bpf_map_lookup_elem(&plan, &zero);
    struct tally *counted = bpf_map_lookup_elem(&tally, &zero);

    if (!said || !counted)
        return XDP_ABORTED;
    if (frame + HEADERS > end || *(__u16 *)(frame + 12) != IPV4 || frame[OUTER_PROTOCOL] != GRE) {
        counted->others++;
        return XDP_DROP;
    }
    number = (__builtin_bswap32(*(__u32 *)(frame + KEY)) >> 8) - said->vsid;
    if (number >= 2 * said->tenants) {
        counted->others++;
        return XDP_DROP;
    }
    counted->arrived++;
    counted->arrived_addresses += __builtin_bswap32(*(__u32 *)(frame + INNER_DESTINATION));
    counted->octets += end - frame;
    counted->routed += number & 1;
    return XDP_DROP;
}

SEC("xdp") int decide(struct xdp_md *context)
{
    __u32 zero = 0;
    struct plan *said = bpf_map_lookup_elem(&plan, &zero);

    if (!said || !write_headers(context, said))
        return XDP_ABORTED;
    bpf_tail_call(context, &programs, said->program);
    return XDP_ABORTED;
}

/* What a read costs of what is in no cache nearby: of a line by chance, of 8 MB. */
SEC("xdp") int fetch(struct xdp_md *context)
{
    __u32 zero = 0, line = bpf_get_prandom_u32();
    struct tally *counted = bpf_map_lookup_elem(&tally, &zero);
    __u64 *found;

    if (!counted)
        return XDP_ABORTED;
    /* All of it is zero, which the processor does not know: so each read waits for the one before. */
    line = (line + (__u32)counted->others) & (LINES - 1);
    found = bpf_map_lookup_elem(&memory, &line);
    if (!found)
        return XDP_ABORTED;
    counted->others += *found;
    return XDP_REDIRECT;
}

/* What `decide` costs by itself. */
SEC("xdp") int nothing(struct xdp_md *context)
{
    return XDP_REDIRECT;
}

SEC("xdp") int pass(struct xdp_md *context)
{
    return XDP_PASS;
}

SEC("xdp") int encapsulate(struct xdp_md *context)
{
    __u32 zero = 0, length;
    struct host *as = bpf_map_lookup_elem(&host, &zero);
    __u8 *frame;

    if (!as || bpf_xdp_adjust_head(context, -ENCAPSULATION))
        return XDP_ABORTED;
    frame = (void *)(long)context->data;
    if (frame + HEADERS > (__u8 *)(long)context->data_end ||
        *(__u16 *)(frame + ENCAPSULATION + 12) != IPV4)
        return XDP_DROP;
    __builtin_memcpy(frame, as->headers, ENCAPSULATION);
    length = __builtin_bswap16((__u16)(context->data_end - context->data - 14));
    *(__u16 *)(frame + OUTER_LENGTH) = length;
    *(__u16 *)(frame + OUTER_CHECKSUM) = folded(as->checksum + length);
    return bpf_redirect_map(&ports, UNDERLAY, XDP_ABORTED);
}

SEC("xdp") int decapsulate(struct xdp_md *context)
{
    __u8 *frame = (void *)(long)context->data;

    if (frame + HEADERS > (__u8 *)(long)context->data_end || *(__u16 *)(frame + 12) != IPV4 ||
        frame[OUTER_PROTOCOL] != GRE)
        return XDP_PASS;
    if (bpf_xdp_adjust_head(context, ENCAPSULATION))
        return XDP_ABORTED;
    return bpf_redirect_map(&ports, VM, XDP_ABORTED);
}

char _license[] SEC("license") = "GPL";
