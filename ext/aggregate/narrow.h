/* Many sorted runs of levels into one, by keys of 31 bits.

   A key is where a price lies between the best and the worst of its side, and below that the number of its venue. The
   levels of one venue keep their order, so sorted keys are enough to take all levels in theirs. Sixteen keys are merged
   with sixteen others at once, without a branch, by Batcher's bitonic network (1968), as in Chhugani et al., "Efficient
   Implementation of Sorting on Multi-Core SIMD CPU Architecture" (2008).

   Prices that differ can share a place: whoever takes the levels looks, and puts them in order. */
#ifndef COINSPACE_NARROW_H
#define COINSPACE_NARROW_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "merge.h"

typedef struct {
    double price, size;
} Level;

enum {
    KEY_BITS = 31,
    /* keys that are merged at once */
    BLOCK = 16,
    /* keys of room that a run takes beside its own: whole blocks are written, and what is greater than any key behind
       them, as far as a chain may look */
    MARGIN = 4 * BLOCK,
    /* leaves 23 bits for the place */
    MOST_VENUES = 256,
    /* below these, merging whole keys takes less */
    LEAST_RUNS = 3,
    LEAST_LEVELS = 100
};

#if defined(__x86_64__) && defined(__GNUC__)
#define COINSPACE_NARROW
#include <immintrin.h>

#define AVX2 static __attribute__((target("avx2")))
#define PART_AVX2 static inline __attribute__((always_inline, target("avx2")))

typedef __m256i Keys;

typedef struct {
    Keys low, high;
} Block;

/* two runs on their way into one place */
typedef struct {
    const int32_t *a, *b;
    int32_t *out;
    ptrdiff_t blocks; /* to be written */
} Chain;

/* the next block of the run whose next key is less */
PART_AVX2 Block block_next(const int32_t **a, const int32_t **b)
{
    const uintptr_t left = (uintptr_t)*a, right = (uintptr_t)*b;
    /* all bits or none; no key is below zero, so their difference has room */
    const uintptr_t chosen = (uintptr_t)(intptr_t)((**b - **a) >> 31), step = chosen & sizeof(Block);
    const Keys *const next = (const Keys *)(left ^ ((left ^ right) & chosen));
    *b = (const int32_t *)(right + step);
    *a = (const int32_t *)(left + sizeof(Block) - step);
    return (Block){_mm256_loadu_si256(next), _mm256_loadu_si256(next + 1)};
}

PART_AVX2 void block_write(int32_t *out, Block block)
{
    _mm256_storeu_si256((Keys *)out, block.low);
    _mm256_storeu_si256((Keys *)out + 1, block.high);
}

/* the lesser of each two keys, and the greater */
PART_AVX2 Block parted(Keys a, Keys b)
{
    return (Block){_mm256_min_epi32(a, b), _mm256_max_epi32(a, b)};
}

/* elements 0 and 2 of each four of both, and elements 1 and 3 */
#define EVEN_OF_BOTH(a, b) _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88))
#define ODD_OF_BOTH(a, b) _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd))

/* Put each half, rising and falling once, in order: places four apart, then two, then neighbours. */
PART_AVX2 Block halves_sorted(Block x)
{
    x = parted(_mm256_permute2x128_si256(x.low, x.high, 0x20), _mm256_permute2x128_si256(x.low, x.high, 0x31));
    x = parted(_mm256_unpacklo_epi64(x.low, x.high), _mm256_unpackhi_epi64(x.low, x.high));
    x = parted(EVEN_OF_BOTH(x.low, x.high), ODD_OF_BOTH(x.low, x.high));
    x = (Block){_mm256_unpacklo_epi32(x.low, x.high), _mm256_unpackhi_epi32(x.low, x.high)};
    x = (Block){_mm256_unpacklo_epi64(x.low, x.high), _mm256_unpackhi_epi64(x.low, x.high)};
    return (Block){_mm256_permute2x128_si256(x.low, x.high, 0x20), _mm256_permute2x128_si256(x.low, x.high, 0x31)};
}

