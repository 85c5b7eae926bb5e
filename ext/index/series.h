/* The curve's passes over whole sides, four doubles at a time.

   The code uses the compiler's vector types. So every processor does the same operations in the same order and gives the
   same bits: sums have fixed lanes, and the compiler must not contract or reorder operations. Where the loader can
   choose between versions of a function, there is a version for AVX2. It is three times as fast as the default version,
   which runs on the oldest supported processor. */
#ifndef COINSPACE_SERIES_H
#define COINSPACE_SERIES_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__)
/* no function that is not inlined has vector arguments, so the warning about their ABI does not apply */
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

enum { LANES = 4 };

/* the loader chooses a version before a sanitiser is ready */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define WIDE static __attribute__((target_clones("avx2", "default"), noinline))
#else
#define WIDE static
#endif
#define PART static inline __attribute__((always_inline))

/* memory is aligned only for a double */
typedef double Lanes __attribute__((vector_size(32), aligned(8), may_alias));
typedef int64_t Bits __attribute__((vector_size(32), aligned(8), may_alias));

#define SPLAT(x) ((Lanes){(x), (x), (x), (x)})
#define LOAD(p) (*(const Lanes *)(p))
#define STORE(p, x) (*(Lanes *)(p) = (x))

PART Lanes lanes_choose(Bits mask, Lanes yes, Lanes no)
{
    return (Lanes)(((Bits)yes & mask) | ((Bits)no & ~mask));
}

PART int lanes_any(Bits mask)
{
    return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
}

PART double lanes_sum(Lanes a)
{
    return (a[0] + a[1]) + (a[2] + a[3]);
}

/* the largest of positive values */
WIDE double largest_of(const double *x, ptrdiff_t n)
{
    Lanes a = SPLAT(0.0), b = a;
    double largest = 0.0;
    ptrdiff_t i = 0, j;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        a = lanes_choose(LOAD(x + i) > a, LOAD(x + i), a);
        b = lanes_choose(LOAD(x + i + LANES) > b, LOAD(x + i + LANES), b);
    }
    a = lanes_choose(a > b, a, b);
    for (j = 0; j < LANES; j++)
        largest = a[j] > largest ? a[j] : largest;
    for (; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    return largest;
}

PART double clip(double x, double low, double high)
{
    return x < low ? low : (x > high ? high : x);
}

PART Lanes lanes_clip(Lanes x, Lanes low, Lanes high)
{
    x = lanes_choose(x < low, low, x);
    return lanes_choose(x > high, high, x);
}

/* Adds the distances of clipped values from an origin to `sum`, and their squares to `squares`. One pass is precise
   enough, because the origin is one of the values. */
WIDE void add_distances(const double *x, ptrdiff_t n, double low, double high, double origin, double *sum,
                        double *squares)
{
    Lanes a = SPLAT(0.0), b = a, c = a, d = a, lows = SPLAT(low), highs = SPLAT(high), origins = SPLAT(origin), y, z;
    double total = 0.0, total_squares = 0.0, distance;
    ptrdiff_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        y = lanes_clip(LOAD(x + i), lows, highs) - origins;
        z = lanes_clip(LOAD(x + i + LANES), lows, highs) - origins;
        a += y;
        b += z;
        c += y * y;
        d += z * z;
    }
    for (; i < n; i++) {
        distance = clip(x[i], low, high) - origin;
        total += distance;
        total_squares += distance * distance;
    }
    *sum += lanes_sum(a + b) + total;
    *squares += lanes_sum(c + d) + total_squares;
}

/* Copies the positive values that are not in low <= x < high to `out`, which may be x itself; returns how many. There is
   no branch, because the processor could not predict it. The bits of positive doubles have the order of the doubles. */
