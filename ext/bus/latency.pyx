"""Durations counted in fixed ranges: a histogram whose `add` allocates nothing."""

cimport cython

from libc.stdint cimport INT64_MAX, int64_t

# upper bounds of the ranges in µs, from publishing a message to storing it after an outage
cdef int64_t[N_BOUNDS] BOUNDS
BOUNDS[:] = [
    10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
]
BOUNDS_S = tuple([BOUNDS[i] / 1e6 for i in range(N_BOUNDS)])
# a longer duration counts as this much in the sum: times of an exchange can be years old
cdef enum:
    LONGEST_S = 3600


@cython.final
cdef class Latency:
    """Counts durations. One thread adds, any thread reads.

    A negative duration, which two clocks can give, counts as 0.
    """

    def __cinit__(self):
        self._least_ns = INT64_MAX

    cdef int add(self, int64_t ns) noexcept:
        cdef int64_t longest = LONGEST_S * <int64_t>1_000_000_000
        cdef int i = 0
        if ns < self._least_ns:
            self._least_ns = ns
        ns = min(max(ns, 0), longest)
        while i < N_BOUNDS and ns > BOUNDS[i] * 1000:
            i += 1
        self._counts[i] += 1
        self._total_ns += ns
        return 0

    def observe(self, int64_t ns):
        """Count a duration."""
        self.add(ns)

    @property
    def counts(self):
        """Durations per range of BOUNDS_S; the last one is above all bounds."""
        return [self._counts[i] for i in range(N_BOUNDS + 1)]

    @property
    def total_s(self):
        """Sum of the durations in seconds, each between 0 and one hour."""
        return self._total_ns / 1e9

    def take_least_ns(self):
        """Return the least duration since the last call, negative ones as they are; None = there was none."""
        cdef int64_t least = self._least_ns
        self._least_ns = INT64_MAX
        return None if least == INT64_MAX else least
