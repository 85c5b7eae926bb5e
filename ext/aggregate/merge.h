/* Sorted runs of levels into one, pairwise and without a branch on what cannot be predicted.

   A merge waits for its own last comparison (load, compare, advance: some 8 cycles). So each pair of runs is cut in the
   middle of its result, and both halves are merged from both ends: four chains that do not wait for each other, each of
   a length that is known before. Equal keys: the left run first. */
#ifndef COINSPACE_MERGE_H
#define COINSPACE_MERGE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* a level on its way through the merge: 16 bytes, moved in one */
typedef struct {
    uint64_t key;  /* the bits of its price, in an order that ascends from the best */
    uint32_t at;   /* its place among the sizes of its venue */
    int32_t venue;
} Entry;

/* the levels of one venue, best first; they end where a price vanishes or overflows when it is divided by the rate */
typedef struct {
    const double *price, *size;
    ptrdiff_t n;
    double rate;        /* units of their currency for one of the index currency */
    double best, worst; /* prices in index currency */
    int32_t venue;
} Run;

/* an entry, or two prices, at once; four venues at once */
typedef uint64_t Halves __attribute__((vector_size(16), aligned(8), may_alias));
typedef double Prices __attribute__((vector_size(16), aligned(8), may_alias));
typedef int32_t Quarters __attribute__((vector_size(16), aligned(4), may_alias));

enum {
    /* entries around a run, one before and one behind it, that no comparison takes: nothing checks for its ends */
    FENCES = 2
};

/* two runs on their way into one place, from their beginnings and from their ends */
typedef struct {
    const Entry *a, *b, *a_last, *b_last;
    Entry *out, *out_last;
} Pair;

/* All bits or none, by a choice that the compiler cannot see through: it would make a branch of it, which is mispredicted
   every other time. */
static inline uintptr_t mask_of(int flag)
{
    uintptr_t mask = -(uintptr_t)flag;
    __asm__("" : "+r"(mask));
    return mask;
}

static inline const Entry *moved(const Entry *from, uintptr_t bytes)
{
    return (const Entry *)((uintptr_t)from + bytes);
}

static inline const Entry *chosen(const Entry *a, const Entry *b, uintptr_t mask)
{
    return (const Entry *)((uintptr_t)a ^ (((uintptr_t)a ^ (uintptr_t)b) & mask));
}

static inline void pair_front(Pair *p)
{
    uintptr_t right = mask_of(p->b->key < p->a->key), step = right & sizeof(Entry);
    *p->out++ = *chosen(p->a, p->b, right);
    p->b = moved(p->b, step);
    p->a = moved(p->a + 1, -step);
}

static inline void pair_back(Pair *p)
{
    uintptr_t left = mask_of(p->b_last->key < p->a_last->key), step = left & sizeof(Entry);
    *p->out_last-- = *chosen(p->b_last, p->a_last, left);
    p->a_last = moved(p->a_last, -step);
    p->b_last = moved(p->b_last - 1, step);
}

/* A function that tells how many elements of a are among the first m of both. */
#define DEFINE_AMONG(name, type, key)                                                                   \
    static inline ptrdiff_t name(const type *a, ptrdiff_t n, const type *b, ptrdiff_t k, ptrdiff_t m)   \
    {                                                                                                   \
        ptrdiff_t low = m > k ? m - k : 0, high = m < n ? m : n;                                        \
        while (low < high) {                                                                            \
            ptrdiff_t i = (low + high) >> 1;                                                            \
            int behind = b[m - i - 1] key < a[i] key;                                                   \
            high = behind ? i : high;                                                                   \
            low = behind ? low : i + 1;                                                                 \
        }                                                                                               \
        return low;                                                                                     \
    }

DEFINE_AMONG(entries_among, Entry, .key)

