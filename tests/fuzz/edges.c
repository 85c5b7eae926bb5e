/* Notes which edges the instrumented parsers take: gcc calls this at the beginning of every block.

   Preloaded behind the sanitiser's runtime; `tests/fuzz/child.py` reads and clears the table. */
#include <stdint.h>

#define EDGES 65536

unsigned char coinspace_edges[EDGES];
static uintptr_t before;

void __sanitizer_cov_trace_pc(void) {
    uintptr_t here = (uintptr_t)__builtin_return_address(0);
    uintptr_t edge = ((here ^ (before << 1)) * UINT64_C(0x9E3779B97F4A7C15)) >> 48;
    if (coinspace_edges[edge] < 255) {
        coinspace_edges[edge]++;
    }
    before = here;
}
