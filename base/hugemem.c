#include "hugemem.h"
#include <linux/mempolicy.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NODES 1024
#define WORD  (8 * sizeof(unsigned long))

/* Leaves alone whom somebody gave a policy (numactl), and machines of one node. */
static void spread(void *p, size_t size)
{
    int mode = MPOL_DEFAULT, n = 0;
    unsigned long nodes[NODES / WORD] = {0};
    if (syscall(SYS_get_mempolicy, &mode, NULL, 0UL, NULL, 0UL) || mode != MPOL_DEFAULT) return;
    if (syscall(SYS_get_mempolicy, NULL, nodes, (unsigned long)NODES, NULL,
                (unsigned long)MPOL_F_MEMS_ALLOWED))
        return;
    for (size_t i = 0; i < NODES / WORD; i++) n += __builtin_popcountl(nodes[i]);
    if (n > 1) syscall(SYS_mbind, p, size, (unsigned long)MPOL_INTERLEAVE, nodes, (unsigned long)NODES, 0UL);
}

void *hugemem_map(size_t size)
{
    /* Mapped with one page to spare and trimmed, so that it begins at a huge page. */
    uint8_t *p = size > PTRDIFF_MAX - HUGE_BYTES ? MAP_FAILED
                                                 : mmap(NULL, size + HUGE_BYTES, PROT_READ | PROT_WRITE,
                                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    size_t skip = (HUGE_BYTES - (uintptr_t)p % HUGE_BYTES) % HUGE_BYTES;
    if (skip) munmap(p, skip);
    munmap(p + skip + size, HUGE_BYTES - skip);
    madvise(p + skip, size, MADV_HUGEPAGE);
    spread(p + skip, size);
    return p + skip;
}

void hugemem_unmap(void *p, size_t size) { munmap(p, size); }
