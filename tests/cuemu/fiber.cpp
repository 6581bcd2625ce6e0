/* Fibers: stacks and the switch between them. A stack belongs to its fiber for ever; fibers are reused. */
#include "runtime.h"
#include <sys/mman.h>

/* cuemu_switch(save, load): keeps the callee-saved registers on the old stack, takes them from the new one.
 */
#if defined(__x86_64__)
enum { SAVED_WORDS = 6 };
__asm__(".text\n"
        ".globl cuemu_switch\n.hidden cuemu_switch\n.type cuemu_switch, @function\n"
        "cuemu_switch:\n"
        "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
        "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
        "ret\n"
        ".size cuemu_switch, . - cuemu_switch\n");
#elif defined(__aarch64__)
enum { SAVED_WORDS = 20, LINK_WORD = 11 };
__asm__(
    ".text\n"
    ".globl cuemu_switch\n.hidden cuemu_switch\n.type cuemu_switch, %function\n"
    "cuemu_switch:\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp, #0]\n stp x21, x22, [sp, #16]\n stp x23, x24, [sp, #32]\n stp x25, x26, [sp, #48]\n"
    "stp x27, x28, [sp, #64]\n stp x29, x30, [sp, #80]\n stp d8, d9, [sp, #96]\n stp d10, d11, [sp, #112]\n"
    "stp d12, d13, [sp, #128]\n stp d14, d15, [sp, #144]\n"
    "mov x9, sp\n str x9, [x0]\n mov sp, x1\n"
    "ldp x19, x20, [sp, #0]\n ldp x21, x22, [sp, #16]\n ldp x23, x24, [sp, #32]\n ldp x25, x26, [sp, #48]\n"
    "ldp x27, x28, [sp, #64]\n ldp x29, x30, [sp, #80]\n ldp d8, d9, [sp, #96]\n ldp d10, d11, [sp, #112]\n"
    "ldp d12, d13, [sp, #128]\n ldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\n ret\n"
    ".size cuemu_switch, . - cuemu_switch\n");
#else
#error "cuemu_switch: write the switch of this processor"
#endif

void wait_list::add(fiber *f)
{
    f->next = 0;
    if (head)
        tail->next = f;
    else
        head = f;
    tail = f;
}

fiber *fiber_new(void)
{
    fiber *f = new fiber();
    void *m =
        mmap(0, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED || mprotect(m, PAGE, PROT_NONE)) cuemu_fail("no memory for another CUDA thread");
    f->stack = (char *)m;
    return f;
}

__thread identities *fiber_identities;

void *fiber_identity(size_t i)
{
    if (!__tsan_create_fiber) return 0;
    while (fiber_identities->size() <= i) fiber_identities->push_back(__tsan_create_fiber(0));
    return (*fiber_identities)[i];
}

/* Maps the used part of the stack anew, so that ThreadSanitizer forgets the thread that used it before. */
static void forget_stack(fiber *f)
{
    enum { PAGES = STACK_BYTES / PAGE };
    unsigned char used[PAGES];
    int first = 1; /* page 0 is the guard */
    if (mincore(f->stack, STACK_BYTES, used)) memset(used, 1, sizeof used);
    while (first < PAGES && !(used[first] & 1)) first++;
    if (first < PAGES)
        mmap(f->stack + first * PAGE, (size_t)(PAGES - first) * PAGE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

void fiber_prepare(fiber *f, void (*entry)(void))
{
    if (__tsan_create_fiber) forget_stack(f);
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(f->stack + PAGE, STACK_BYTES - PAGE);
    void **top = (void **)(f->stack + STACK_BYTES - 64);
#if defined(__x86_64__)
    *--top = 0; /* where entry's return address would be: the stack is aligned as after a call */
    *--top = (void *)entry;
    for (int i = 0; i < SAVED_WORDS; i++) *--top = 0;
#else
    top -= SAVED_WORDS;
    for (int i = 0; i < SAVED_WORDS; i++) top[i] = 0;
    top[LINK_WORD] = (void *)entry;
#endif
    f->sp = top;
    f->fake = 0;
}
