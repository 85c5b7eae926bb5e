/* Vector loops over the bytes of a frame. No byte at or after `end` is read. */
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

#if defined(__SSE2__)
/* Bit for each byte that is not plain text of a string: a quote, a backslash, a control character or a byte of a
   multi-byte character. */
static inline unsigned not_plain(__m128i text)
{
    const __m128i marks =
        _mm_or_si128(_mm_cmpeq_epi8(text, _mm_set1_epi8('"')), _mm_cmpeq_epi8(text, _mm_set1_epi8('\\')));
    /* signed: bytes >= 0x80 are negative and so also below the space */
    return (unsigned)_mm_movemask_epi8(_mm_or_si128(marks, _mm_cmplt_epi8(text, _mm_set1_epi8(' '))));
}
#endif

/* The first byte at or after p that is not plain; `end` when there is none. */
static inline const char *plain_end(const char *p, const char *end)
{
#if defined(__SSE2__)
    while (end - p >= 16) {
        const unsigned mask = not_plain(_mm_loadu_si128((const __m128i *)p));
        if (mask)
            return p + __builtin_ctz(mask);
        p += 16;
    }
#endif
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80)
        p++;
    return p;
}

/* The quote that closes a plain string of at most 16 bytes, NULL for another string. 17 bytes at p must be readable. */
static inline const char *quote_near(const char *p)
{
#if defined(__SSE2__)
    p += __builtin_ctz(not_plain(_mm_loadu_si128((const __m128i *)p)) | 1u << 16);
#else
    p = plain_end(p, p + 16);
#endif
    return *p == '"' ? p : 0;
}

/* The first `size` bytes at p as one word, padded with zeros; 8 bytes are loaded only when the frame has them. */
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

#endif
