/* Stacks of this thread at fixed intervals, and counts of Python's allocations; for `coinspace profile`. */
#ifndef COINSPACE_SAMPLER_H
#define COINSPACE_SAMPLER_H

#include <Python.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__linux__) && defined(__GLIBC__)
#define SAMPLER_SUPPORTED 1
#include <execinfo.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define SAMPLER_SUPPORTED 0
#endif

#define SAMPLER_DEPTH 64
#define SAMPLER_ROOM 60000

static void **sampler_stacks; /* SAMPLER_ROOM stacks of SAMPLER_DEPTH addresses, innermost first */
static int *sampler_sizes;
static volatile int sampler_count;
static volatile int sampler_lost;

#if SAMPLER_SUPPORTED
static timer_t sampler_timer;
static struct sigaction sampler_before;

static void sampler_take(int number)
{
    (void)number;
    if (sampler_count >= SAMPLER_ROOM) {
        sampler_lost++;
        return;
    }
    sampler_sizes[sampler_count] = backtrace(sampler_stacks + (size_t)sampler_count * SAMPLER_DEPTH, SAMPLER_DEPTH);
    sampler_count++;
}
#endif

/* Returns: 0, or -1 when the system has no such timer. Signals go to the calling thread. */
static int sampler_start(long interval_ns)
{
#if SAMPLER_SUPPORTED
    struct sigaction action;
    struct sigevent event;
    struct itimerspec every;
    void *warm[2];
    sampler_stacks = malloc(sizeof(void *) * SAMPLER_ROOM * SAMPLER_DEPTH);
    sampler_sizes = malloc(sizeof(int) * SAMPLER_ROOM);
    if (!sampler_stacks || !sampler_sizes)
        return -1;
    sampler_count = sampler_lost = 0;
    backtrace(warm, 2); /* the first call loads the unwinder, which a signal handler must not do */
    memset(&action, 0, sizeof action);
    action.sa_handler = sampler_take;
    action.sa_flags = SA_RESTART;
    sigaction(SIGPROF, &action, &sampler_before);
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID; /* other threads of the process are not of interest */
    event.sigev_signo = SIGPROF;
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    /* the kernel looks at CPU timers only at its tick; this one is exact, and what the thread
       loses to others comes as one late signal */
    if (timer_create(CLOCK_MONOTONIC, &event, &sampler_timer) != 0)
        return -1;
    memset(&every, 0, sizeof every);
    every.it_interval.tv_nsec = every.it_value.tv_nsec = interval_ns;
    return timer_settime(sampler_timer, 0, &every, NULL);
#else
    (void)interval_ns;
    return -1;
#endif
}

static void sampler_stop(void)
{
#if SAMPLER_SUPPORTED
    timer_delete(sampler_timer);
    sigaction(SIGPROF, &sampler_before, NULL);
#endif
}

static void sampler_release(void)
{
    free(sampler_stacks);
    free(sampler_sizes);
    sampler_stacks = NULL;
    sampler_sizes = NULL;
}

/* Python's allocators, wrapped while counting */
static PyMemAllocatorEx sampler_old[3];
static long long sampler_allocations;

static void *sampler_malloc(void *domain, size_t size)
{
    PyMemAllocatorEx *old = domain;
    sampler_allocations++;
    return old->malloc(old->ctx, size);
}

static void *sampler_calloc(void *domain, size_t n, size_t size)
{
    PyMemAllocatorEx *old = domain;
    sampler_allocations++;
    return old->calloc(old->ctx, n, size);
}

static void *sampler_realloc(void *domain, void *p, size_t size)
{
    PyMemAllocatorEx *old = domain;
    sampler_allocations++;
    return old->realloc(old->ctx, p, size);
}

static void sampler_free(void *domain, void *p)
{
    PyMemAllocatorEx *old = domain;
    old->free(old->ctx, p);
}

static void sampler_count_allocations(void)
{
    int i;
    PyMemAllocatorDomain domains[3] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
    sampler_allocations = 0;
    for (i = 0; i < 3; i++) {
        PyMemAllocatorEx wrapped = {&sampler_old[i], sampler_malloc, sampler_calloc, sampler_realloc, sampler_free};
        PyMem_GetAllocator(domains[i], &sampler_old[i]);
        PyMem_SetAllocator(domains[i], &wrapped);
    }
}

static long long sampler_allocations_counted(void)
{
    int i;
    PyMemAllocatorDomain domains[3] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
    for (i = 0; i < 3; i++)
        PyMem_SetAllocator(domains[i], &sampler_old[i]);
    return sampler_allocations;
}

#endif
