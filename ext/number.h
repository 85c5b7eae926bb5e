/* JSON numbers to doubles, equal to Python's float(text) bit for bit.

   A number of at most 16 bytes is read with one vector load. Its mantissa has at most 15 digits, so one
   multiplication or division by a power of ten up to 10^22 rounds once and is exact (Clinger 1990).
   All others go through `number_split` and the caller's slow path. No byte at or after `end` is read. */
#ifndef COINSPACE_NUMBER_H
#define COINSPACE_NUMBER_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE4_1__)
#include <smmintrin.h>
#endif

static const double EXACT_POWERS[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                        1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* 19 digits always fit; more are counted in the exponent, and `inexact` tells that some were not zero */
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

/* Read -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)? exactly; NULL when the text is something else. */
static const char *number_split(const char *p, const char *end, Decimal *out)
{
    uint64_t mantissa = 0;
    int64_t exponent = 0;
    int digits = 0, inexact = 0, negative = p < end && *p == '-';
    p += negative;
    if (p == end || !is_digit(*p))
        return 0;
    if (*p == '0' && p + 1 < end && is_digit(p[1]))
        return 0;
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

/* 1 and the value where one rounding is enough. */
static inline int decimal_exact(const Decimal *d, double *value)
{
    double v;
    if (d->mantissa == 0) {
        v = 0.0;
    } else if (d->inexact || d->mantissa > (1ULL << 53) || d->exponent < -22 || d->exponent > 22) {
        return 0;
    } else {
        v = (double)d->mantissa;
        v = d->exponent < 0 ? v / EXACT_POWERS[-d->exponent] : v * EXACT_POWERS[d->exponent];
    }
    *value = d->negative ? -v : v;
    return 1;
}

/* 1 when the value is an integer within int64, which `out` then holds exactly: 1.0 and 1E3 are integers. */
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
