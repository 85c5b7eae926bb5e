/* Templates: the bytes of one level as the exchanges write it today, with numbers in between.

   Any other byte gives NULL, and the caller reads the level on its path for any order of keys. A changed format of an
   exchange therefore costs speed, never correctness. LEVEL_PAD bytes at p must be readable. */
#ifndef COINSPACE_UNIT_H
#define COINSPACE_UNIT_H

#include "number.h"

enum {
    /* the longest unit (keys, and four numbers with exponents) and the bytes that reading its last number may load */
    LEVEL_PAD = 4 * (13 + 19) + NUMBER_PAD
};

/* the length is always a constant, so this becomes one or two comparisons */
#define SAME(p, literal) (memcmp((p), (literal), sizeof(literal) - 1) == 0)
#define EXPECT(literal)           \
    if (!SAME(p, literal))        \
        return 0;                 \
    p += sizeof(literal) - 1;
#define NUMBER(out)               \
    p = number_padded(p, (out));  \
    if (p == 0)                   \
        return 0;

/* number_short, and longer numbers that need only one rounding (sizes of cheap coins have 16 digits) */
static inline const char *number_padded(const char *p, double *value)
{
    Decimal d;
    const char *after = number_short(p, value);
    if (__builtin_expect(after != 0, 1))
        return after;
    after = number_split(p, p + NUMBER_PAD, &d);
    /* a number that fills the padding may continue behind it */
    return after && after < p + NUMBER_PAD && decimal_exact(&d, value) ? after : 0;
}

static inline const char *unit_default(const char *p, double *values)
{
    EXPECT("{\"ask_price\":")
    NUMBER(values)
    EXPECT(",\"bid_price\":")
    NUMBER(values + 1)
    EXPECT(",\"ask_size\":")
    NUMBER(values + 2)
    EXPECT(",\"bid_size\":")
    NUMBER(values + 3)
    return *p == '}' ? p + 1 : 0;
}

static inline const char *unit_simple(const char *p, double *values)
{
    EXPECT("{\"ap\":")
    NUMBER(values)
    EXPECT(",\"bp\":")
    NUMBER(values + 1)
    EXPECT(",\"as\":")
    NUMBER(values + 2)
    EXPECT(",\"bs\":")
    NUMBER(values + 3)
    return *p == '}' ? p + 1 : 0;
}

static inline const char *level_quoted(const char *p, double *price, double *size)
{
    EXPECT("[\"")
    NUMBER(price)
    EXPECT("\",\"")
    NUMBER(size)
    EXPECT("\"]")
    return p;
}

#undef NUMBER
#undef EXPECT
#endif
