"""Tickers and trades: each trade is published once, even when several connections or REST answers have it."""

from libc.stdint cimport int64_t

from coinspace._ext.collector cimport Collector, MarketEntry
from coinspace._ext.message cimport TICKER_FIELDS
from coinspace._ext.sink cimport Topic


cdef enum:
    # why a trade is refused, as in REFUSALS
    GOOD_TRADE = 0
    BAD_PRICE = 1
    BAD_SIZE = 2
    BAD_ID = 3
    BAD_PAST = 4
    BAD_FUTURE = 5
    N_REFUSALS = 6
    RECENT = 512             # trades kept per market: more than the REST lists that are compared with them


cdef struct RecentTrade:
    int64_t exchange_ns
    double price
    double size
    bint sell
    int64_t id


cdef class RecentIds:
    """The last ids, between `window` and 2 * `window` of them."""
    cdef:
        int64_t *newer           # owned: open addressing, id + 1, 0 = free
        int64_t *older           # owned: the generation before
        Py_ssize_t count         # ids in `newer`
        readonly Py_ssize_t window
        size_t mask              # tables start small, since most markets are quiet, and grow for `window` ids

    cdef bint has(self, int64_t id) noexcept
    cdef bint grow(self) noexcept
    # returns whether the id is new
    cdef bint put(self, int64_t id) noexcept


cdef class TickerMarket(MarketEntry):
    cdef:
        Topic ticker_topic
        Topic trade_topic
        readonly RecentIds ids           # ids of published trades
        readonly int64_t trade_id        # largest id so far, -1 = none yet
        readonly int64_t trade_ns        # exchange's time of the newest trade
        int older_row                    # streamed trades in a row that are far older than trade_ns
        int64_t stray_id                 # last id outside the sequence of ids
        int stray_row                    # ids outside the sequence, in a row
        public bint awaiting             # no trade has come since the last subscription
        readonly int64_t resumed_ns      # exchange's time of the first trade since the last subscription
        readonly double traded           # base volume of all published trades, to compare with day_volume
        readonly double day_volume       # of the newest ticker, NaN = none sent
        readonly bint suspended          # of the newest ticker
        readonly int delisting           # of the newest ticker: day on which trading ends, 20261224; 0 = none
        readonly int64_t tickers
        readonly int64_t ticker_repeats
        readonly int64_t trades
        readonly int64_t trades_by_rest
        readonly int64_t duplicates
        readonly int64_t differing       # duplicates with another price, size or side
        double ticker[TICKER_FIELDS]
        RecentTrade kept[RECENT]         # a ring of the last trades
        int64_t n_kept                   # trades put into the ring since the start

    cdef int keep(self, int64_t exchange_ns, double price, double size, bint sell, bint streamed, int64_t id) noexcept
    # whether a trade of this id with another price, size or side is known
    cdef bint differs(self, double price, double size, bint sell, int64_t id) noexcept
    cdef bint strays(self, int64_t id) noexcept


cdef class TickerCollector(Collector):
    cdef:
        readonly bint contiguous         # trade ids count up by one
        int64_t refused[N_REFUSALS]      # refused trades, by reason
        readonly int64_t tickers_refused
        readonly int64_t id_restarts     # sequences of trade ids that started again

    cdef int judge_trade(self, double price, double size, int64_t id) noexcept
    cdef bint sound_ticker(self, int64_t received_ns) noexcept
    cdef int take_ticker(self, TickerMarket market, int64_t received_ns, int connection) except -1
    cdef int take_trade(self, TickerMarket market, int64_t received_ns, int connection) except -1
    cdef int send_trade(
        self, TickerMarket market, double price, double size, int flags, int64_t id, int64_t exchange_ns,
        int64_t received_ns,
    ) except -1