/* Write the least half of two blocks; returns the other. All in ascending order. */
PART_AVX2 Block merged_step(Block left, Block next, int32_t *out)
{
    const Keys turn = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const Block a = parted(left.low, _mm256_permutevar8x32_epi32(next.high, turn));
    const Block b = parted(left.high, _mm256_permutevar8x32_epi32(next.low, turn));
    block_write(out, halves_sorted(parted(a.low, b.low)));
    return halves_sorted(parted(a.high, b.high));
}

/* Two that do not wait for each other: each waits for its own last step. */
PART_AVX2 void chains_run(Chain p, Chain q)
{
    const int32_t *pa = p.a, *pb = p.b, *qa = q.a, *qb = q.b;
    const ptrdiff_t both = p.blocks < q.blocks ? p.blocks : q.blocks;
    Block p_left = block_next(&pa, &pb), q_left = block_next(&qa, &qb);
    ptrdiff_t i;
    for (i = 0; i < both; i++) {
        p_left = merged_step(p_left, block_next(&pa, &pb), p.out + BLOCK * i);
        q_left = merged_step(q_left, block_next(&qa, &qb), q.out + BLOCK * i);
    }
    for (; i < p.blocks; i++)
        p_left = merged_step(p_left, block_next(&pa, &pb), p.out + BLOCK * i);
    for (; i < q.blocks; i++)
        q_left = merged_step(q_left, block_next(&qa, &qb), q.out + BLOCK * i);
}

DEFINE_AMONG(keys_among, int32_t, )

PART_AVX2 void put_last(int32_t *run, ptrdiff_t n)
{
    const Keys last = _mm256_set1_epi32(INT32_MAX);
    for (ptrdiff_t i = 0; i < 3; i++)
        block_write(run + n + BLOCK * i, (Block){last, last});
}

PART_AVX2 Chain chain_of(const int32_t *from, int32_t *out, const ptrdiff_t *starts, const ptrdiff_t *lengths)
{
    return (Chain){from + starts[0], from + starts[1], out + starts[0], (lengths[0] + lengths[1] + BLOCK - 1) / BLOCK};
}

/* Merge the runs of `from` that begin at `starts` and hold `lengths` keys (both used up), MARGIN between them. Returns
   the one run: in `from` or in `other`, which has the same room. */
AVX2 int32_t *keys_merged(int32_t *from, int32_t *other, ptrdiff_t *starts, ptrdiff_t *lengths, ptrdiff_t runs)
{
    while (runs > 1) {
        int32_t *const swapped = from;
        ptrdiff_t i = 0, made = 0, j, group;
        for (; i < runs; i += group) {
            if (runs - i >= 4) {
                group = 4;
                chains_run(chain_of(from, other, starts + i, lengths + i),
                           chain_of(from, other, starts + i + 2, lengths + i + 2));
            } else if (runs - i >= 2) {
                /* one pair, in two halves */
                Chain p = chain_of(from, other, starts + i, lengths + i), q = p;
                const ptrdiff_t half = p.blocks >> 1;
                const ptrdiff_t taken = keys_among(p.a, lengths[i], p.b, lengths[i + 1], BLOCK * half);
                group = 2;
                p.blocks = half;
                q.a += taken;
                q.b += BLOCK * half - taken;
                q.out += BLOCK * half;
                q.blocks -= half;
                chains_run(p, q);
            } else {
                group = 1;
                memcpy(other + starts[i], from + starts[i], (size_t)lengths[i] * sizeof(int32_t));
            }
            for (j = i; j < i + group; j += 2) {
                const ptrdiff_t n = lengths[j] + (group > 1 ? lengths[j + 1] : 0);
                starts[made] = starts[j];
                lengths[made++] = n;
                put_last(other + starts[j], n);
            }
        }
        runs = made;
        from = other;
        other = swapped;
    }
    return from + starts[0];
}

/* A run's levels in index currency, and their keys: the place of a price, `places` for each unit of currency from the best
   on (below zero for bids, whose prices fall), above its venue in the `low` lowest bits. */
