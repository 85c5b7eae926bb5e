/* The curve's passes over whole sides, four doubles at a time.

   Written with the compiler's vector types, so every processor does the same operations in the same order and gives the
   same bits: sums run in fixed lanes, and nothing here may be contracted or reordered. Where the system can choose
   between versions of a function when it loads it, there is one for AVX2: three times as fast as the oldest processor
   that a build runs on allows. */
#ifndef COINSPACE_SERIES_H
#define COINSPACE_SERIES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__)
/* no vector is passed from one compiled function to another */
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

enum { LANES = 4 };

/* a sanitiser is not ready yet when the loader chooses */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define WIDE static __attribute__((target_clones("avx2", "default"), noinline))
#else
#define WIDE static
#endif
#define PART static inline __attribute__((always_inline))

/* in memory that is aligned for a double only */
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

/* of positive values, whose bits are ordered as they are */
WIDE double largest_of(const double *x, ptrdiff_t n)
{
    int64_t bits, most = 0;
    double largest;
    ptrdiff_t i;
    for (i = 0; i < n; i++) {
        memcpy(&bits, x + i, sizeof(bits));
        most = bits > most ? bits : most;
    }
    memcpy(&largest, &most, sizeof(largest));
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

WIDE double clipped_sum(const double *x, ptrdiff_t n, double low, double high)
{
    Lanes a = SPLAT(0.0), b = a, lows = SPLAT(low), highs = SPLAT(high);
    double total = 0.0;
    ptrdiff_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        a += lanes_clip(LOAD(x + i), lows, highs);
        b += lanes_clip(LOAD(x + i + LANES), lows, highs);
    }
    for (; i < n; i++)
        total += clip(x[i], low, high);
    return lanes_sum(a + b) + total;
}

WIDE double clipped_squares(const double *x, ptrdiff_t n, double low, double high, double mean)
{
    Lanes a = SPLAT(0.0), b = a, lows = SPLAT(low), highs = SPLAT(high), means = SPLAT(mean);
    double total = 0.0;
    ptrdiff_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        Lanes c = lanes_clip(LOAD(x + i), lows, highs) - means;
        Lanes d = lanes_clip(LOAD(x + i + LANES), lows, highs) - means;
        a += c * c;
        b += d * d;
    }
    for (; i < n; i++) {
        double c = clip(x[i], low, high) - mean;
        total += c * c;
    }
    return lanes_sum(a + b) + total;
}

/* Copy what is at most `low` and what is at least `high`; each room takes n. Adds to the counts. */
WIDE void extremes_of(const double *x, ptrdiff_t n, double low, double high, double *lows, ptrdiff_t *n_lows,
                               double *highs, ptrdiff_t *n_highs)
{
    ptrdiff_t i = 0, end, a = *n_lows, b = *n_highs;
    Lanes low_lanes = SPLAT(low), high_lanes = SPLAT(high);
    while (i < n) {
        end = i + LANES;
        if (end > n)
            end = n;
        else if (!lanes_any((LOAD(x + i) <= low_lanes) | (LOAD(x + i) >= high_lanes))) {
            i = end;
            continue;
        }
        for (; i < end; i++) {
            lows[a] = x[i];
            a += x[i] <= low;
            highs[b] = x[i];
            b += x[i] >= high;
        }
    }
    *n_lows = a;
    *n_highs = b;
}

typedef struct {
    const double *raw;
    double *size;  /* capped */
    double *total; /* cumulative, capped */
    ptrdiff_t n;
} Side;

/* both sides at once: each sum waits for the one before it, the two do not wait for each other */
static inline void capped_totals(Side a, Side b, double cap)
{
    ptrdiff_t i, both = a.n < b.n ? a.n : b.n;
    double x, y, total = 0.0, sum = 0.0;
    for (i = 0; i < both; i++) {
        x = a.raw[i] < cap ? a.raw[i] : cap;
        y = b.raw[i] < cap ? b.raw[i] : cap;
        a.size[i] = x;
        b.size[i] = y;
        a.total[i] = total += x;
        b.total[i] = sum += y;
    }
    for (; i < a.n; i++) {
        a.size[i] = x = a.raw[i] < cap ? a.raw[i] : cap;
        a.total[i] = total += x;
    }
    for (i = both; i < b.n; i++) {
        b.size[i] = y = b.raw[i] < cap ? b.raw[i] : cap;
        b.total[i] = sum += y;
    }
}