static inline ptrdiff_t values_outside(const double *x, ptrdiff_t n, double low, double high, double *out)
{
    uint64_t from, width, bits;
    ptrdiff_t i, m = 0;
    memcpy(&from, &low, sizeof(from));
    memcpy(&width, &high, sizeof(width));
    width -= from;
    for (i = 0; i < n; i++) {
        memcpy(&bits, x + i, sizeof(bits));
        memcpy(out + m, &bits, sizeof(bits));
        m += bits - from >= width;
    }
    return m;
}

PART double median_of(double a, double b, double c)
{
    double low = a < b ? a : b, high = a < b ? b : a;
    high = high < c ? high : c;
    return low > high ? low : high;
}

/* The k-th smallest of positive values, counted from 0; overwrites them. Sizes that grow or fall along both sides are
   two runs. Values at the quarters of the array are then typical, while the middle, where the runs meet, has the
   smallest or the largest value. */
static inline double ranked(double *x, ptrdiff_t n, ptrdiff_t k)
{
    for (;;) {
        double pivot = median_of(x[n >> 2], x[n >> 1], x[n - 1 - (n >> 2)]);
        ptrdiff_t i, below = 0, within = 0;
        for (i = 0; i < n; i++) {
            below += x[i] < pivot;
            within += x[i] <= pivot;
        }
        if (k < below) {
            n = values_outside(x, n, pivot, HUGE_VAL, x);
        } else if (k >= within) {
            n = values_outside(x, n, 0.0, nextafter(pivot, HUGE_VAL), x);
            k -= within;
        } else {
            return pivot;
        }
    }
}

/* Caps sizes and sums them along the side, four at a time: each step of four waits only for one sum of the last step. */
WIDE void capped_totals(const double *raw, ptrdiff_t n, double cap, double *size, double *total)
{
    const Bits not_first = {0, -1, -1, -1}, not_two = {0, 0, -1, -1};
    Lanes caps = SPLAT(cap), before = SPLAT(0.0), x;
    double sum = 0.0;
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        x = LOAD(raw + i);
        x = lanes_choose(x < caps, x, caps);
        STORE(size + i, x);
        x += (Lanes)((Bits)(Lanes){x[0], x[0], x[1], x[2]} & not_first);
        x += (Lanes)((Bits)(Lanes){x[0], x[1], x[0], x[1]} & not_two);
        STORE(total + i, before + x);
        before += SPLAT(x[LANES - 1]);
    }
    sum = before[0];
    for (; i < n; i++) {
        size[i] = raw[i] < cap ? raw[i] : cap;
        total[i] = sum += size[i];
    }
}

PART int is_close(double price, double other, double tolerance)
{
    return __builtin_fabs(price - other) <= tolerance * price;
}

PART Bits lanes_close(const double *price, Lanes tolerances)
{
    const Bits magnitude = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
    Lanes distance = (Lanes)((Bits)(LOAD(price) - LOAD(price - 1)) & magnitude);
    return distance <= tolerances * LOAD(price);
}

/* the first position from i on whose price is close to the previous price, n = none */
WIDE ptrdiff_t next_close(const double *price, ptrdiff_t i, ptrdiff_t n, double tolerance)
{
    Lanes tolerances = SPLAT(tolerance);
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        if (lanes_any(lanes_close(price + i, tolerances) | lanes_close(price + i + LANES, tolerances) |
                      lanes_close(price + i + 2 * LANES, tolerances) | lanes_close(price + i + 3 * LANES, tolerances)))
            break;
    for (; i < n; i++)
        if (is_close(price[i], price[i - 1], tolerance))
            break;
    return i;
}

/* how many of ascending values are at most the bound */
static inline ptrdiff_t count_up_to(const double *x, ptrdiff_t n, double bound)
{
    ptrdiff_t low = 0;
    while (n > 0) {
        ptrdiff_t half = n >> 1;
        int within = x[low + half] <= bound;
        low = within ? low + half + 1 : low;
        n = within ? n - half - 1 : half;
    }
    return low;
}

