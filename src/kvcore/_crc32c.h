/* SPDX-License-Identifier: Apache-2.0
 *
 * CRC-32C (Castagnoli), chained: kv_crc32c(kv_crc32c(0, a), b) == kv_crc32c(0, a + b).
 *
 * Hardware where the processor has it (SSE4.2, ARMv8 CRC), a 8 x 256 table otherwise; chosen when
 * the module is loaded, so one build serves every machine.
 * Estimate: the instruction takes 8 bytes, gives its result after 3 cycles, can begin each cycle.
 * One stream: 8 GB/s, 1 KiB in 122 ns.  Three streams side by side, joined by a carry-less product
 * (x86 with PCLMULQDQ): 1 KiB in 130 cycles + 20 for joining, 45 ns.
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
#include <wmmintrin.h>
enum { KV_CRC_WORDS = 64, KV_CRC_LEAST = 256 }; /* of one stream of three; bytes worth three */
static uint32_t kv_crc_shift[2 * KV_CRC_WORDS + 1]; /* [k]: x^(64 k - 33) mod P, bits reversed */
static int kv_crc_hard = 0, kv_crc_three = 0;

__attribute__((constructor)) static void kv_crc_choose(void) {
    uint32_t b = 1; /* x^31 */
    for (int k = 1; k <= 2 * KV_CRC_WORDS; k++) {
        kv_crc_shift[k] = b;
        for (int i = 0; i < 64; i++) b = (b & 1) ? (b >> 1) ^ 0x82F63B78u : b >> 1;
    }
    __builtin_cpu_init();
    kv_crc_hard = !!__builtin_cpu_supports("sse4.2");
    kv_crc_three = kv_crc_hard && __builtin_cpu_supports("pclmul");
}
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
/* Registers a, b, c of three neighbouring stretches of k words: a x^(128 k) + b x^(64 k) + c.
 * A product of two reversed 32-bit polynomials, taken as a reversed 64-bit one, has one x more, and
 * the instruction multiplies by x^32: hence the 33 in kv_crc_shift. */
__attribute__((target("sse4.2,pclmul")))
static uint32_t kv_crc32c_three(uint32_t crc, const uint8_t *p, size_t n) {
    uint64_t a = (uint32_t)~crc;
    while (n >= KV_CRC_LEAST) {
        size_t k = n / 24 < KV_CRC_WORDS ? n / 24 : KV_CRC_WORDS;
        uint64_t b = 0, c = 0;
        for (const uint8_t *end = p + 8 * k; p < end; p += 8) {
            uint64_t u, v, w;
            memcpy(&u, p, 8);
            memcpy(&v, p + 8 * k, 8);
            memcpy(&w, p + 16 * k, 8);
            a = _mm_crc32_u64(a, u);
            b = _mm_crc32_u64(b, v);
            c = _mm_crc32_u64(c, w);
        }
        __m128i x = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)a),
                                         _mm_cvtsi64_si128(kv_crc_shift[2 * k]), 0);
        __m128i y = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)b),
                                         _mm_cvtsi64_si128(kv_crc_shift[k]), 0);
        a = c ^ _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(x, y)));
        p += 16 * k;
        n -= 24 * k;
    }
    return kv_crc32c_hard(~(uint32_t)a, p, n);
}
static inline uint32_t kv_crc32c(uint32_t crc, const void *data, size_t n) {
    const uint8_t *p = (const uint8_t *)data;
    if (n >= KV_CRC_LEAST && kv_crc_three) return kv_crc32c_three(crc, p, n);
    return kv_crc_hard ? kv_crc32c_hard(crc, p, n) : kv_crc32c_soft(crc, p, n);
}
static int kv_crc32c_has_hard(void) { return kv_crc_hard; }
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
static inline uint32_t kv_crc32c(uint32_t crc, const void *data, size_t n) {
    return kv_crc32c_hard(crc, (const uint8_t *)data, n);
}
#else
static int kv_crc32c_has_hard(void) { return 0; }
static inline uint32_t kv_crc32c(uint32_t crc, const void *data, size_t n) {
    return kv_crc32c_soft(crc, (const uint8_t *)data, n);
}
#endif
#endif
