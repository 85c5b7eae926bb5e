"""What every collector does with a frame: parse it, find the market, hand the message on.

`feed` is the hot path and calls no Python in the steady state; methods that start with `on_` are Python and happen
rarely. Knows no socket and no clock.
"""

from libc.stdint cimport int64_t, uint64_t

from coinspace._ext.parser cimport Parser
from coinspace._ext.sink cimport Sink


cdef enum:
    TIME_GOOD = 0
    TIME_PAST = 1
    TIME_FUTURE = 2


cdef class MarketEntry:
    """One market of one exchange. Subclasses add what their stream needs."""
    cdef:
        readonly int index               # position in the collector's list
        readonly bytes symbol            # the exchange's own spelling
        readonly str market              # "BTC/KRW"
        readonly int64_t frames          # messages of this market since the start
        readonly int64_t heard_ns        # receipt of the last one by the steady clock, 0 = none yet
        readonly int64_t exchange_ns     # the exchange's time of the last one accepted, 0 = none
        readonly int64_t backwards       # messages dropped because they were older than the last one
        int64_t accepted_ns              # the same of the last message whose time was in order
        readonly int64_t clock_steps     # jumps of the exchange's time that were accepted
        public int primary               # the connection that is believed when two overlap
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
        readonly int64_t messages        # frames can hold several or none
        readonly int64_t ignored         # valid frames of kinds that are not used
        readonly int64_t unknown_symbols
        readonly int64_t malformed
        readonly int64_t controls
        # the steady clock at the event that is being handled: durations are measured by it, in replays it is the feed's
        public int64_t now_ns
        int64_t lead_ns                  # the exchange's clock minus the steady one, as far as it is known
        bint timed                       # it is known
        int too_new                      # times in a row that lay beyond it

    # read one frame; borrowed for the duration of the call. received_ns: the wall clock, which is published
    cdef int feed(
        self, const char *frame, Py_ssize_t size, int64_t received_ns, int64_t now_ns, int connection,
    ) except -1
    # the entry of a symbol, NULL = not one of ours
    cdef void *find(self, const char *symbol, Py_ssize_t size) noexcept
    # what is wrong with a time of the exchange: TIME_GOOD, TIME_PAST, TIME_FUTURE
    cdef int judge_time(self, int64_t exchange_ns, int64_t received_ns) noexcept
    # take the message that the parser holds
    cdef int take(
        self, MarketEntry market, int kind, const char *frame, Py_ssize_t size, int64_t received_ns, int connection,
    ) except -1


# whether a time is none that any clock in use can show, by receipt
cdef bint absurd_time(int64_t exchange_ns, int64_t received_ns) noexcept

# whether a message with this time may follow the market's last one; counts and says why it may
cdef bint in_order(MarketEntry market, int64_t exchange_ns, int64_t now_ns) noexcept
