/* SPDX-License-Identifier: Apache-2.0
 *
 * What the instrumented modules call: edges and compares of the run under way.
 *
 *   gcc -fsanitize-coverage=trace-pc,trace-cmp ─► __sanitizer_cov_* (here, preloaded) ─► map
 *   engine.py ─► fuzz_begin · the target · fuzz_end: 2 a new edge, 1 a new count of one, 0 neither
 *
 * An edge is a pair of places; its count is kept in eight classes, as AFL does.  One thread at a
 * time is looked at: the one that called fuzz_begin.
 */
#include <stdint.h>
#include <string.h>

enum { EDGES = 1 << 16, COMPARES = 1024 };

static uint8_t map[EDGES], seen[EDGES];
static __thread int on;
static __thread uintptr_t before;

typedef struct { uint64_t a, b; uint32_t size, zero; } Compare;
Compare fuzz_compares[COMPARES];
uint32_t fuzz_compared;

static inline void at(uintptr_t pc) {
    uintptr_t here = pc * 0x9E3779B97F4A7C15u >> 40;
    uint8_t *p = &map[(here ^ before) & (EDGES - 1)];
    if (*p != 255) ++*p;
    before = here >> 1;
}

void __sanitizer_cov_trace_pc(void) {
    if (on) at((uintptr_t)__builtin_return_address(0));
}

/* Lines of Python modules, told by a tracer. */
void fuzz_line(uint64_t place) { at((uintptr_t)place); }

static inline void compared(uint64_t a, uint64_t b, uint32_t size) {
    if (!on || a == b) return;
    fuzz_compares[fuzz_compared++ % COMPARES] = (Compare){a, b, size, 0};
}
void __sanitizer_cov_trace_cmp1(uint8_t a, uint8_t b) { compared(a, b, 1); }
void __sanitizer_cov_trace_cmp2(uint16_t a, uint16_t b) { compared(a, b, 2); }
void __sanitizer_cov_trace_cmp4(uint32_t a, uint32_t b) { compared(a, b, 4); }
void __sanitizer_cov_trace_cmp8(uint64_t a, uint64_t b) { compared(a, b, 8); }
void __sanitizer_cov_trace_const_cmp1(uint8_t a, uint8_t b) { compared(b, a, 1); }
void __sanitizer_cov_trace_const_cmp2(uint16_t a, uint16_t b) { compared(b, a, 2); }
void __sanitizer_cov_trace_const_cmp4(uint32_t a, uint32_t b) { compared(b, a, 4); }
void __sanitizer_cov_trace_const_cmp8(uint64_t a, uint64_t b) { compared(b, a, 8); }
void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a; (void)b; }
void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a; (void)b; }
void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases) {
    for (uint64_t i = 0; i < cases[0] && i < 32; i++)
        compared(value, cases[2 + i], (uint32_t)cases[1] / 8);
}

void fuzz_begin(void) {
    memset(map, 0, sizeof map);
    fuzz_compared = 0;
    before = 0;
    on = 1;
}

static uint8_t class_of(uint8_t n) {
    return n < 3 ? n : n == 3 ? 4 : n < 8 ? 8 : n < 16 ? 16 : n < 32 ? 32 : n < 128 ? 64 : 128;
}

int fuzz_end(void) {
    int news = 0;
    on = 0;
    for (size_t i = 0; i < EDGES; i += 8) {
        uint64_t word;
        memcpy(&word, map + i, 8);
        if (!word) continue;
        for (size_t k = i; k < i + 8; k++) {
            uint8_t c = class_of(map[k]);
            if (c & ~seen[k]) {
                if (!seen[k]) news = 2; else if (news == 0) news = 1;
                seen[k] |= c;
            }
        }
    }
    return news;
}

uint32_t fuzz_edges(void) {
    uint32_t n = 0;
    for (size_t i = 0; i < EDGES; i++) n += seen[i] != 0;
    return n;
}

void fuzz_forget(void) { memset(seen, 0, sizeof seen); }
