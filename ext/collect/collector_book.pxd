"""Order books: whole books that replace each other, or local books with updates. Each accepted frame is published."""

from libc.stdint cimport int64_t, uint64_t

from coinspace._ext.collector cimport Collector, MarketEntry
from coinspace._ext.groups cimport Groups
from coinspace._ext.message cimport Header
from coinspace._ext.orderbook cimport OrderBook
from coinspace._ext.parser cimport Parser
from coinspace._ext.sequence cimport Sequence
from coinspace._ext.sink cimport Topic


# phase of a market's book
cdef enum Phase:
    EMPTY = 0           # nothing is known
    KEEPING = 1         # updates are kept for a snapshot
    USED = 2            # the book is complete: updates are applied and published
    REFRESHING = 3      # the same, and updates are kept for a deeper snapshot
    LEFT = 4            # the price has left the known range: updates are applied and kept, nothing is published


# new condition of a book
cdef enum Condition:
    WHOLE = 1           # the first whole book after a start, a loss or a quarantine
    CROSSED = 2         # the best bid is not below the best ask
    RANGE_LEFT = 3      # a side has no known level any more
    FLAWED = 4          # a level could not be read
    DISAGREED = 5       # two links have brought different updates of the same ids


cdef class BookMarket(MarketEntry):
    cdef:
        readonly Topic topic
        readonly OrderBook book          # None for exchanges that send whole books
        readonly Sequence sequence       # its place in the exchange's ids
        public int phase                 # a Phase
        readonly bint quiet              # updates are applied, but not published
        readonly int64_t applied         # accepted books or updates
        readonly int64_t published
        readonly int64_t repeats         # books that were identical to the one before
        readonly int64_t crossed
        double *levels                   # owned: the last payload, bid prices, bid sizes, ask prices, ask sizes
        double *scratch                  # owned: sizes before they are copied into `levels`
        double *extended                 # owned: `levels` with price groups behind them, or with newer best prices
        readonly Groups groups           # price groups that extend the book, None = none have come
        public bint corrects             # published books get newer best prices from the exchange's channel of them
        readonly int64_t corrected       # published books with newer best prices
        int64_t touch_id                 # update id of the newest best prices, 0 = none
        int64_t touch_ns                 # their receipt, monotonic clock
        int64_t touch_exchange_ns        # their time at the exchange, 0 = none sent
        double touch[4]                  # bid, its size, ask, its size
        double shown[2]                  # best prices of the last published book
        readonly Py_ssize_t n_bids
        readonly Py_ssize_t n_asks
        readonly Py_ssize_t depth        # published levels per side

    cdef bint same_levels(self, const double *bp, const double *bs, Py_ssize_t n, const double *ap, const double *as_,
                          Py_ssize_t m) noexcept
    cdef int keep_levels(self, const double *bp, const double *bs, Py_ssize_t n, const double *ap, const double *as_,
                         Py_ssize_t m) noexcept
    cdef int keep_book(self) noexcept
    # write the last book with the newest best prices into `extended`, behind a header with its numbers of levels
    cdef int correct(self, Header *header) noexcept


cdef class BookCollector(Collector):
    cdef:
        readonly bint updates            # the exchange sends updates
        readonly bint in_stream          # its snapshots are in the stream, and its updates have no ids
        readonly int64_t early           # updates without a book
        readonly int64_t bad_ids         # updates with impossible ids
        readonly int64_t bad_tops        # best prices that cannot be true
        readonly int64_t bad_times       # absurd times: the book is published without its time
        Parser kept                      # reads snapshots and kept frames
        public bint silent               # books are kept, but not published
        public object watcher            # None, or called with (BookMarket, received_ns) after each accepted book

    # what a late update of another link is compared by
    cdef uint64_t content(self) noexcept
    cdef int64_t sound_time(self, int64_t exchange_ns, int64_t received_ns) noexcept
    cdef int take_whole(self, BookMarket market, int64_t received_ns, int connection) except -1
    cdef int take_snapshot(self, BookMarket market, int64_t received_ns, int connection) except -1
    cdef int take_next(self, BookMarket market, int64_t received_ns, int connection) except -1
    cdef int publish_next(self, BookMarket market, int64_t received_ns) except -1
    cdef int publish_applied(self, BookMarket market, int64_t received_ns) except -1
    cdef int take_update(
        self, BookMarket market, const char *frame, Py_ssize_t size, int64_t received_ns, int connection,
    ) except -1
    cdef int apply_update(self, Parser parser, BookMarket market, int64_t received_ns) except -1
    cdef int64_t read_snapshot(self, bytes payload) except -1
    # whether best prices are known that are newer than the book
    cdef bint has_touch(self, BookMarket market) noexcept
    cdef int send_book(self, BookMarket market, int flags, int64_t received_ns) except -1
