"""Where compiled code spends its time: stacks of the running thread taken by a timer, at full speed.

Python's own profilers see a compiled stage as one call. Here the processor's return addresses are kept, and
`coinspace.observe.symbols` gives them names afterwards.
"""

from libc.stdint cimport uintptr_t

cdef extern from "sampler.h":
    enum:
        SAMPLER_SUPPORTED
        SAMPLER_DEPTH
    void **sampler_stacks
    int *sampler_sizes
    int sampler_count
    int sampler_lost
    int sampler_start(long interval_ns)
    void sampler_stop()
    void sampler_release()
    void sampler_count_allocations()
    long long sampler_allocations_counted()

# the handler itself and the kernel's trampoline
cdef enum:
    OWN_FRAMES = 2

SUPPORTED = bool(SAMPLER_SUPPORTED)


def sample(run not None, long interval_us=500):
    """Call `run` with a sample of the stack at each interval.

    Returns: (stacks, lost): each stack a tuple of addresses, outermost first; lost: beyond the room for 60,000.
    Raises: OSError where the system has no timer or no unwinder for it.
    """
    cdef int i
    cdef int j
    if sampler_start(interval_us * 1000) != 0:
        sampler_release()
        raise OSError("sampling: expected Linux with glibc and a free timer")
    try:
        run()
    finally:
        sampler_stop()
    stacks = []
    for i in range(sampler_count):
        if sampler_sizes[i] <= OWN_FRAMES:
            continue
        stacks.append(tuple([
            <uintptr_t>sampler_stacks[i * SAMPLER_DEPTH + j] for j in range(sampler_sizes[i] - 1, OWN_FRAMES - 1, -1)
        ]))
    sampler_release()
    return stacks, sampler_lost


def count_allocations(run not None):
    """Call `run`; returns how often Python's allocators were asked for memory meanwhile, by any thread."""
    sampler_count_allocations()
    try:
        run()
    finally:
        counted = sampler_allocations_counted()
    return counted
