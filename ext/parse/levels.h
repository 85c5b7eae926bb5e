/* Fast reading of levels as the exchanges write them today, two numbers at a time.

   Each number of a pair is loaded into one vector and aligned by its shape. Both become doubles together, with one
   multiplication, one addition and one division, exact as in number.h. Prices of one side mostly have the same shape,
   so the shape of the last price is expected, and the processor need not wait for the digits. Sizes vary, so their
   shapes are measured. Each loop reads levels until one is unusual (layout, number, order, value, room). It returns
   the place behind the last level that it read, or p when it read none. The caller's slower path continues there.
   Without SSE4.1 nothing is read here. */
#ifndef COINSPACE_LEVELS_H
#define COINSPACE_LEVELS_H

#include <math.h>

#include "number.h"
#include "unit.h"

/* One side of a book while its levels are read. */
typedef struct {
    double *prices;
    double *sizes;
    long n;
    long room;
    double least; /* smallest size of a level */
} Side;

/* above 0; not a subnormal number, because comparing those is slow */
static const double TINY = 1e-300;

#if defined(__SSE4_1__)

enum {
    VECTOR = 16,
    /* bytes that reading a pair or a unit may load from its first byte on: keys, full vectors, the bytes behind */
    PAIRS_PAD = 2 + VECTOR + 3 + VECTOR + 8,
    UNITS_PAD = 13 + 13 + 12 + 12 + 4 * VECTOR + 16,
    /* `point` of a number without a point */
    NO_POINT = 16
};

/* from ORDER + size on: the shuffle that aligns a number of `size` bytes to the right */
static const int8_t ORDER[32] = {-16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1,
                                 0,   1,   2,   3,   4,   5,   6,   7,  8,  9,  10, 11, 12, 13, 14, 15};