/* 2^(-x / STEPS) for x >= 0 within 1.5 ulp: a table of the steps of one halving, and a polynomial of four terms between
   them. It is several times as fast as libm, and it gives the same bits on every machine, which libm does not promise. */
enum { STEPS = 256 };
static double power_table[STEPS]; /* 2^(-j / STEPS) */

static const double TO_WHOLE = 6755399441055744.0; /* adding and subtracting it rounds to a whole number */
static const double MOST_STEPS = 1000.0 * STEPS;   /* a power of more steps would be a subnormal number */
/* (-ln 2 / STEPS)^j / j! */
static const double TERM_1 = -0.0027076061740622863, TERM_2 = 3.6655655969101062e-06, TERM_3 = -3.3083026805413713e-09,
                    TERM_4 = 2.239395190875157e-12;

PART Lanes lanes_power(Lanes x)
{
    Lanes shifted = x + TO_WHOLE, r = x - (shifted - TO_WHOLE), scale;
    /* the whole number, in the low bits */
    Bits k = (Bits)shifted, power;
    memcpy(&power[0], &power_table[k[0] & (STEPS - 1)], sizeof(double));
    memcpy(&power[1], &power_table[k[1] & (STEPS - 1)], sizeof(double));
    memcpy(&power[2], &power_table[k[2] & (STEPS - 1)], sizeof(double));
    memcpy(&power[3], &power_table[k[3] & (STEPS - 1)], sizeof(double));
    r *= TERM_1 + r * (TERM_2 + r * (TERM_3 + r * TERM_4));
    /* halved k / STEPS times: subtracted from the exponent, which starts at bit 52 */
    scale = (Lanes)(power - ((k & ~(Bits){STEPS - 1, STEPS - 1, STEPS - 1, STEPS - 1}) << 44));
    return scale + scale * r;
}

/* a single power, 0 below 1e-301 */
PART double power_of(double x)
{
    return x > MOST_STEPS ? 0.0 : lanes_power(SPLAT(x))[0];
}

/* Returns the sum of weight times distance from the first price over `n` levels. The last level ends at `depth`, the
   others at their totals. A level's weight is the difference of 2^(-total * rate / STEPS) before and after it, which is 1
   before the first level. The sum is taken over the steps of the price. If `falling` is not NULL, it gets the n + 1
   values. */
WIDE double weighted(const double *price, const double *total, ptrdiff_t n, double depth, double rate, double *falling)
{
    Lanes sum = SPLAT(0.0), rest = sum, value;
    double distance = 0.0, end = power_of(depth * rate);
    ptrdiff_t i = 0, j, live = n - 1;
    while (live && total[live - 1] * rate > MOST_STEPS)
        live--;
    for (; i + LANES <= live; i += LANES) {
        value = lanes_power(LOAD(total + i) * rate);
        sum += value * (LOAD(price + i + 1) - LOAD(price + i));
        if (falling)
            STORE(falling + i + 1, value);
    }
    if (i < live) {
        memcpy(&rest, total + i, (size_t)(live - i) * sizeof(double));
        rest = lanes_power(rest * rate);
        for (j = 0; i < live; i++, j++) {
            distance += rest[j] * (price[i + 1] - price[i]);
            if (falling)
                falling[i + 1] = rest[j];
        }
    }
    if (falling) {
        falling[0] = 1.0;
        for (; i < n - 1; i++)
            falling[i + 1] = 0.0;
        falling[n] = end;
    }
    return lanes_sum(sum) + distance - end * (price[n - 1] - price[0]);
}

/* Adds the weights (differences of `falling`) to their venues' sums. `sums` has LANES partial sums per venue, because an
   addition waits for the last addition to the same place. */
static inline void add_by_venue(const double *falling, const int32_t *venue, ptrdiff_t n, double *sums)
{
    ptrdiff_t i;
    for (i = 0; i < n; i++)
        sums[LANES * (ptrdiff_t)venue[i] + (i & (LANES - 1))] += falling[i] - falling[i + 1];
}

#endif
