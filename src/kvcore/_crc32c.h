/* SPDX-License-Identifier: Apache-2.0
 *
 * CRC-32C (Castagnoli), chained: kv_crc32c(kv_crc32c(0, a), b) == kv_crc32c(0, a + b).
 *
 * Hardware where the processor has it (SSE4.2, ARMv8 CRC), a 8 x 256 table otherwise; chosen at run
 * time, so one build serves every machine.  Estimate: one 8-byte step per 3 cycles, ~8 GB/s.
 */
#ifndef KVCORE_CRC32C_H
#define KVCORE_CRC32C_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t kv_crc_table[8][256];
static int kv_crc_table_ready = 0;

static void kv_crc_make_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = (c & 1) ? (c >> 1) ^ 0x82F63B78u : c >> 1;
        kv_crc_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            kv_crc_table[k][i] = (kv_crc_table[k - 1][i] >> 8) ^
                                 kv_crc_table[0][kv_crc_table[k - 1][i] & 0xff];
    __atomic_store_n(&kv_crc_table_ready, 1, __ATOMIC_RELEASE);
}

static uint32_t kv_crc32c_soft(uint32_t crc, const uint8_t *p, size_t n) {
    if (!__atomic_load_n(&kv_crc_table_ready, __ATOMIC_ACQUIRE)) kv_crc_make_table();
    crc = ~crc;
    while (n >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        w ^= crc;
        crc = 0;
        for (int k = 0; k < 8; k++) crc ^= kv_crc_table[7 - k][(w >> (8 * k)) & 0xff];
        p += 8;
        n -= 8;
    }
    while (n--) crc = (crc >> 8) ^ kv_crc_table[0][(crc ^ *p++) & 0xff];
    return ~crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>
__attribute__((target("sse4.2")))
static uint32_t kv_crc32c_hard(uint32_t crc, const uint8_t *p, size_t n) {
    uint64_t c = (uint32_t)~crc;
    while (n >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        c = _mm_crc32_u64(c, w);
        p += 8;
        n -= 8;
    }
    uint32_t c32 = (uint32_t)c;
    while (n--) c32 = _mm_crc32_u8(c32, *p++);
    return ~c32;
}
static int kv_crc32c_has_hard(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
static uint32_t kv_crc32c_hard(uint32_t crc, const uint8_t *p, size_t n) {
    crc = ~crc;
    while (n >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        crc = __crc32cd(crc, w);
        p += 8;
        n -= 8;
    }
    while (n--) crc = __crc32cb(crc, *p++);
    return ~crc;
}
static int kv_crc32c_has_hard(void) { return 1; }
#else
static uint32_t kv_crc32c_hard(uint32_t crc, const uint8_t *p, size_t n) {
    return kv_crc32c_soft(crc, p, n);
}
static int kv_crc32c_has_hard(void) { return 0; }
#endif

static inline uint32_t kv_crc32c(uint32_t crc, const void *data, size_t n) {
    static int hard = -1;
    int h = __atomic_load_n(&hard, __ATOMIC_RELAXED);
    if (__builtin_expect(h < 0, 0)) {
        h = kv_crc32c_has_hard();
        __atomic_store_n(&hard, h, __ATOMIC_RELAXED);
    }
    return h ? kv_crc32c_hard(crc, (const uint8_t *)data, n)
             : kv_crc32c_soft(crc, (const uint8_t *)data, n);
}
#endif