AVX2 void keys_of(const Run *run, double best, double places, int low, Level *level, int32_t *key)
{
    const double *const price = run->price, *const size = run->size, rate = run->rate;
    const __m256d rates = _mm256_set1_pd(rate), bests = _mm256_set1_pd(best), steps = _mm256_set1_pd(places);
    const __m128i venues = _mm_set1_epi32(run->venue), shift = _mm_cvtsi32_si128(low);
    ptrdiff_t i = 0;
    for (; i + 4 <= run->n; i += 4) {
        __m256d quotient = _mm256_loadu_pd(price + i), sizes = _mm256_loadu_pd(size + i), even, odd;
        __m128i place;
        if (rate != 1.0)
            quotient = _mm256_div_pd(quotient, rates);
        place = _mm256_cvttpd_epi32(_mm256_mul_pd(_mm256_sub_pd(quotient, bests), steps));
        _mm_storeu_si128((__m128i *)(key + i), _mm_or_si128(_mm_sll_epi32(place, shift), venues));
        even = _mm256_unpacklo_pd(quotient, sizes);
        odd = _mm256_unpackhi_pd(quotient, sizes);
        _mm256_storeu_pd(&level[i].price, _mm256_permute2f128_pd(even, odd, 0x20));
        _mm256_storeu_pd(&level[i + 2].price, _mm256_permute2f128_pd(even, odd, 0x31));
    }
    for (; i < run->n; i++) {
        level[i] = (Level){price[i] / rate, size[i]};
        key[i] = (int32_t)((level[i].price - best) * places) << low | run->venue;
    }
    put_last(key, run->n);
}

#endif

/* Take the levels in the order of their keys, and those of one place in the order of their prices, equal ones as they
   are; `next` points to each venue's first and is used up. `sign`: 1 where prices rise, -1 where they fall. Returns 0
   when more than n moves would be needed. */
static inline int levels_taken(const int32_t *key, ptrdiff_t n, int low, double sign, const Level **next, double *price,
                               double *size, int32_t *venue)
{
    const int32_t venues = (1 << low) - 1;
    double last = -HUGE_VAL;
    ptrdiff_t i, j, moves = 0;
    for (i = 0; i < n; i++) {
        const int32_t v = key[i] & venues;
        const Level *const level = next[v];
        const double at = level->price * sign;
        next[v] = level + 1;
        j = i;
        if (__builtin_expect(at < last, 0)) {
            for (; j && at < price[j - 1] * sign; j--) {
                price[j] = price[j - 1];
                size[j] = size[j - 1];
                venue[j] = venue[j - 1];
            }
            moves += i - j;
            if (moves > n)
                return 0;
        } else {
            last = at;
        }
        price[j] = level->price;
        size[j] = level->size;
        venue[j] = v;
    }
    return 1;
}

/* Merge runs, none empty, into one side of a ladder. `keys` and `other` have room for the levels and MARGIN keys a run,
   `levels` for the levels, `next` for one of each venue. Returns 0, with nothing merged, where merge_runs is due: few
   levels or too many venues, prices all the same or so far apart that most share a place, another processor. */
static inline int merge_narrow(const Run *runs, ptrdiff_t count, int32_t venues, double sign, int32_t *keys, int32_t *other,
                               Level *levels, ptrdiff_t *starts, ptrdiff_t *lengths, const Level **next, double *price,
                               double *size, int32_t *venue)
{
#if defined(COINSPACE_NARROW)
    double best, worst, places;
    ptrdiff_t i, n = 0;
    int low = 0;
    for (i = 0; i < count; i++)
        n += runs[i].n;
    if (n < LEAST_LEVELS || count < LEAST_RUNS || venues > MOST_VENUES || !__builtin_cpu_supports("avx2"))
        return 0;
    while (1 << low < venues)
        low++;
    best = runs[0].best, worst = runs[0].worst;
    for (i = 1; i < count; i++) {
        best = runs[i].best * sign < best * sign ? runs[i].best : best;
        worst = runs[i].worst * sign > worst * sign ? runs[i].worst : worst;
    }
    /* what rounding adds must not carry the worst beyond the last place */
    places = ((1 << (KEY_BITS - low)) - 2) / (worst - best);
    if (!isfinite(places))
        return 0;
    for (i = n = 0; i < count; i++) {
        starts[i] = n + MARGIN * i;
        lengths[i] = runs[i].n;
        next[runs[i].venue] = levels + n;
        keys_of(&runs[i], best, places, low, levels + n, keys + starts[i]);
        n += runs[i].n;
    }
    return levels_taken(keys_merged(keys, other, starts, lengths, count), n, low, sign, next, price, size, venue);
#else
    return 0;
#endif
}

#endif
