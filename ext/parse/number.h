/* JSON numbers to doubles, equal to Python's float(text) bit for bit.

   A number of at most 16 bytes is read with one vector load. Its mantissa has at most 15 digits, so one
   multiplication or division by a power of ten up to 10^22 rounds once and is exact (Clinger 1990).
   All other numbers go through `number_split` and the caller's slow path. No byte at or after `end` is read. */
#ifndef COINSPACE_NUMBER_H
#define COINSPACE_NUMBER_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE4_1__)
#include <smmintrin.h>
#endif

enum {
    /* bytes that `number_short` may read from the first byte on: the caller makes sure that they are readable */
    NUMBER_PAD = 24,
    /* the same for `number_plain` */
    PLAIN_PAD = 32
};

static const double EXACT_POWERS[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                        1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* 19 digits always fit; further digits count in the exponent, and `inexact` is set when one of them is not zero */
enum { MANTISSA_DIGITS = 19, EXPONENT_LIMIT = 1000000000 };

typedef struct {
    uint64_t mantissa;
    int64_t exponent; /* value = mantissa * 10^exponent */
    int negative;
    int inexact;
} Decimal;

static inline int is_digit(char c)
{
    return (unsigned char)(c - '0') < 10;
}

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
/* Read 8 digits at p into `out`, with three multiplications instead of eight. Returns: 0 when one is not a digit. */
static inline int eight_digits(const char *p, uint64_t *out)
{
    uint64_t w;
    memcpy(&w, p, 8);
    if (((w & 0xF0F0F0F0F0F0F0F0ULL) | (((w + 0x0606060606060606ULL) & 0xF0F0F0F0F0F0F0F0ULL) >> 4)) !=
        0x3333333333333333ULL)
        return 0;
    w -= 0x3030303030303030ULL;
    w = w * 10 + (w >> 8);
    *out = (((w & 0x000000FF000000FFULL) * 0x000F424000000064ULL) +
            (((w >> 16) & 0x000000FF000000FFULL) * 0x0000271000000001ULL)) >> 32;
    return 1;
}
#else
static inline int eight_digits(const char *p, uint64_t *out)
{
    (void)p;
    (void)out;
    return 0;
}
#endif

/* Read -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)? exactly. Returns: its end, NULL for another text. */
static const char *number_split(const char *p, const char *end, Decimal *out)
{
    uint64_t mantissa = 0;
    int64_t exponent = 0;
    uint64_t eight;
    int digits = 0, inexact = 0, negative = p < end && *p == '-';
    p += negative;
    if (p == end || !is_digit(*p))
        return 0;
    if (*p == '0' && p + 1 < end && is_digit(p[1]))
        return 0;
    /* not from a leading zero on: leading zeros do not count as digits of the mantissa */
    while (end - p >= 8 && digits + 8 <= MANTISSA_DIGITS && (digits || *p != '0') && eight_digits(p, &eight)) {
        mantissa = mantissa * 100000000 + eight;
        digits += 8;
        p += 8;
    }
    for (; p < end && is_digit(*p); p++) {
        if (digits < MANTISSA_DIGITS) {
            mantissa = mantissa * 10 + (uint64_t)(*p - '0');
            digits += mantissa != 0;
        } else {
            exponent++;
            inexact |= *p != '0';
        }
    }
    if (p < end && *p == '.') {
        const char *fraction = ++p;
        while (end - p >= 8 && digits && digits + 8 <= MANTISSA_DIGITS && eight_digits(p, &eight)) {
            mantissa = mantissa * 100000000 + eight;
            digits += 8;
            exponent -= 8;
            p += 8;
        }
        for (; p < end && is_digit(*p); p++) {
            if (digits < MANTISSA_DIGITS) {
                mantissa = mantissa * 10 + (uint64_t)(*p - '0');
                digits += mantissa != 0;
                exponent--;
            } else {
                inexact |= *p != '0';
            }
        }
        if (p == fraction)
            return 0;
    }
    if (p < end && (*p | 0x20) == 'e') {
        int64_t power = 0;
        int down = 0;
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            down = *p++ == '-';
        if (p == end || !is_digit(*p))
            return 0;
        for (; p < end && is_digit(*p); p++)
            if (power < EXPONENT_LIMIT)
                power = power * 10 + (*p - '0');
        exponent += down ? -power : power;
    }
    out->mantissa = mantissa;
    out->exponent = exponent;
    out->negative = negative;
    out->inexact = inexact;
    return p;
}

/* The end of a plain number: no sign, no exponent, less than 32 bytes, the point within the first 16 bytes. NULL for
   another number or text. PLAIN_PAD bytes at p must be readable. */
#if defined(__SSE4_1__)
/* 16 bytes minus '0' */
static inline __m128i digits_of(__m128i text)
{
    return _mm_sub_epi8(text, _mm_set1_epi8('0'));
}

static inline __m128i digits_at(const char *p)
{
    return digits_of(_mm_loadu_si128((const __m128i *)p));
}

/* bit for each byte that is not a digit */
static inline unsigned no_digits(__m128i digits)
{
    return (unsigned)_mm_movemask_epi8(_mm_adds_epu8(digits, _mm_set1_epi8(0x7f - 9)));
}

static inline const char *number_plain(const char *p)
{
    unsigned others = no_digits(digits_at(p)), size, least = 1;
    const unsigned whole = size = (unsigned)__builtin_ctz(others | 1u << 16);
    if (p[whole] == '.') {
        others &= others - 1;
        size = (unsigned)__builtin_ctz(others | 1u << 16);
        least = whole + 2;
    }
    if (size == 16) {
        size += (unsigned)__builtin_ctz(no_digits(digits_at(p + 16)) | 1u << 16);
        if (size == 32 || p[size] == '.')
            return 0;
    }
    if (whole == 0 || size < least || (whole > 1 && *p == '0') || (p[size] | 0x20) == 'e')
        return 0;
    return p + size;
}
#else
static inline const char *number_plain(const char *p)
{
    (void)p;
    return 0;
}
#endif

/* The end of a number without sign and with at most 15 bytes before its exponent; NULL for another number or text.
   `value` may be NULL when only the end is wanted. NUMBER_PAD bytes at p must be readable. */
#if defined(__SSE4_1__)
static const uint8_t ALIGN_RIGHT[32] __attribute__((aligned(32))) = {
    0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
    0,    1,    2,    3,    4,    5,    6,    7,    8,    9,    10,   11,   12,   13,   14,   15};
static const uint8_t LAST_BYTES[32] __attribute__((aligned(32))) = {
    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

/* The digits of `size` bytes (at most 15) as a number without its point, which is before the last `fraction` bytes. */
static inline double digits_value(__m128i digits, size_t size, size_t fraction)
{
    __m128i aligned = _mm_shuffle_epi8(digits, _mm_loadu_si128((const __m128i *)(ALIGN_RIGHT + size)));
    /* move the digits before the point by one byte, over the point */
    if (fraction)
        aligned = _mm_blendv_epi8(_mm_slli_si128(aligned, 1), aligned,
                                  _mm_loadu_si128((const __m128i *)(LAST_BYTES + fraction)));
    /* 16 digits to 8 pairs to 4 fours to 2 eights */
    const __m128i pairs = _mm_maddubs_epi16(aligned, _mm_set1_epi16(10 + (1 << 8)));
    const __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi32(100 + (1 << 16)));
    const __m128i eights = _mm_madd_epi16(_mm_packus_epi32(fours, fours), _mm_set1_epi32(10000 + (1 << 16)));
    const uint64_t both = (uint64_t)_mm_cvtsi128_si64(eights);
    return (double)(int64_t)((both & 0xffffffffu) * 100000000u + (both >> 32));
}

static inline const char *number_short(const char *p, double *value)
{
    const __m128i digits = digits_at(p);
    unsigned others = no_digits(digits), size, fraction = 0;
    int power;
    if (__builtin_expect(others == 0, 0))
        return 0;
    const unsigned whole = size = (unsigned)__builtin_ctz(others);
    if (p[whole] == '.') {
        others &= others - 1;
        if (__builtin_expect(others == 0, 0))
            return 0;
        size = (unsigned)__builtin_ctz(others);
        fraction = size - whole - 1;
        if (__builtin_expect(fraction == 0, 0))
            return 0;
    }
    if (__builtin_expect(whole == 0 || (*p == '0' && whole > 1), 0))
        return 0;
    p += size;
    power = -(int)fraction;
    if (__builtin_expect((*p | 0x20) == 'e', 0)) {
        int down = p[1] == '-', written;
        p += 1 + (down || p[1] == '+');
        if (!is_digit(*p))
            return 0;
        written = *p++ - '0';
        if (is_digit(*p)) {
            written = written * 10 + (*p++ - '0');
            if (is_digit(*p))
                return 0;
        }
        power += down ? -written : written;
        if (power < -22 || power > 22)
            return 0;
    }
    if (value) {
        const double mantissa = digits_value(digits, size, fraction);
        *value = power < 0 ? mantissa / EXACT_POWERS[-power] : mantissa * EXACT_POWERS[power];
    }
    return p;
}
#else
/* Portable: the same numbers, one digit at a time. */
static inline const char *number_short(const char *p, double *value)
{
    Decimal d;
    const char *after = number_split(p, p + 16, &d);
    if (after == 0 || after == p + 16 || d.mantissa > (1ULL << 53) || d.exponent < -22 || d.exponent > 22)
        return 0;
    if ((*after | 0x20) == 'e' || d.negative)
        return 0;
    if (value)
        *value = d.exponent < 0 ? (double)d.mantissa / EXACT_POWERS[-d.exponent]
                                : (double)d.mantissa * EXACT_POWERS[d.exponent];
    return after;
}
#endif

#if defined(__SIZEOF_INT128__)
/* mantissa / 10^places, rounded once; the mantissa is not 0, and there are at most 19 places. */
static __attribute__((noinline, unused)) double divided_exactly(uint64_t mantissa, unsigned places)
{
    const uint64_t power = (uint64_t)EXACT_POWERS[places];
    /* shift both until their highest bit is set, so that the quotient has 64 bits */
    const int up = __builtin_clzll(mantissa), down = __builtin_clzll(power);
    const uint64_t m = mantissa << up, d = power << down;
    const int over = m >= d;
    const unsigned __int128 dividend = (unsigned __int128)m << (64 - over);
    const uint64_t quotient = (uint64_t)(dividend / d);
    /* 53 bits stay; the next bit and the rest decide about rounding, ties go to the even number */
    const uint64_t half = quotient >> 10 & 1, rest = (quotient & 0x3ff) | (uint64_t)(dividend % d != 0);
    const uint64_t kept = (quotient >> 11) + (half & ((uint64_t)(rest != 0) | (quotient >> 11 & 1)));
    /* exponent of the quotient: m and d were shifted, the dividend by 64 - over, and 11 bits were dropped */
    const int exponent = 11 + down - up - (64 - over);
    uint64_t bits = (uint64_t)(1023 + 52 + exponent) << 52;
    double value;
    /* a carry out of the 53 bits is a power of two: the addition moves it into the exponent */
    bits += kept - (1ULL << 52);
    memcpy(&value, &bits, 8);
    return value;
}
#endif

/* Compute the value when one rounding is enough. Returns: whether it is. */
static inline int decimal_exact(const Decimal *d, double *value)
{
    double v;
    if (d->mantissa == 0) {
        v = 0.0;
    } else if (d->inexact || d->exponent < -22 || d->exponent > 22) {
        return 0;
    } else if (d->mantissa <= (1ULL << 53)) {
        v = (double)d->mantissa;
        v = d->exponent < 0 ? v / EXACT_POWERS[-d->exponent] : v * EXACT_POWERS[d->exponent];
    } else {
#if defined(__SIZEOF_INT128__)
        if (d->exponent > 0 || d->exponent < -19)
            return 0;
        v = divided_exactly(d->mantissa, (unsigned)-d->exponent);
#else
        return 0;
#endif
    }
    *value = d->negative ? -v : v;
    return 1;
}

/* Read a text of 16 to 18 digits: an id or a time in microseconds. Returns: whether it is one. */
static inline int digits_integer(const char *p, const char *end, int64_t *out)
{
    uint64_t upper, lower;
    if (end - p < 16 || end - p > 18 || *p == '0' || !eight_digits(p, &upper) || !eight_digits(p + 8, &lower))
        return 0;
    upper = upper * 100000000 + lower;
    for (p += 16; p < end; p++) {
        if (!is_digit(*p))
            return 0;
        upper = upper * 10 + (uint64_t)(*p - '0');
    }
    *out = (int64_t)upper;
    return 1;
}

/* Convert to int64 exactly; 1.0 and 1E3 are integers. Returns: 0 when the value is not an integer within int64. */
static inline int decimal_integer(const Decimal *d, int64_t *out)
{
    uint64_t m = d->mantissa;
    int64_t e = d->exponent;
    if (d->inexact)
        return 0;
    if (m == 0)
        e = 0;
    for (; e < 0; e++) {
        if (m % 10)
            return 0;
        m /= 10;
    }
    for (; e > 0; e--) {
        if (m > UINT64_MAX / 10)
            return 0;
        m *= 10;
    }
    if (m > (uint64_t)INT64_MAX + (uint64_t)d->negative)
        return 0;
    *out = d->negative ? (int64_t)(0 - m) : (int64_t)m;
    return 1;
}

#endif
