"""Base of all collectors: parse a frame, find the market of each message, pass the message on.

`feed` is the hot path and normally calls no Python. Methods named `on_…` are Python and rare. A collector has no
socket and no clock.
"""

from libc.stdint cimport int64_t, uint64_t

from coinspace._ext.links cimport Links
from coinspace._ext.parser cimport Parser
from coinspace._ext.sink cimport Sink


cdef enum:
    TIME_GOOD = 0
    TIME_PAST = 1
    TIME_FUTURE = 2


cdef class MarketEntry:
    """One market of one exchange. Subclasses add the fields of their stream."""
    cdef:
        readonly int index               # position in the collector's list
        readonly bytes symbol            # the exchange's own spelling
        readonly str market              # "BTC/KRW"
        readonly int64_t frames          # messages of this market since the start
        readonly int64_t heard_ns        # receipt of the last message, monotonic clock; 0 = none yet
        readonly int64_t exchange_ns     # the exchange's time of the last accepted message, 0 = none
        readonly int64_t backwards       # messages dropped because they were older than the last one
        int64_t accepted_ns              # receipt of the last message whose time was in order, monotonic clock
        readonly int64_t clock_steps     # accepted jumps of the exchange's time
        public int primary               # the connection that counts when two overlap
        public Links links               # None = one link at a time, two only while one replaces the other
        public int n_links               # open links that deliver this market
        readonly bint gone               # it is not collected any more
        uint64_t hash


cdef class Collector:
    cdef:
        readonly Parser parser
        readonly Sink sink
        readonly list markets            # of MarketEntry
        void **slots                     # owned: open addressing by symbol; borrowed entries of `markets`
        uint64_t mask                    # number of slots - 1
        readonly int64_t frames
        readonly int64_t bytes_received
        readonly int64_t messages        # a frame has several, one or none
        readonly int64_t ignored         # valid messages of kinds that are not used
        readonly int64_t unknown_symbols
        readonly int64_t malformed
        readonly int64_t controls
        # the monotonic clock at the present event, for durations; in a replay it is the feed's time
        public int64_t now_ns
        int64_t lead_ns                  # wall clock minus monotonic clock, by which times of the exchange are judged
        bint timed                       # lead_ns is known
        int too_new                      # times of the exchange in a row that were too far ahead

    # read one frame. Borrowed: only during the call. received_ns: the wall clock, which is published
    cdef int feed(
        self, const char *frame, Py_ssize_t size, int64_t received_ns, int64_t now_ns, int connection,
    ) except -1
    # fill `slots` with the markets that are collected
    cdef int arrange(self) except -1
    # the entry of a symbol, NULL = not collected
    cdef void *find(self, const char *symbol, Py_ssize_t size) noexcept
    # judge a time of the exchange: TIME_GOOD, TIME_PAST or TIME_FUTURE
    cdef int judge_time(self, int64_t exchange_ns, int64_t received_ns) noexcept
    # take best prices that the parser has read
    cdef int take_top(self, MarketEntry market, int64_t received_ns) except -1
    # take the message that the parser has read
    cdef int take(
        self, MarketEntry market, int kind, const char *frame, Py_ssize_t size, int64_t received_ns, int connection,
    ) except -1


# whether no clock in use can show this time at this receipt
cdef bint absurd_time(int64_t exchange_ns, int64_t received_ns) noexcept

# whether a message with this time may follow the market's last one; counts steps back and accepted jumps
cdef bint in_order(MarketEntry market, int64_t exchange_ns, int64_t now_ns) noexcept