static inline void merge_pair(const Entry *a, ptrdiff_t n, const Entry *b, ptrdiff_t k, Entry *out)
{
    ptrdiff_t m = (n + k) >> 1, i = entries_among(a, n, b, k, m), j = m - i, steps;
    Pair p = {a, b, a + i - 1, b + j - 1, out, out + m - 1};
    Pair q = {a + i, b + j, a + n - 1, b + k - 1, out + m, out + n + k - 1};
    for (steps = m >> 1; steps; steps--) {
        pair_front(&p);
        pair_back(&p);
        pair_front(&q);
        pair_back(&q);
    }
    while (p.out <= p.out_last)
        pair_front(&p);
    while (q.out <= q.out_last)
        pair_front(&q);
}

static inline void put_fences(Entry *run, ptrdiff_t n)
{
    run[-1] = (Entry){0, 0, 0};
    run[n] = (Entry){UINT64_MAX, 0, 0};
}

/* Merge the runs of `from` that begin at `starts` and hold `lengths` (both used up), each between its fences. Returns
   the one run: in `from` or in `other`, which has the same room. */
static inline Entry *merge_runs(Entry *from, Entry *other, ptrdiff_t *starts, ptrdiff_t *lengths, ptrdiff_t runs)
{
    while (runs > 1) {
        ptrdiff_t i, made = 0;
        Entry *swapped = from;
        for (i = 0; i < runs; i += 2, made++) {
            ptrdiff_t begin = starts[i], n = lengths[i], k = 0;
            if (i + 1 < runs) {
                k = lengths[i + 1];
                merge_pair(from + begin, n, from + starts[i + 1], k, other + begin);
            } else {
                memcpy(other + begin, from + begin, (size_t)n * sizeof(Entry));
            }
            put_fences(other + begin, n + k);
            starts[made] = begin;
            lengths[made] = n + k;
        }
        runs = made;
        from = other;
        other = swapped;
    }
    return from + starts[0];
}

/* A run's levels, between fences; the flip (no bits or all) makes descending prices ascend. */
static inline void entries_of(const Run *run, uint64_t flip, Entry *out)
{
    const int same = run->rate == 1.0;
    const Prices rates = {run->rate, run->rate};
    const Halves flips = {flip, flip};
    /* place and venue, as they stand in an entry */
    Halves where = {0, 1}, key;
    ptrdiff_t i = 0;
    where |= (uint64_t)(uint32_t)run->venue << 32;
    for (; i + 2 <= run->n; i += 2, where += 2) {
        Prices quotient = *(const Prices *)(run->price + i);
        if (!same)
            quotient /= rates;
        /* the bits of positive doubles are ordered as the doubles are */
        key = (Halves)quotient ^ flips;
        *(Halves *)(out + i) = (Halves){key[0], where[0]};
        *(Halves *)(out + i + 1) = (Halves){key[1], where[1]};
    }
    if (i < run->n) {
        double quotient = run->price[i] / run->rate;
        memcpy(&out[i].key, &quotient, sizeof(double));
        out[i].key ^= flip;
        out[i].at = (uint32_t)i;
        out[i].venue = run->venue;
    }
    put_fences(out, run->n);
}

/* `sizes` holds a pointer for each venue */
static inline void entries_taken(const Entry *entries, ptrdiff_t n, uint64_t flip, const double *const *sizes,
                                 double *price, double *size, int32_t *venue)
{
    const Halves flips = {flip, flip};
    ptrdiff_t i = 0, j;
    for (; i + 4 <= n; i += 4) {
        const Halves *entry = (const Halves *)(entries + i);
        const Quarters a = (Quarters)entry[0], b = (Quarters)entry[1], c = (Quarters)entry[2], d = (Quarters)entry[3];
        *(Halves *)(price + i) = (Halves){entry[0][0], entry[1][0]} ^ flips;
        *(Halves *)(price + i + 2) = (Halves){entry[2][0], entry[3][0]} ^ flips;
        *(Quarters *)(venue + i) = (Quarters){a[3], b[3], c[3], d[3]};
        for (j = i; j < i + 4; j++)
            size[j] = sizes[entries[j].venue][entries[j].at];
    }
    for (; i < n; i++) {
        uint64_t bits = entries[i].key ^ flip;
        memcpy(&price[i], &bits, sizeof(double));
        size[i] = sizes[entries[i].venue][entries[i].at];
        venue[i] = entries[i].venue;
    }
}

#endif
