#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include "backend.h"

static const char *const names[ISA_COUNT] = {"scalar", "avx2", "avx512", "vnni", "bf16"};

#if defined(__x86_64__)
static bool has_f16c(void) /* which clang 14's builtin does not know */
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

/* __builtin_cpu_supports asks CPUID and XGETBV, so a level that the system does not save registers for is
 * absent. */
enum cpu_isa cpu_isa_detect(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return ISA_SCALAR;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return ISA_AVX2;
    if (!__builtin_cpu_supports("avx512vnni")) return ISA_AVX512;
    return __builtin_cpu_supports("avx512bf16") ? ISA_AVX512_BF16 : ISA_AVX512_VNNI;
#else
    return ISA_SCALAR;
#endif
}

const char *cpu_isa_name(enum cpu_isa isa) { return names[isa]; }

int cpu_isa_parse(const char *name, enum cpu_isa *out)
{
    if (!strcmp(name, "auto")) {
        *out = cpu_isa_detect();
        return 0;
    }
    for (int i = 0; i < ISA_COUNT; i++)
        if (!strcmp(name, names[i])) {
            *out = (enum cpu_isa)i;
            return 0;
        }
    return ERR_INVALID;
}
