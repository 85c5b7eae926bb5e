"""Price groups of a second subscription, which extend a market's book of single levels.

1. An exchange shows a limited number of levels. As groups, the same number reaches much further.
2. Which edge of a group its price names is not documented. A group counts when each price that it can contain lies
   beyond the last single level: its price is at least a group's width beyond that level. So no order counts twice.
3. The width is the smallest distance of two groups of the book: it is a group's width or a multiple of it. A side with
   one group has the width of the other side.
4. A group enters at the price that the exchange gives it.
5. Each change of the book changes a group, and both frames come at about the same time. Groups that stay away for 10 s
   after a change are out of date and not used.
"""

from libc.math cimport INFINITY, fabs
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from coinspace._ext.collector cimport Collector, MarketEntry, in_order
from coinspace._ext.message cimport FINE_SHIFT, FLAG_GROUPED, FLAG_REPEAT, Header
from coinspace._ext.parser cimport Parser

# groups are out of date when the book has changed for this long without them
LIMIT_NS = 10_000_000_000
cdef int64_t limit_ns = LIMIT_NS
# a change of the book belongs to the groups that came this long before it
cdef int64_t slack_ns = 1_000_000_000


cdef double width_of(const double *prices, Py_ssize_t n) noexcept nogil:
    cdef double least = INFINITY
    cdef Py_ssize_t i
    for i in range(1, n):
        least = min(least, fabs(prices[i] - prices[i - 1]))
    return least


cdef double *joined(
    double *out, const double *near, Py_ssize_t n, const double *far, Py_ssize_t more,
) noexcept nogil:
    memcpy(out, near, n * sizeof(double))
    memcpy(out + n, far, more * sizeof(double))
    return out + n + more


cdef class Groups(MarketEntry):
    """The newest grouped book of one market."""

    def __cinit__(self, int index, str symbol, str market, Py_ssize_t depth):
        self.depth = depth
        self.levels = <double *>malloc(4 * depth * sizeof(double))
        if self.levels == NULL:
            raise MemoryError()

    def __init__(self, int index, str symbol, str market, Py_ssize_t depth):
        MarketEntry.__init__(self, index, symbol, market)

    def __dealloc__(self):
        free(self.levels)

    cdef int take(self, Parser parser, int64_t received_ns, int64_t now_ns) except -1:
        cdef Py_ssize_t n = min(parser.n_bids, self.depth)
        cdef Py_ssize_t m = min(parser.n_asks, self.depth)
        self.frames += 1
        self.heard_ns = now_ns
        if not in_order(self, parser.exchange_ns, now_ns):
            return 0
        self.exchange_ns = parser.exchange_ns
        self.level = parser.grouping
        memcpy(self.levels, parser.bid_price, n * sizeof(double))
        memcpy(self.levels + self.depth, parser.bid_size, n * sizeof(double))
        memcpy(self.levels + 2 * self.depth, parser.ask_price, m * sizeof(double))
        memcpy(self.levels + 3 * self.depth, parser.ask_size, m * sizeof(double))
        self.n_bids = n
        self.n_asks = m
        self.bid_width = width_of(parser.bid_price, n)
        self.ask_width = width_of(parser.ask_price, m)
        if self.bid_width == INFINITY:
            self.bid_width = self.ask_width
        elif self.ask_width == INFINITY:
            self.ask_width = self.bid_width
        self.received_ns = received_ns
        self.unmatched_ns = 0
        return 0

    cdef bint extend(self, double *out, const double *levels, Header *header, int64_t id) noexcept:
        cdef Py_ssize_t n = header.n_bids
        cdef Py_ssize_t m = header.n_asks
        cdef Py_ssize_t bid = 0
        cdef Py_ssize_t ask = 0
        cdef const double *bids = self.levels
        cdef const double *asks = self.levels + 2 * self.depth
        cdef bint matched
        if self.level == 0 or id != 0 or n == 0 or m == 0:
            return False
        matched = header.received_ns - self.received_ns <= slack_ns or header.flags & FLAG_REPEAT
        if self.unmatched_ns == 0 or header.received_ns < self.unmatched_ns:
            self.unmatched_ns = 0 if matched else header.received_ns
        elif header.received_ns - self.unmatched_ns > limit_ns:
            return False
        while bid < self.n_bids and bids[bid] > levels[n - 1] - self.bid_width:
            bid += 1
        while ask < self.n_asks and asks[ask] < levels[2 * n + m - 1] + self.ask_width:
            ask += 1
        cdef Py_ssize_t more_bids = self.n_bids - bid
        cdef Py_ssize_t more_asks = self.n_asks - ask
        if more_bids == 0 and more_asks == 0:
            return False
        out = joined(out, levels, n, bids + bid, more_bids)
        out = joined(out, levels + n, n, bids + self.depth + bid, more_bids)
        out = joined(out, levels + 2 * n, m, asks + ask, more_asks)
        joined(out, levels + 2 * n + m, m, asks + self.depth + ask, more_asks)
        header.flags |= FLAG_GROUPED
        header.n_bids = <uint32_t>(n + more_bids)
        header.n_asks = <uint32_t>(m + more_asks)
        header.id = n | (<int64_t>m << FINE_SHIFT)
        return True

    def side_copy(self, bint is_bids):
        """Return [(price, size)] of a side, best first."""
        cdef const double *prices = self.levels if is_bids else self.levels + 2 * self.depth
        cdef Py_ssize_t i
        return [(prices[i], prices[self.depth + i]) for i in range(self.n_bids if is_bids else self.n_asks)]


cdef class GroupCollector(Collector):
    """Reads grouped books of a connection of their own into `Groups`, its markets."""

    cdef int take_group(self, MarketEntry market, int64_t received_ns) except -1:
        (<Groups>market).take(self.parser, received_ns, self.now_ns)
        return 0

    cdef int take(
        self, MarketEntry market, int kind, const char *frame, Py_ssize_t size, int64_t received_ns, int connection,
    ) except -1:
        # single levels, though groups were asked for
        self.ignored += 1
        return 0
