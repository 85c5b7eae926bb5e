/* Fast reading of the fields that an exchange sends again and again: the same keys in the same order, each with a plain
   value and a comma or the closing brace right behind it. The expected keys and values are learned from earlier fields.

   Any other field ends the loop, and the caller reads it on its path for any order of keys. A changed format of an
   exchange therefore costs speed, never correctness. */
#ifndef COINSPACE_FIELDS_H
#define COINSPACE_FIELDS_H

#include "number.h"
#include "text.h"

/* type of a slot's value; null counts as absent */
enum {
    ABSENT = 0,
    STRING = 1,      /* at..to is the text between the quotes, escapes resolved */
    NUMBER = 2,      /* at..to is the text, number[] the double */
    TRUE = 3,
    FALSE = 4,
    OBJECT = 5,      /* at..to is the whole text, checked */
    ARRAY = 6,
    LEVELS = 7,      /* levels, read into the sides */
    LONG_NUMBER = 8  /* at..to is the text, checked */
};

enum {
    SLOTS = 48,    /* fields that one parser can read by name */
    KEY_TEXT = 32  /* bytes of a remembered key with its quotes and colon, no more than PLAIN_PAD */
};

/* The fields of an object, by slot. */
typedef struct {
    unsigned char type[SLOTS];
    const char *at[SLOTS];
    const char *to[SLOTS];
    double number[SLOTS];
} Slots;

/* Look of a value: a string between its quotes, or a number without sign and exponent. A text with a learned look is
   always a valid value. */
typedef struct {
    unsigned field; /* bit for each byte of the value and for the byte behind it */
    unsigned marks; /* bits of the point and of the byte behind the value */
    unsigned stop;  /* bit of the byte behind the value */
    char at_whole;  /* the point, or the byte behind a number without a point */
    long whole;     /* bytes before the point */
    long fraction;  /* bytes behind the point */
    long size;      /* bytes: at most 15 of a string, 31 of a number */
} Look;

/* a look that no value has */
static const Look NO_LOOK = {.field = 0, .marks = 1, .stop = 1};

/* One key of the table: first the keys that a parser reads, then other keys seen in frames. */
typedef struct Key {
    struct Key *next;    /* the key that followed last time, which is expected again; or NULL */
    long size;           /* bytes of `text` */
    long slot;           /* -1 = not read */
    Look look;           /* look of its last value */
    /* aligned, so that they are compared without a copy */
    char text[KEY_TEXT] __attribute__((aligned(16))); /* `"key":` */
    char mask[KEY_TEXT] __attribute__((aligned(16))); /* ones for each byte of `text` */
} Key;

#if defined(__SSE4_1__)
/* 16 bytes at p. `near`: bytes from `end` on are not read and give zero. */
static inline __m128i load16(const char *p, const char *end, int near)
{
    static const int8_t SHIFT[48] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                     -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                     -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    if (!near || end - p >= 16)
        return _mm_loadu_si128((const __m128i *)p);
    return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(end - 16)),
                            _mm_loadu_si128((const __m128i *)(SHIFT + 16 - (end - p))));
}

static inline int key_same(const char *p, const char *end, int near, const Key *key)
{
    const __m128i *text = (const __m128i *)key->text, *mask = (const __m128i *)key->mask;
    return _mm_testz_si128(_mm_xor_si128(load16(p, end, near), *text), *mask) &&
           _mm_testz_si128(_mm_xor_si128(load16(p + 16, end, near), text[1]), mask[1]);
}

static inline int string_same(const char *p, const char *end, int near, const Look *look)
{
    return (!near || end - p > look->size) &&
           (not_plain(load16(p, end, near)) & look->field) == look->stop && p[look->size] == '"';
}

/* bit for each of 32 bytes that is not a digit */
static inline unsigned no_digits32(const char *p, const char *end, int near, unsigned first)
{
    return first | no_digits(digits_of(load16(p + 16, end, near))) << 16;
}

static inline int number_same(const char *p, const char *end, int near, const Look *look)
{
    unsigned others = no_digits(digits_of(load16(p, end, near)));
    if (near && end - p <= look->size)
        return 0;
    if (look->size > 15)
        others = no_digits32(p, end, near, others);
    return (others & look->field) == look->marks && p[look->whole] == look->at_whole && (*p != '0' || look->whole == 1);
}

/* The value of a number for which `number_same` is true. */
static inline double number_value(const char *p, const char *end, int near, const Look *look)
{
    return digits_value(digits_of(load16(p, end, near)), (size_t)look->size, (size_t)look->fraction) /
           EXACT_POWERS[look->fraction];
}