/* from CLOSE_UP + point on: added to the shuffle, so that digits before the point move over it */
static const int8_t CLOSE_UP[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
/* by `point` = digits behind the point: with no digit it is not a number */
static const double DIVISOR[NO_POINT + 1] = {NAN, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7, 1e8,
                                             1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1};
/* by digits before the point: the smallest value, as several digits do not begin with 0; INFINITY = not read here */
static const double LEAST[VECTOR + 1] = {INFINITY, 0,   1e1, 1e2,  1e3,  1e4,  1e5,  1e6,     1e7,
                                         1e8,      1e9, 1e10, 1e11, 1e12, 1e13, 1e14, INFINITY};
typedef struct {
    size_t whole; /* digits before the point */
    size_t size;
    size_t point; /* digits behind the point, or NO_POINT */
} Shape;

/* A shape that is expected again, with values derived from it. */
typedef struct {
    Shape shape;
    unsigned field; /* bit for each byte of the number and for the byte behind it */
    unsigned marks; /* bits of `field` that are not digits */
    char at_whole;
    __m128i order;
    double divisor;
    double least;
} Expected;

/* Measure a shape. Returns: 0 when the number does not end within the vector. */
static inline int shape_measure(const char *p, unsigned others, Shape *shape)
{
    const size_t whole = (unsigned)__builtin_ctz(others | 1u << VECTOR);
    shape->whole = whole;
    if (__builtin_expect(p[whole] == '.', 1)) {
        others &= others - 1;
        if (__builtin_expect(others == 0, 0))
            return 0;
        shape->size = (unsigned)__builtin_ctz(others);
        shape->point = shape->size - whole - 1;
    } else {
        shape->size = whole;
        shape->point = NO_POINT;
    }
    return 1;
}

static inline __m128i shape_order(const Shape *shape)
{
    return _mm_add_epi8(_mm_loadu_si128((const __m128i *)(ORDER + shape->size)),
                        _mm_loadu_si128((const __m128i *)(CLOSE_UP + shape->point)));
}

/* Align the number at p, which is expected to have the last shape; learn its shape when it has another one. */
static inline int number_expected(const char *p, Expected *expected, __m128i *aligned)
{
    const __m128i digits = digits_at(p);
    const unsigned others = no_digits(digits);
    if (__builtin_expect((others & expected->field) != expected->marks ||
                         p[expected->shape.whole] != expected->at_whole, 0)) {
        Shape *shape = &expected->shape;
        if (!shape_measure(p, others, shape))
            return 0;
        expected->field = (2u << shape->size) - 1;
        expected->marks = 1u << shape->whole | 1u << shape->size;
        expected->at_whole = p[shape->whole];
        expected->order = shape_order(shape);
        expected->divisor = DIVISOR[shape->point];
        expected->least = LEAST[shape->whole] > TINY ? LEAST[shape->whole] : TINY;
    }
    *aligned = _mm_shuffle_epi8(digits, expected->order);
    return 1;
}

/* Align the number at p after measuring its shape. */
static inline int number_measured(const char *p, Shape *shape, __m128i *aligned)
{
    const __m128i digits = digits_at(p);
    if (!shape_measure(p, no_digits(digits), shape))
        return 0;
    *aligned = _mm_shuffle_epi8(digits, shape_order(shape));
    return 1;
}

/* Put an exponent at p as in `6.1E-8` into the divisor. Returns: its end, NULL when it is not such an exponent. */
static inline const char *exponent_down(const char *p, const Shape *shape, double *divisor)
{
    unsigned power;
    if ((*p | 0x20) != 'e' || p[1] != '-' || !is_digit(p[2]))
        return 0;
    power = (unsigned)(p[2] - '0');
    p += 3;
    if (is_digit(*p))
        power = power * 10 + (unsigned)(*p++ - '0');
    if (is_digit(*p))
        return 0;
    power += shape->point == NO_POINT ? 0 : (unsigned)shape->point;
    if (power > 22)
        return 0;
    *divisor = EXACT_POWERS[power];
    return p;
}

/* Values of two aligned numbers of at most 15 digits; each is rounded once, by the division. */
static inline __m128d two_numbers(__m128i a, __m128i b, __m128d divisors)
{
    const __m128i by_two = _mm_set1_epi16(10 + (1 << 8)), by_four = _mm_set1_epi32(100 + (1 << 16));
    const __m128i fours = _mm_packus_epi32(_mm_madd_epi16(_mm_maddubs_epi16(a, by_two), by_four),
                                           _mm_madd_epi16(_mm_maddubs_epi16(b, by_two), by_four));
    /* the upper and the lower eight digits of a, then those of b */
    const __m128i eights = _mm_madd_epi16(fours, _mm_set1_epi32(10000 + (1 << 16)));
    const __m128d upper = _mm_cvtepi32_pd(_mm_shuffle_epi32(eights, _MM_SHUFFLE(3, 1, 2, 0)));
    const __m128d lower = _mm_cvtepi32_pd(_mm_shuffle_epi32(eights, _MM_SHUFFLE(2, 0, 3, 1)));
    return _mm_div_pd(_mm_add_pd(_mm_mul_pd(upper, _mm_set1_pd(1e8)), lower), divisors);
}

static inline int all_at_least(__m128d values, __m128d least)
{
    return _mm_movemask_pd(_mm_cmpge_pd(values, least)) == 3;
}

/* Read `["price","size"]` and a comma, again and again. `bound`: PAIRS_PAD bytes behind it are readable. */
static inline const char *pairs_within(const char *p, const char *bound, Side *side, int falling)
{
    Expected price = {.field = 0, .marks = 1};
    Shape size = {0};
    __m128i price_digits, size_digits;
    double last = side->n ? side->prices[side->n - 1] : falling ? INFINITY : 0;
    const __m128d floor = _mm_set_pd(side->least, TINY);
    const long before = side->n;
    long n = before;
    while (p < bound && n < side->room) {
        const char *q = p + 2;
        __m128d level;
        if (!SAME(p, "[\"") || !number_expected(q, &price, &price_digits))
            break;
        q += price.shape.size;
        if (!SAME(q, "\",\"") || !number_measured(q + 3, &size, &size_digits))
            break;
        q += 3 + size.size;
        if (!SAME(q, "\"]"))
            break;
        level = two_numbers(price_digits, size_digits, _mm_set_pd(DIVISOR[size.point], price.divisor));
        if (!all_at_least(level, _mm_max_pd(_mm_set_pd(LEAST[size.whole], price.least), floor)))
            break;
        if (falling ? _mm_cvtsd_f64(level) > last : _mm_cvtsd_f64(level) < last)
            break;
        last = _mm_cvtsd_f64(level);
        _mm_storel_pd(side->prices + n, level);
        _mm_storeh_pd(side->sizes + n, level);
        n++;
        p = q + 3;
        if (p[-1] != ',' || p[0] != '[')
            break;
    }
    side->n = n;
    /* the comma behind the last level is not read */
    return n == before ? p : p - 1;
}

typedef struct {
    const char *text;
    size_t size;
} Label;

/* texts before the numbers of a unit; constants where units_within is inlined, so that comparing takes no loop */
typedef struct {
    Label ask_price, bid_price, ask_size, bid_size;
} Labels;

#define LABEL(TEXT) {TEXT, sizeof(TEXT) - 1}
static const Labels DEFAULT_LABELS = {LABEL("{\"ask_price\":"), LABEL(",\"bid_price\":"),
                                      LABEL(",\"ask_size\":"), LABEL(",\"bid_size\":")};
static const Labels SIMPLE_LABELS = {LABEL("{\"ap\":"), LABEL(",\"bp\":"), LABEL(",\"as\":"), LABEL(",\"bs\":")};
#undef LABEL

static inline __attribute__((always_inline)) int has_label(const char *p, Label label)
{
    return memcmp(p, label.text, label.size) == 0;
}

/* Read units of two prices and two sizes, as pairs_within reads pairs. */
static inline __attribute__((always_inline)) const char *units_within(const char *p, const char *bound, Side *asks,
                                                                      Side *bids, Labels labels)
{
    Expected ask = {.field = 0, .marks = 1}, bid = ask;
    Shape ask_shape = {0}, bid_shape = {0};
    __m128i ask_digits, bid_digits;
    const __m128d bid_sign = _mm_set_pd(-0.0, 0.0);
    __m128d last = _mm_set_pd(bids->n ? -bids->prices[bids->n - 1] : -INFINITY,
                              asks->n ? asks->prices[asks->n - 1] : -INFINITY);
    const __m128d floor = _mm_set_pd(bids->least, asks->least);
    long n = 0, room = asks->room - asks->n;
    double *ask_prices = asks->prices + asks->n, *ask_sizes = asks->sizes + asks->n;
    double *bid_prices = bids->prices + bids->n, *bid_sizes = bids->sizes + bids->n;
    if (room > bids->room - bids->n)
        room = bids->room - bids->n;
    while (p < bound && n < room) {
        const char *q = p + labels.ask_price.size;
        __m128d prices, sizes, ordered, least, good;
        double ask_divisor, bid_divisor;
        if (!has_label(p, labels.ask_price) || !number_expected(q, &ask, &ask_digits))
            break;
        q += ask.shape.size;
        if (!has_label(q, labels.bid_price) || !number_expected(q + labels.bid_price.size, &bid, &bid_digits))
            break;
        q += labels.bid_price.size + bid.shape.size;
        prices = two_numbers(ask_digits, bid_digits, _mm_set_pd(bid.divisor, ask.divisor));
        ordered = _mm_xor_pd(prices, bid_sign);
        if (!has_label(q, labels.ask_size) || !number_measured(q + labels.ask_size.size, &ask_shape, &ask_digits))
            break;
        q += labels.ask_size.size + ask_shape.size;
        ask_divisor = DIVISOR[ask_shape.point];
        if (__builtin_expect(!has_label(q, labels.bid_size), 0)) {
            q = exponent_down(q, &ask_shape, &ask_divisor);
            if (q == 0 || !has_label(q, labels.bid_size))
                break;
        }
        q += labels.bid_size.size;
        if (!number_measured(q, &bid_shape, &bid_digits))
            break;
        q += bid_shape.size;
        bid_divisor = DIVISOR[bid_shape.point];
        if (__builtin_expect(*q != '}', 0)) {
            q = exponent_down(q, &bid_shape, &bid_divisor);
            if (q == 0 || *q != '}')
                break;
        }
        sizes = two_numbers(ask_digits, bid_digits, _mm_set_pd(bid_divisor, ask_divisor));
        good = _mm_and_pd(_mm_cmpge_pd(prices, _mm_set_pd(bid.least, ask.least)), _mm_cmpge_pd(ordered, last));
        least = _mm_max_pd(_mm_set_pd(LEAST[bid_shape.whole], LEAST[ask_shape.whole]), floor);
        if (_mm_movemask_pd(_mm_and_pd(good, _mm_cmpge_pd(sizes, least))) != 3)
            break;
        last = ordered;
        _mm_storel_pd(ask_prices + n, prices);
        _mm_storeh_pd(bid_prices + n, prices);
        _mm_storel_pd(ask_sizes + n, sizes);
        _mm_storeh_pd(bid_sizes + n, sizes);
        n++;
        p = q + 2;
        if (p[-1] != ',' || p[0] != '{')
            break;
    }
    asks->n += n;
    bids->n += n;
    return n == 0 ? p : p - 1;
}

/* Run a loop over the frame, then over a padded copy of its last bytes. */
#define TO_THE_END(LOOP, PAD, OPEN, ...)                                      \
    char copy[2 * (PAD)];                                                     \
    const char *rest = p, *done;                                              \
    if (end - p > (PAD)) {                                                    \
        const char *bound = end - (PAD);                                      \
        p = LOOP(p, bound, __VA_ARGS__);                                      \
        if (p < bound || p[0] != ',')                                         \
            return p;                                                         \
        rest = p + 1;                                                         \
    }                                                                         \
    if (rest >= end || *rest != (OPEN))                                       \
        return p;                                                             \
    memset(copy, 0, sizeof(copy));                                            \
    memcpy(copy, rest, (size_t)(end - rest));                                 \
    done = LOOP(copy, copy + (end - rest), __VA_ARGS__);                      \
    return done == copy ? p : rest + (done - copy);

static inline const char *pairs_falling(const char *p, const char *end, Side *side)
{
    TO_THE_END(pairs_within, PAIRS_PAD, '[', side, 1)
}

static inline const char *pairs_rising(const char *p, const char *end, Side *side)
{
    TO_THE_END(pairs_within, PAIRS_PAD, '[', side, 0)
}

static inline const char *units_default(const char *p, const char *end, Side *asks, Side *bids)
{
    TO_THE_END(units_within, UNITS_PAD, '{', asks, bids, DEFAULT_LABELS)
}

static inline const char *units_simple(const char *p, const char *end, Side *asks, Side *bids)
{
    TO_THE_END(units_within, UNITS_PAD, '{', asks, bids, SIMPLE_LABELS)
}
#undef TO_THE_END
#else
static inline const char *pairs_falling(const char *p, const char *end, Side *side)
{
    (void)end;
    (void)side;
    return p;
}

static inline const char *pairs_rising(const char *p, const char *end, Side *side)
{
    return pairs_falling(p, end, side);
}

static inline const char *units_default(const char *p, const char *end, Side *asks, Side *bids)
{
    (void)bids;
    return pairs_falling(p, end, asks);
}

static inline const char *units_simple(const char *p, const char *end, Side *asks, Side *bids)
{
    return units_default(p, end, asks, bids);
}
#endif
#endif
