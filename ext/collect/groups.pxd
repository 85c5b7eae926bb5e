"""Price groups of a second subscription, which extend a market's book of single levels."""

from libc.stdint cimport int64_t

from coinspace._ext.collector cimport Collector, MarketEntry
from coinspace._ext.message cimport Header
from coinspace._ext.parser cimport Parser


cdef class Groups(MarketEntry):
    cdef:
        readonly Py_ssize_t depth        # groups per side
        readonly double level            # the exchange's number of these groups, 0 = none have come
        double *levels                   # owned: prices and sizes of bids, then of asks, each with room for `depth`
        readonly Py_ssize_t n_bids
        readonly Py_ssize_t n_asks
        double bid_width                 # at least the width of a group, infinite where it is unknown
        double ask_width
        int64_t received_ns              # receipt of the last groups, wall clock
        int64_t unmatched_ns             # receipt of the first new single levels after the groups, 0 = none

    # keep the grouped book that a parser has read
    cdef int take(self, Parser parser, int64_t received_ns, int64_t now_ns) except -1
    # write single levels with the groups behind them to `out`; returns whether there are such groups. id: of the book
    cdef bint extend(self, double *out, const double *levels, Header *header, int64_t id) noexcept


cdef class GroupCollector(Collector):
    pass
