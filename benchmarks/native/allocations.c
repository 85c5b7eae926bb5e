/* LD_PRELOAD: count calls of malloc, calloc and realloc while counting is on, per thread and in all. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static int counting;
static __thread int here;
static long own, all;
/* dlsym itself allocates before the pointers are known */
static char early[65536];
static size_t used;

static void *take_early(size_t size)
{
    void *p = early + used;
    used += (size + 15) & ~(size_t)15;
    return used <= sizeof early ? p : NULL;
}

__attribute__((constructor)) static void find(void)
{
    next_malloc = dlsym(RTLD_NEXT, "malloc");
    next_calloc = dlsym(RTLD_NEXT, "calloc");
    next_realloc = dlsym(RTLD_NEXT, "realloc");
}

static void count(void)
{
    if (__atomic_load_n(&counting, __ATOMIC_RELAXED)) {
        __atomic_add_fetch(&all, 1, __ATOMIC_RELAXED);
        own += here;
    }
}

void *malloc(size_t size)
{
    count();
    return next_malloc ? next_malloc(size) : take_early(size);
}

void *calloc(size_t n, size_t size)
{
    count();
    return next_calloc ? next_calloc(n, size) : take_early(n * size);
}

void *realloc(void *p, size_t size)
{
    count();
    if (p && (char *)p >= early && (char *)p < early + sizeof early) {
        void *moved = next_malloc(size);
        if (moved)
            memcpy(moved, p, size);
        return moved;
    }
    return next_realloc(p, size);
}

static void (*next_free)(void *);

void free(void *p)
{
    if (p && (char *)p >= early && (char *)p < early + sizeof early)
        return;
    if (!next_free)
        next_free = dlsym(RTLD_NEXT, "free");
    next_free(p);
}

void start_counting(void)
{
    here = 1;
    own = all = 0;
    __atomic_store_n(&counting, 1, __ATOMIC_SEQ_CST);
}

/* calls by the counting thread; `others` gets those of all other threads */
long stop_counting(long *others)
{
    __atomic_store_n(&counting, 0, __ATOMIC_SEQ_CST);
    *others = all - own;
    return own;
}
