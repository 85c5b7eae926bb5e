/* Bytes of a frame: the vector loops of the scanner, bounded so that no byte at or after `end` is read. */
#ifndef COINSPACE_TEXT_H
#define COINSPACE_TEXT_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

static inline uint64_t load8(const char *p)
{
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

/* The first byte at or after p that ends or complicates a string: a quote, a backslash, a control
   character or a byte of a multi-byte character; `end` where there is none. */
static inline const char *plain_end(const char *p, const char *end)
{
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(' ');
    while (end - p >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)p);
        /* signed: bytes >= 0x80 are negative and so also below the space */
        __m128i odd = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash)),
                                   _mm_cmplt_epi8(v, space));
        int mask = _mm_movemask_epi8(odd);
        if (mask)
            return p + __builtin_ctz((unsigned)mask);
        p += 16;
    }
#endif
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80)
        p++;
    return p;
}

/* The first `size` bytes of p as one word, zero beyond; 8 bytes are loaded only where the frame has them. */
static inline uint64_t head8(const char *p, const char *end, long size)
{
    uint64_t word = 0;
    if (end - p >= 8) {
        word = load8(p);
        return size >= 8 ? word : word & ((1ULL << (8 * size)) - 1);
    }
    memcpy(&word, p, (size_t)(size < 8 ? size : 8));
    return word;
}

enum {
    /* bytes of a key with its quotes and colon that are remembered, and that `starts_with` looks at */
    LEARNED_SIZE = 32
};

/* Whether p begins with the remembered text; mask: its length as that many low bits. 32 bytes are looked at. */
static inline int starts_with(const char *p, const char *text, uint32_t mask)
{
#if defined(__SSE2__)
    const __m128i low = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), _mm_loadu_si128((const __m128i *)text));
    const __m128i high =
        _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + 16)), _mm_loadu_si128((const __m128i *)(text + 16)));
    const uint32_t same = (uint32_t)_mm_movemask_epi8(low) | ((uint32_t)_mm_movemask_epi8(high) << 16);
    return (same & mask) == mask;
#else
    return memcmp(p, text, (size_t)__builtin_popcount(mask)) == 0;
#endif
}

#endif
