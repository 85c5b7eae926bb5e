"""Size cap, price-volume curve, utilised depth, value and shares over one merged ladder.

The curve is a step function of volume with constant prices on segments (a, b]. A mid is half a bid and half an ask. So
the weighted mean of mids is half the mean of bids and half the mean of asks, each over its levels. Only `segments` has
to step through both sides together.

The grid mode uses the same algorithm. A point v = k*s means (v - s, v], because the sum of exp(-rate*v) over the points
up to k is the same geometric series. So cumulative sizes are rounded down to their last grid point, and then the
integral is taken.

Comparisons have a tolerance (relative 1e-12) so that float64 and exact arithmetic decide ties alike: for cumulative
sizes, for the spread limit, and for prices, where levels of two currencies can be equal after a division.
"""

from decimal import Decimal

import numpy as np

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free
from cython cimport final
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY, expm1, floor, frexp, ldexp, sqrt
from libc.stdint cimport int32_t
from libc.string cimport memcmp, memcpy, memset

from coinspace._ext.ladder cimport ASK, BID, Ladder
from coinspace._ext.memory cimport grow

OK = 0
INSUFFICIENT_DEPTH = 1
EMPTY = 2

cdef double TOLERANCE = 1e-12
cdef double ABOVE = 1.0 + 1e-12
# squares and sums of sizes beyond these overflow or vanish
cdef double HUGE = 1e100
cdef double TINY = 1e-100
cdef double MOST_POINTS = 4503599627370496.0
# factor beyond the last tick's limits of the trim within which the next ones are searched
cdef double REACH = 1.25
# steps of the power table for an exponent of 1 to the base e: STEPS / ln 2
cdef double STEPS_OF_E = 369.3299304675746


def _make_powers():
    # rounded correctly, independent of the platform's pow
    for j in range(STEPS):
        power_table[j] = float((Decimal(2).ln() * -j / STEPS).exp())


_make_powers()