/* Learn the look of a value from p to `after`, which was checked and has a byte of the frame behind it. */
static inline void value_learn(Look *look, const char *p, const char *after, const char *end, int near)
{
    const int quoted = *p == '"';
    const long size = after - p - 2 * quoted;
    long whole = size;
    p += quoted;
    *look = NO_LOOK;
    if (size > (quoted ? 15 : 31))
        return;
    if (!quoted)
        whole = __builtin_ctzll(no_digits32(p, end, near, no_digits(digits_of(load16(p, end, near)))) | 1ULL << 32);
    if (whole == 0 || (whole < size && p[whole] != '.'))
        return;
    look->field = (2u << size) - 1;
    look->stop = 1u << size;
    look->marks = 1u << whole | look->stop;
    look->whole = whole;
    look->fraction = size - whole - (whole < size);
    look->size = size;
    look->at_whole = p[whole];
}
#else
/* Portable: only keys are expected, not values. */
static inline int key_same(const char *p, const char *end, int near, const Key *key)
{
    (void)near;
    return end - p >= key->size && memcmp(p, key->text, (size_t)key->size) == 0;
}

static inline int string_same(const char *p, const char *end, int near, const Look *look)
{
    (void)p;
    (void)end;
    (void)near;
    (void)look;
    return 0;
}

static inline int number_same(const char *p, const char *end, int near, const Look *look)
{
    return string_same(p, end, near, look);
}

static inline double number_value(const char *p, const char *end, int near, const Look *look)
{
    return string_same(p, end, near, look);
}

static inline void value_learn(Look *look, const char *p, const char *after, const char *end, int near)
{
    (void)after;
    string_same(p, end, near, look);
}
#endif

/* Whether the key is at p. */
static inline int key_follows(const char *p, const char *frame, const char *end, const Key *key)
{
    return key && end - frame >= PLAIN_PAD && key_same(p, end, 1, key);
}

/* Read the field at p when it has this key and a plain value. When the value looks as last time, its size does not
   depend on its bytes, so the processor can start with the next field early: 134 ns per trade of Upbit instead of
   174 ns, 2026-11. `near`: less than PLAIN_PAD bytes follow the key, and only a value with the last look is read.
   Returns: the place behind the value, within the frame; NULL for another field. */
static inline __attribute__((always_inline)) const char *field_expected(const char *p, const char *end, int near,
                                                                        Key *key, Slots *slots)
{
    const long slot = key->slot;
    const char *value, *to, *after;
    int kind;
    if (!key_same(p, end, near, key))
        return 0;
    value = p + key->size;
    if (near && value >= end)
        return 0;
    if (*value == '"') {
        kind = STRING;
        value++;
        to = value + key->look.size;
        if (!string_same(value, end, near, &key->look)) {
            if (near || (to = quote_near(value)) == 0)
                return 0;
            value_learn(&key->look, value - 1, to + 1, end, near);
        }
        after = to + 1;
    } else if (*value <= '9') {
        kind = key->look.size > 15 ? LONG_NUMBER : NUMBER;
        after = to = value + key->look.size;
        if (number_same(value, end, near, &key->look)) {
            if (slot >= 0 && kind == NUMBER)
                slots->number[slot] = number_value(value, end, near, &key->look);
        } else {
            if (near)
                return 0;
            kind = NUMBER;
            after = to = number_short(value, slot < 0 ? 0 : slots->number + slot);
            if (to == 0) {
                kind = LONG_NUMBER;
                after = to = number_plain(value);
            }
            if (to == 0)
                return 0;
            value_learn(&key->look, value, to, end, near);
        }
    } else if (end - value > 5 && memcmp(value, "true", 4) == 0) {
        kind = TRUE;
        after = to = value + 4;
    } else if (end - value > 5 && memcmp(value, "false", 5) == 0) {
        kind = FALSE;
        after = to = value + 5;
    } else {
        return 0;
    }
    if (near && after >= end)
        return 0;
    if (slot >= 0) {
        slots->type[slot] = (unsigned char)kind;
        slots->at[slot] = value;
        slots->to[slot] = to;
    }
    return after;
}

/* Read fields as long as they are the expected ones. p: at a key of the object. `last`: the key before p, then the key
   of the last field read. Returns: the comma or closing brace behind the last value; p when no field was read. */
static inline const char *fields_expected(const char *p, const char *frame, const char *end, Key **last, Slots *slots)
{
    const char *done = p, *after;
    Key *next;
    if (end - frame < PLAIN_PAD)
        return p;
    while ((next = (*last)->next) != 0) {
        /* two calls, so that only the last fields of a frame check for its end */
        after = end - p >= next->size + PLAIN_PAD ? field_expected(p, end, 0, next, slots)
                                                  : field_expected(p, end, 1, next, slots);
        /* another byte follows the value: the caller reads the field and its slot again */
        if (after == 0 || (*after != ',' && *after != '}'))
            break;
        *last = next;
        done = after;
        if (*after == '}')
            break;
        p = after + 1;
    }
    return done;
}
#endif
