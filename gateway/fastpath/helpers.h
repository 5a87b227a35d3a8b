/* What a program here needs of the kernel besides <linux/bpf.h>: its helpers, and how maps are declared.
 *
 * clang and the kernel's own headers (linux-libc-dev) are enough to build with; libbpf is not needed. A helper is
 * called by its number, which is part of the kernel's interface: bpf_NAME is described in bpf-helpers(7).
 */
#ifndef ISTHMUS_HELPERS_H
#define ISTHMUS_HELPERS_H

#include <linux/bpf.h>
#include <linux/types.h>

#define SEC(NAME) __attribute__((section(NAME), used))

#ifdef BUILT /* by build.py, which says there by what it was built, and from which source */
char _built[] SEC("built") = BUILT;
#endif

/* <linux/stddef.h> has one that clang may ignore. */
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#ifndef __noinline
#define __noinline __attribute__((noinline))
#endif

/* The program's licence: `char _license[] SEC("license") = "..."`. clang takes no variable of its section's name. */

/* A map, as gateway/fastpath/elf.py reads it: `struct map_definition NAME SEC("maps") = {...}`. */
struct map_definition {
    __u32 type;
    __u32 key_size;
    __u32 value_size;
    __u32 max_entries;
    __u32 flags;
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
                                         __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static long (*const bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;
static long (*const bpf_xdp_adjust_head)(struct xdp_md *context, int delta) = (void *)BPF_FUNC_xdp_adjust_head;
static long (*const bpf_xdp_adjust_tail)(struct xdp_md *context, int delta) = (void *)BPF_FUNC_xdp_adjust_tail;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static __u64 (*const bpf_ktime_get_coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)BPF_FUNC_get_smp_processor_id;
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)BPF_FUNC_get_prandom_u32;

#endif