PART int is_close(double price, double other, double tolerance)
{
    return __builtin_fabs(price - other) <= tolerance * price;
}

/* the first position from i on whose price is close to the one before it, n = none */
WIDE ptrdiff_t next_close(const double *price, ptrdiff_t i, ptrdiff_t n, double tolerance)
{
    Lanes tolerances = SPLAT(tolerance), positive;
    const Bits sign = {INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN};
    for (; i + LANES <= n; i += LANES) {
        positive = (Lanes)((Bits)(LOAD(price + i) - LOAD(price + i - 1)) & ~sign);
        if (lanes_any(positive <= tolerances * LOAD(price + i)))
            break;
    }
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

/* exp(x) for x <= 0 within 1 ulp: a table of 64 steps and five terms. Several times as fast as libm, and the same bits
   on every machine, which libm does not promise. */
static double power_table[64]; /* 2^(j/64) */

static const double STEPS = 92.33248261689366; /* 64 / ln 2 */
/* ln 2 / 64 in two parts: multiples of the first by whole numbers up to 2^20 are exact */
static const double STEP_HIGH = 0.010830424667801708;
static const double STEP_LOW = 2.8447437476627285e-11;
static const double TO_WHOLE = 6755399441055744.0; /* adding and subtracting it rounds to a whole number */
static const double LEAST = -700.0;                /* exp of less would leave the normal numbers */

PART Lanes lanes_decay(Lanes x)
{
    Lanes shifted = x * STEPS + TO_WHOLE, whole = shifted - TO_WHOLE;
    Lanes r = (x - whole * STEP_HIGH) - whole * STEP_LOW, scale;
    /* the whole number, in the low bits */
    Bits k = (Bits)shifted, power;
    memcpy(&power[0], &power_table[k[0] & 63], sizeof(double));
    memcpy(&power[1], &power_table[k[1] & 63], sizeof(double));
    memcpy(&power[2], &power_table[k[2] & 63], sizeof(double));
    memcpy(&power[3], &power_table[k[3] & 63], sizeof(double));
    r = r + r * r * (0.5 + r * (1.0 / 6 + r * (1.0 / 24 + r * (1.0 / 120))));
    /* times 2^(k >> 6): added to the exponent */
    scale = (Lanes)(power + ((k & ~(Bits){63, 63, 63, 63}) << 46));
    return scale + scale * r;
}

/* exp(-rate * total) of ascending totals, 0 where it is below 1e-304 */
WIDE void decays_of(const double *total, ptrdiff_t n, double rate, double *out)
{
    ptrdiff_t i = 0, live = n;
    Lanes rest = SPLAT(0.0);
    while (live && total[live - 1] * -rate < LEAST)
        out[--live] = 0.0;
    for (; i + LANES <= live; i += LANES)
        STORE(out + i, lanes_decay(LOAD(total + i) * -rate));
    if (i < live) {
        memcpy(&rest, total + i, (size_t)(live - i) * sizeof(double));
        rest = lanes_decay(rest * -rate);
        memcpy(out + i, &rest, (size_t)(live - i) * sizeof(double));
    }
}

/* The weight of each level, falling from one value of `decayed` to the next, in place; returns the sum of weight times
   the distance from the first price. */
WIDE double weighted(const double *price, double *decayed, ptrdiff_t n)
{
    Lanes a = SPLAT(0.0), w, first = SPLAT(price[0]);
    double total = 0.0;
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        w = LOAD(decayed + i) - LOAD(decayed + i + 1);
        a += (LOAD(price + i) - first) * w;
        STORE(decayed + i, w);
    }
    for (; i < n; i++) {
        decayed[i] -= decayed[i + 1];
        total += (price[i] - price[0]) * decayed[i];
    }
    return lanes_sum(a) + total;
}

/* Add weights to their venues' sums; `sums` holds LANES partial ones a venue, since an addition waits for the last one
   to the same place. */
static inline void add_by_venue(const double *weight, const int32_t *venue, ptrdiff_t n, double *sums)
{
    ptrdiff_t i;
    for (i = 0; i < n; i++)
        sums[LANES * (ptrdiff_t)venue[i] + (i & (LANES - 1))] += weight[i];
}

#endif