@final
cdef class Curve:
    """The calculation of one index over a ladder; reuses its memory between ticks.

    Args:
        max_spread: D, the largest askPV/midPV - 1 (0.005 = 0.5 %).
        spacing: grid step in base; 0 = integral mode.
        cut: cut the utilised depth at the coverage depth.
        decay: lambda = 1 / (decay * utilised depth).
        cap_band, cap_min_per_side: sample of the size cap: levels within the band, and this number at least.
        cap_trim, cap_sigmas: share trimmed at each end; the cap's deviations above the trimmed mean.
    """

    def __cinit__(
        self, double max_spread, *, double spacing=0.0, bint cut=True, double decay=0.3, double cap_band=0.05,
        Py_ssize_t cap_min_per_side=50, double cap_trim=0.01, double cap_sigmas=5.0,
    ):
        self.max_spread = max_spread
        self.spacing = spacing
        self.cut = cut
        self.decay = decay
        self.cap_band = cap_band
        self.cap_min_per_side = cap_min_per_side
        self.cap_trim = cap_trim
        self.cap_sigmas = cap_sigmas
        self.low_guess = self.high_guess = 1.0
        self.scale = 1.0

    def __dealloc__(self):
        cdef int side
        for side in range(2):
            PyMem_Free(self.own_price[side])
            PyMem_Free(self.own_raw[side])
            PyMem_Free(self.own_venue[side])
            PyMem_Free(self.size[side])
            PyMem_Free(self.total[side])
        PyMem_Free(self.falling)
        PyMem_Free(self.sample)
        PyMem_Free(self.small)
        PyMem_Free(self.large)
        PyMem_Free(self.sums)
        PyMem_Free(self.seen)
        PyMem_Free(self.used)

    cdef int reserve(self, Ladder ladder, Py_ssize_t n_venues) except -1:
        cdef int side
        cdef Py_ssize_t n, total = ladder.n[BID] + ladder.n[ASK]
        for side in range(2):
            n = ladder.n[side]
            if n > self.capacity[side]:
                n *= 2
                grow(<void**>&self.own_price[side], n, sizeof(double))
                grow(<void**>&self.own_raw[side], n, sizeof(double))
                grow(<void**>&self.own_venue[side], n, sizeof(int32_t))
                grow(<void**>&self.size[side], n, sizeof(double))
                grow(<void**>&self.total[side], n, sizeof(double))
                self.capacity[side] = n
        if total > self.total_capacity or self.falling == NULL:
            total = 2 * total + 2
            grow(<void**>&self.falling, total, sizeof(double))
            grow(<void**>&self.sample, total, sizeof(double))
            grow(<void**>&self.small, total, sizeof(double))
            grow(<void**>&self.large, total, sizeof(double))
            self.total_capacity = total - 2
        if n_venues > self.n_venues or self.sums == NULL:
            grow(<void**>&self.sums, LANES * (n_venues + 1), sizeof(double))
            grow(<void**>&self.seen, n_venues + 1, 1)
            grow(<void**>&self.used, n_venues + 1, 1)
        self.n_venues = n_venues
        return 0

    cdef void take(self, int side, Ladder ladder, const unsigned char* used) noexcept nogil:
        # the levels of the used venues; if all venues are used, the ladder's memory itself
        cdef Py_ssize_t i, n = 0
        cdef int32_t v
        cdef double* price = self.own_price[side]
        cdef double* raw = self.own_raw[side]
        cdef int32_t* venue = self.own_venue[side]
        cdef bint every = True
        for i in range(self.n_venues):
            every &= used[i]
        if every:
            self.price[side] = ladder.price[side]
            self.raw[side] = ladder.size[side]
            self.venue[side] = ladder.venue[side]
            self.n[side] = ladder.n[side]
            return
        for i in range(ladder.n[side]):
            v = ladder.venue[side][i]
            price[n] = ladder.price[side][i]
            raw[n] = ladder.size[side][i]
            venue[n] = v
            n += used[v]
        self.price[side] = price
        self.raw[side] = raw
        self.venue[side] = venue
        self.n[side] = n

    cdef void rescale(self) noexcept nogil:
        # exact, because the scale is a power of two; ordinary sizes do not change
        cdef double largest = max(largest_of(self.raw[BID], self.n[BID]), largest_of(self.raw[ASK], self.n[ASK]))
        cdef int side, exponent
        cdef Py_ssize_t i
        self.scale = 1.0
        if TINY < largest < HUGE:
            return
        frexp(largest, &exponent)
        self.scale = ldexp(1.0, min(exponent, 1020))
        for side in range(2):
            for i in range(self.n[side]):
                self.own_raw[side][i] = self.raw[side][i] / self.scale
            self.raw[side] = self.own_raw[side]

    cdef Py_ssize_t near(self, int side) noexcept nogil:
        # number of a side's levels in the sample of the size cap; bisects the sorted prices
        cdef const double* price = self.price[side]
        cdef Py_ssize_t m = min(self.n[side], self.cap_min_per_side), end = self.n[side], middle
        cdef double limit
        if side == BID:
            limit = price[0] * (1.0 - self.cap_band - TOLERANCE)
        else:
            limit = price[0] * (1.0 + self.cap_band + TOLERANCE)
        while m < end:
            middle = (m + end) >> 1
            if (price[middle] >= limit if side == BID else price[middle] <= limit):
                m = middle + 1
            else:
                end = middle
        return m

    cdef void find_trim(self, const Py_ssize_t* m, Py_ssize_t k, double* low, double* high) noexcept nogil:
        # the next sizes after the k smallest and the k largest of the sample
        cdef int side
        cdef Py_ssize_t n = 0, n_small, n_large
        # only sizes near the limits of the last tick; a wrong guess only costs time
        for side in range(2):
            n += values_outside(self.raw[side], m[side], self.low_guess, self.high_guess, self.sample + n)
        n_small = values_outside(self.sample, n, self.low_guess, INFINITY, self.small)
        n_large = values_outside(self.sample, n, 0.0, self.high_guess, self.large)
        if n_small <= k or n_large <= k:
            n_small = values_outside(self.raw[BID], m[BID], 0.0, 0.0, self.small)
            n_small += values_outside(self.raw[ASK], m[ASK], 0.0, 0.0, self.small + n_small)
            n_large = n_small
            memcpy(self.large, self.small, n_small * sizeof(double))
        low[0] = ranked(self.small, n_small, k)
        high[0] = ranked(self.large, n_large, n_large - 1 - k)
        self.low_guess = low[0] * REACH
        self.high_guess = max(high[0] / REACH, self.low_guess)

    cdef double cap(self) noexcept nogil:
        cdef int side
        cdef Py_ssize_t[2] m
        cdef Py_ssize_t n, k
        cdef double low = 0.0, high = DBL_MAX, origin, sum = 0.0, squares = 0.0, mean, variance = 0.0
        for side in range(2):
            m[side] = self.near(side)
        n = m[BID] + m[ASK]
        k = <Py_ssize_t>floor(self.cap_trim * n + 1e-9)
        if k:
            self.find_trim(m, k, &low, &high)
        origin = min(max(self.raw[BID][0], low), high)
        for side in range(2):
            add_distances(self.raw[side], m[side], low, high, origin, &sum, &squares)
        if n > 1:
            variance = max(squares - sum * (sum / n), 0.0) / (n - 1)
        # the trimmed sum is the winsorised sum without the k replaced sizes at each end
        mean = origin + (sum - k * ((low - origin) + (high - origin)) if k else sum) / (n - 2 * k)
        return mean + self.cap_sigmas * sqrt(variance)

    cdef double covered(self, int side) noexcept nogil:
        # the volume up to the last level of the shallowest venue, whose last level comes first
        cdef Py_ssize_t i, low = 0, n = self.n[side], middle, end = n, left = self.n_venues
        cdef const double* price = self.price[side]
        cdef const int32_t* venue = self.venue[side]
        cdef double limit = price[0]
        cdef int32_t v
        memset(self.seen, 0, self.n_venues)
        for i in range(n - 1, -1, -1):
            v = venue[i]
            if not self.seen[v]:
                self.seen[v] = True
                limit = price[i]
                left -= 1
                if left == 0:
                    break
        while low < end:
            middle = (low + end) >> 1
            if (price[middle] < limit * (1.0 - TOLERANCE) if side == BID else price[middle] > limit * ABOVE):
                end = middle
            else:
                low = middle + 1
        # 0 only if prices are not sorted, and a merge sorts them
        return self.total[side][low - 1] if low else 0.0

    cdef void round_to_grid(self, int side) noexcept nogil:
        cdef Py_ssize_t i
        cdef double step = self.spacing / self.scale
        cdef double* total = self.total[side]
        for i in range(self.n[side]):
            # a grid too fine for float64 is ignored
            if total[i] / step < MOST_POINTS:
                total[i] = step * floor(total[i] / step / (1.0 - TOLERANCE))

    cdef bint ends_at(
        self, double boundary, const Py_ssize_t* least, const Py_ssize_t* most, Py_ssize_t* passed
    ) noexcept nogil:
        # whether the curve ends at a boundary: the next segment does not exist or is too wide. `passed` gets each
        # side's number of levels up to the boundary, which is between `least` and `most`
        cdef double bound = boundary * ABOVE, ask
        cdef int side
        for side in range(2):
            passed[side] = least[side] + count_up_to(self.total[side] + least[side], most[side] - least[side], bound)
        if self.ended(passed):
            return True
        ask = self.price[ASK][passed[ASK]]
        return ask > (0.5 * self.price[BID][passed[BID]] + 0.5 * ask) * (1.0 + self.max_spread + TOLERANCE)

    cdef bint ended(self, const Py_ssize_t* passed) noexcept nogil:
        return passed[BID] == self.n[BID] or passed[ASK] == self.n[ASK]

    cdef double first_end(self, int side, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
        # the first boundary after levels low .. high of a side at which the curve ends; `high` is assumed to be one
        cdef Py_ssize_t middle
        cdef Py_ssize_t[2] least = [0, 0], most = [self.n[BID], self.n[ASK]], passed
        while low < high:
            middle = (low + high) >> 1
            if self.ends_at(self.total[side][middle], least, most, passed):
                high = middle
                most = passed
            else:
                low = middle + 1
                least = passed
        return self.total[side][low]

    cdef double find_depth(self) noexcept nogil:
        # the volume up to which every segment is within the spread limit, 0 = not even the first one; the spread only
        # grows with volume, so the end is found by bisection
        cdef double depth, before
        cdef Py_ssize_t low, high
        cdef Py_ssize_t[2] none = [0, 0], passed
        if self.ends_at(0.0, none, self.n, passed):
            self.exhausted = self.ended(passed)
            # the first point always counts on the grid
            return self.spacing / self.scale if self.spacing > 0 and not self.exhausted else 0.0
        depth = self.first_end(BID, 0, self.n[BID] - 1)
        # a boundary of the asks may come earlier, but not before the last bid within the limit
        low = count_up_to(self.total[BID], self.n[BID], depth * (1.0 - TOLERANCE))
        before = self.total[BID][low - 1] if low else 0.0
        low = count_up_to(self.total[ASK], self.n[ASK], before)
        high = min(count_up_to(self.total[ASK], self.n[ASK], depth), self.n[ASK] - 1)
        if low <= high:
            depth = min(depth, self.first_end(ASK, low, high))
        self.ends_at(depth, none, self.n, passed)
        self.exhausted = self.ended(passed)
        return depth

    cdef double weigh(self, double depth, bint keep) noexcept nogil:
        # exponentially weighted mid up to `depth`; keep = sum the weights for the shares
        cdef double rate = 1.0 / (self.decay * depth)
        cdef double norm = -expm1(-rate * depth)
        cdef double distance = 0.0
        cdef Py_ssize_t n
        cdef int side
        if keep:
            memset(self.sums, 0, LANES * self.n_venues * sizeof(double))
        for side in range(2):
            # up to the level that contains the depth
            n = 1 + count_up_to(self.total[side], self.n[side] - 1, depth * (1.0 - TOLERANCE))
            distance += weighted(
                self.price[side], self.total[side], n, depth, rate * STEPS_OF_E, self.falling if keep else NULL
            )
            if keep:
                self.attribute(side, n)
        if keep:
            self.used_depth = depth
            self.used_rate = rate
            self.norm = norm
            self.weighted = True
        return 0.5 * self.price[BID][0] + 0.5 * self.price[ASK][0] + 0.5 * distance / norm

    cdef void attribute(self, int side, Py_ssize_t n) noexcept nogil:
        # adds the weights of a side's first n levels to their venues; levels of equal price share them by capped size
        cdef Py_ssize_t i = 1, j, first, end = self.n[side]
        cdef const double* price = self.price[side]
        cdef const double* size = self.size[side]
        cdef double* falling = self.falling
        cdef double total, volume, taken, last
        while True:
            i = next_close(price, i, min(n + 1, end), TOLERANCE)
            if i >= min(n + 1, end):
                break
            first = i - 1
            volume = taken = 0.0
            i = first
            while i < end and is_close(price[i], price[first], TOLERANCE):
                volume += size[i]
                i += 1
            last = falling[min(i, n)]
            total = falling[first] - last
            for j in range(first, i - 1):
                taken += size[j]
                falling[j + 1] = falling[first] - total * (taken / volume)
            falling[i] = last
            n = max(n, i)
            i += 1
        add_by_venue(falling, self.venue[side], n, self.sums)

    def compute(self, Ladder ladder not None, used):
        """Compute over the levels of the used venues (uint8, 1 = used, per venue index of the ladder).

        Borrowed: the levels may stay in the ladder's memory. `average`, `levels` and `segments` work until the ladder
        is merged or loaded again.

        Returns: OK, INSUFFICIENT_DEPTH (nothing within the spread limit) or EMPTY (a side has no level).
        """
        cdef Py_buffer view
        PyObject_GetBuffer(used, &view, PyBUF_SIMPLE)
        try:
            if view.itemsize != 1:
                raise ValueError(f"used: expected 1 byte per venue, was {view.itemsize}")
            if view.len < ladder.n_venues:
                raise ValueError(f"used: expected {ladder.n_venues} venues, was {view.len}")
            if (
                self.ladder is ladder and self.version == ladder.version and self.n_venues == view.len
                and memcmp(self.used, view.buf, view.len) == 0
            ):
                # unchanged input: an update of one market computes all indices, and most of them do not use it
                return self.status
            self.version = 0
            self.reserve(ladder, view.len)
            self.ladder = ladder
            memcpy(self.used, view.buf, view.len)
            self.status = self.calculate(ladder, self.used)
            self.version = ladder.version
            return self.status
        finally:
            PyBuffer_Release(&view)

    cdef int calculate(self, Ladder ladder, const unsigned char* used) noexcept nogil:
        cdef int side
        cdef double cap, covered, depth, step
        cdef bint limited = False
        self.weighted = self.exhausted = False
        self.size_cap = self.coverage_depth = self.full_depth = self.depth = self.rate = 0.0
        self.value = self.value_full = self.best_bid = self.best_ask = 0.0
        for side in range(2):
            if self.n_venues:
                self.take(side, ladder, used)
            else:
                self.n[side] = 0
        if not self.n[BID] or not self.n[ASK]:
            # no cap without a curve
            self.scale = 1.0
            for side in range(2):
                if self.n[side]:
                    memcpy(self.size[side], self.raw[side], self.n[side] * sizeof(double))
            return 2
        self.rescale()
        self.best_bid = self.price[BID][0]
        self.best_ask = self.price[ASK][0]
        cap = self.cap()
        for side in range(2):
            capped_totals(self.raw[side], self.n[side], cap, self.size[side], self.total[side])
        covered = min(self.covered(BID), self.covered(ASK))
        if self.spacing > 0:
            for side in range(2):
                self.round_to_grid(side)
        self.size_cap = min(cap * self.scale, DBL_MAX)
        self.coverage_depth = min(covered * self.scale, DBL_MAX)
        depth = self.find_depth()
        if not depth > 0:
            return 1
        self.full_depth = min(depth * self.scale, DBL_MAX)
        if self.cut:
            if self.spacing > 0:
                step = self.spacing / self.scale
                if covered / step < MOST_POINTS:
                    covered = max(step, step * floor(covered / step / (1.0 - TOLERANCE)))
            if covered < depth * (1.0 - TOLERANCE):
                self.value_full = self.weigh(depth, False)
                depth = covered
                limited = True
        self.value = self.weigh(depth, True)
        if not limited:
            self.value_full = self.value
        self.depth = min(depth * self.scale, DBL_MAX)
        self.rate = self.used_rate / self.scale
        return 0

    @property
    def depth_limited(self):
        """Whether the uncut depth exceeds the coverage depth, or a side ended before the spread limit."""
        return self.exhausted or self.full_depth > self.coverage_depth * (1.0 + TOLERANCE)

    def shares(self):
        """Return the share of each venue in the last compute, float64[n_venues]; their sum is 1."""
        cdef Py_ssize_t v
        cdef const double* sums = self.sums
        out = np.zeros(self.n_venues)
        cdef double[::1] view = out
        if self.weighted:
            for v in range(self.n_venues):
                view[v] = 0.5 * ((sums[0] + sums[1]) + (sums[2] + sums[3])) / self.norm
                sums += LANES
        return out

    cdef int must_hold(self) except -1:
        # the levels may be in the ladder's memory, which a merge overwrites or moves
        if self.ladder is not None and self.ladder.version != self.version:
            raise ValueError("curve: expected no change of the ladder since the last compute; compute again")
        return 0

    def average(self, int side, double volume):
        """Return the average price to trade `volume` with a side (0 = sell to bids, 1 = buy from asks), uncapped sizes.

        Returns: None where the side has less.
        """
        cdef Py_ssize_t i
        cdef double left = volume / self.scale, total = 0.0, taken, first
        self.must_hold()
        if not self.n[side] or not volume > 0:
            return None
        first = self.price[side][0]
        for i in range(self.n[side]):
            taken = min(self.raw[side][i], left)
            total += taken * (self.price[side][i] - first)
            left -= taken
            if left <= TOLERANCE * volume / self.scale:
                return first + total / (volume / self.scale)
        return None

    @staticmethod
    def powers(const double[::1] values not None):
        """Return 2^(-x / 256) of values that are not below zero, as the curve computes it; for tests."""
        cdef Py_ssize_t i
        out = np.empty(values.shape[0])
        cdef double[::1] view = out
        for i in range(values.shape[0]):
            view[i] = power_of(values[i])
        return out

    def levels(self, int side):
        """Return the used levels of a side: float64[n] prices, uncapped sizes, capped sizes, int32[n] venues."""
        self.must_hold()
        cdef Py_ssize_t i, n = self.n[side]
        out = np.empty((3, n))
        venues = np.empty(n, dtype=np.int32)
        cdef double[:, ::1] view = out
        cdef int[::1] v = venues
        for i in range(n):
            view[0, i] = self.price[side][i]
            view[1, i] = self.raw[side][i] * self.scale
            view[2, i] = self.size[side][i] * self.scale
            v[i] = self.venue[side][i]
        return out[0], out[1], out[2], venues

    def segments(self):
        """Return the curve: float64[7, n]: from, to (volume), bidPV, askPV, midPV, midSV, weight in the value."""
        cdef Py_ssize_t i = 0, j = 0, m = 0
        cdef double end, bid, ask, mid, bound = 0.0, before = 0.0, after, decayed = 1.0
        cdef bint used = True, wide, bid_ends, ask_ends
        self.must_hold()
        out = np.zeros((7, self.n[BID] + self.n[ASK]))
        cdef double[:, ::1] view = out
        while self.weighted and i < self.n[BID] and j < self.n[ASK]:
            end = min(self.total[BID][i], self.total[ASK][j])
            # a segment without width (a level between two grid points) is skipped
            if end > bound:
                bid, ask = self.price[BID][i], self.price[ASK][j]
                mid = 0.5 * bid + 0.5 * ask
                wide = ask > mid * (1.0 + self.max_spread + TOLERANCE)
                if wide and m:
                    break
                if wide:
                    # the first point always counts on the grid
                    end = self.spacing / self.scale
                view[0, m] = before * self.scale
                view[1, m] = end * self.scale
                view[2, m] = bid
                view[3, m] = ask
                view[4, m] = mid
                view[5, m] = ask / mid - 1.0
                if used:
                    used = end < self.used_depth * (1.0 - TOLERANCE)
                    after = end if used else self.used_depth
                    view[6, m] = decayed
                    decayed = power_of(after * self.used_rate * STEPS_OF_E)
                    view[6, m] = (view[6, m] - decayed) / self.norm
                before = end
                m += 1
                if wide:
                    break
            bound = max(end * ABOVE, bound)
            bid_ends, ask_ends = self.total[BID][i] <= bound, self.total[ASK][j] <= bound
            if not bid_ends and not ask_ends:
                # volumes that are not numbers
                break
            i += bid_ends
            j += ask_ends
        return out[:, :m]
