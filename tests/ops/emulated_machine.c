/* Makes a test program's machine one with AVX512_BF16, by emulation: the linker sends what asks for the level
 * and its kernels here (--wrap in meson.build). */
#include "backend.h"

enum cpu_isa __real_cpu_isa_detect(void);
enum cpu_isa __wrap_cpu_isa_detect(void);

enum cpu_isa __wrap_cpu_isa_detect(void)
{
    enum cpu_isa real = __real_cpu_isa_detect();
    return real < ISA_AVX2 ? real : ISA_AVX512_BF16; /* the emulation needs AVX2 */
}
