/* Small programs for the loader's tests: whatever an object file may have, and no more. */
#include "../../../gateway/fastpath/helpers.h"

struct map_definition counts SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, 8, 4, BPF_F_MMAPABLE};
struct map_definition by_cpu SEC("maps") = {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 2, 0};
static struct map_definition ports SEC("maps") = {BPF_MAP_TYPE_DEVMAP, 4, 4, 4, 0};

char _license[] SEC("license") = "Dual BSD/GPL";

/* Each calls the next one, and the last is called twice. */
static __noinline __u64 square(__u64 number)
{
    return number * (bpf_ktime_get_ns() ? number : 0);
}

static __noinline __u64 sum_of_squares(__u64 one, __u64 other)
{
    return square(one) + square(other);
}

__noinline __u64 add(__u32 key, __u64 number)
{
    __u64 *value = bpf_map_lookup_elem(&counts, &key);

    if (value)
        *value += number;
    return number;
}

SEC("xdp") int count(struct xdp_md *context)
{
    __u32 key = 0;
    __u64 *mine = bpf_map_lookup_elem(&by_cpu, &key);

    add(1, sum_of_squares(3, 4));
    if (mine)
        *mine += 1;
    return context->ingress_ifindex == 1 ? XDP_PASS : XDP_DROP;
}

SEC("xdp") int redirect(struct xdp_md *context)
{
    return context->data == context->data_end ? XDP_ABORTED : bpf_redirect_map(&ports, 2, XDP_TX);
}

SEC("xdp") int grow(struct xdp_md *context)
{
    return bpf_xdp_adjust_head(context, -20) ? XDP_ABORTED : XDP_PASS;
}

/* Reads behind the frame's end, perhaps: no kernel takes it. */
SEC("xdp") int careless(struct xdp_md *context)
{
    return *(__u8 *)(long)context->data;
}

SEC("syscall") int calculate(__u64 *context)
{
    context[1] = sum_of_squares(context[0], 1);
    return 7;
}
