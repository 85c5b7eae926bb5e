"""Tickers and trades: each trade is published once, whatever connection or REST answer it comes from."""

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
    RECENT = 512             # trades kept per market: more than the REST list that they are compared with


cdef struct RecentTrade:
    int64_t exchange_ns
    double price
    double size
    bint sell


cdef class RecentIds:
    """The last ids seen, between `window` and twice as many."""
    cdef:
        int64_t *newer           # owned: open addressing, id + 1, 0 = free
        int64_t *older           # owned: the generation before
        Py_ssize_t count         # in `newer`
        readonly Py_ssize_t window
        size_t mask

    cdef bint has(self, int64_t id) noexcept
    # returns whether the id is new
    cdef bint put(self, int64_t id) noexcept


cdef class TickerMarket(MarketEntry):
    cdef:
        readonly Topic ticker_topic
        readonly Topic trade_topic
        readonly RecentIds ids           # trades already published
        readonly int64_t trade_id        # largest so far, -1 = none yet
        readonly int64_t trade_ns        # exchange's time of the newest trade
        int older_row                    # streamed trades in a row that are far older than that
        int64_t stray_id                 # of the last trade whose id does not belong to the sequence
        int stray_row                    # so many of them followed each other
        readonly int64_t trade_received_ns
        public bint awaiting             # no trade has come since the last subscription
        readonly int64_t resumed_ns      # exchange's time of the first trade after it
        readonly double traded           # base volume of all trades published, to compare with day_volume
        readonly double day_volume       # the newest ticker's, NaN = none sent
        readonly bint suspended          # the newest ticker says so
        readonly int64_t tickers
        readonly int64_t ticker_repeats
        readonly int64_t trades
        readonly int64_t trades_by_rest
        readonly int64_t duplicates
        double ticker[TICKER_FIELDS]
        RecentTrade kept[RECENT]         # a ring
        int64_t n_kept                   # since the start

    cdef int keep(self, int64_t exchange_ns, double price, double size, bint sell, bint streamed) noexcept
    cdef bint strays(self, int64_t id) noexcept


cdef class TickerCollector(Collector):
    cdef:
        readonly bint contiguous         # trade ids count up by one
        int64_t refused[N_REFUSALS]      # trades, by reason
        readonly int64_t tickers_refused
        readonly int64_t id_restarts     # sequences of trade ids that began anew

    cdef int judge_trade(self, double price, double size, int64_t id) noexcept
    cdef bint sound_ticker(self, int64_t received_ns) noexcept
    cdef int take_ticker(self, TickerMarket market, int64_t received_ns, int connection) except -1
    cdef int take_trade(self, TickerMarket market, int64_t received_ns, int connection) except -1
    cdef int send_trade(
        self, TickerMarket market, double price, double size, int flags, int64_t id, int64_t exchange_ns,
        int64_t received_ns,
    ) except -1
