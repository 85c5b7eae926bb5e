"""What a parser makes of an exchange's frame. One subclass per exchange; the collectors read these fields.

Use: `parser.begin(frame, size)`, then `while parser.next(): …` reads one message after the other.
A frame that is cut short, is not JSON or lacks a needed field gives MALFORMED.

Borrowed: `symbol`, `detail` and all values point into the frame or the parser: they end with the frame or the next
`begin`.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from coinspace._ext.number cimport number_read

cdef enum:
    END = 0
    ORDERBOOK = 1    # symbol, exchange_ns, snapshot, ids, levels
    TICKER = 2       # symbol, exchange_ns, ticker[], window
    TRADE = 3        # symbol, exchange_ns, price, size, sell, trade_id, snapshot
    TOP = 4          # symbol, final_update_id, ticker[bid..ask_size]
    CONTROL = 5      # control, detail
    IGNORED = 6      # detail: the valid frame's type
    MALFORMED = 7    # reason, offset

cdef enum:
    STATUS = 1       # detail: the frame
    ACK = 2          # detail: the frame
    ERROR = 3        # detail: the frame; the exchange's own error object is its "error" where it is wrapped
    SHUTDOWN = 4     # detail: the message

cdef enum:
    NO_WINDOW = 0
    DAY_24H = 1
    UTC_DAY = 2
    KST_DAY = 3

# order of message.TICKER_NAMES
cdef enum:
    LAST = 0
    OPEN = 1
    HIGH = 2
    LOW = 3
    VOLUME = 4
    QUOTE_VOLUME = 5
    CHANGE = 6
    BID = 7
    BID_SIZE = 8
    ASK = 9
    ASK_SIZE = 10
    TICKER_SIZE = 11

cdef enum:
    KEYS = 200       # in the table: read, and seen
    KEY_SIZE = 29    # bytes of the longest key read
    BUCKETS = 1024   # of the key table; a power of two

cdef enum:
    SYNTAX = 1       # not JSON, or cut short
    TRAILING = 2     # JSON, then something else
    NO_OBJECT = 3
    NO_MESSAGE = 4   # an empty list
    NO_TYPE = 5      # nothing tells what the message is
    MISSING = 6      # fault_slot
    WRONG = 7        # fault_slot
    LEGACY = 8       # a socket generation that is not spoken
    BAD_LEVEL = 9    # fault_slot: a diff with a price <= 0 or a size < 0

cdef extern from "fields.h" nogil:
    enum:
        SLOTS           # fields that one parser can read by name
        KEY_TEXT        # bytes of a remembered key with its quotes and colon
    # what a slot holds; null counts as absent, as on the wire
    enum:
        ABSENT
        STRING          # at..to is the text between the quotes, escapes resolved
        NUMBER          # at..to is the text, number[] the double
        TRUE
        FALSE
        OBJECT          # at..to is the whole text, checked
        ARRAY
        LEVELS          # read into the sides
        LONG_NUMBER     # at..to is the text, checked
    # the fields of an object, by slot
    ctypedef struct Slots:
        unsigned char *type
        const char **at
        const char **to
        double *number
    # what a value looked like
    ctypedef struct Look:
        pass
    Look NO_LOOK
    void value_learn(Look *look, const char *p, const char *after, const char *end, bint near) noexcept
    # one key of the table: those that an exchange names, then those seen on the wire
    ctypedef struct Key:
        Key *next           # the key that followed it last: the first guess for the next one
        Py_ssize_t size     # bytes of `text`
        long slot           # -1 = not read
        Look look           # of the value that it had last
        char *text          # `"key":`
        char *mask          # ones for each byte of `text`
    # whether the key, which may be NULL, stands at p
    bint key_follows(const char *p, const char *frame, const char *end, const Key *key) noexcept
    # read fields as long as they are the expected ones; return the place behind the last value, p where none was read
    const char *fields_expected(
        const char *p, const char *frame, const char *end, Key **last, Slots *slots,
    ) noexcept

cdef extern from "unit.h" nogil:
    enum:
        LEVEL_PAD       # bytes that a template may look at
    const char *unit_default(const char *p, double *values) noexcept
    const char *unit_simple(const char *p, double *values) noexcept
    const char *level_quoted(const char *p, double *price, double *size) noexcept

cdef extern from "levels.h" nogil:
    ctypedef struct Side:
        double *prices
        double *sizes
        long n
        long room
        double least     # the size that a level has at least
    double TINY          # more than 0
    # read levels as long as they are ordinary; return the place behind the last one, p where they read none
    const char *pairs_falling(const char *p, const char *end, Side *side) noexcept
    const char *pairs_rising(const char *p, const char *end, Side *side) noexcept
    const char *units_default(const char *p, const char *end, Side *asks, Side *bids) noexcept
    const char *units_simple(const char *p, const char *end, Side *asks, Side *bids) noexcept

cdef class Parser:
    cdef:
        readonly Py_ssize_t capacity       # levels per side
        readonly int kind
        const char *symbol
        Py_ssize_t symbol_size             # 0 = the frame names none
        readonly int64_t exchange_ns       # 0 = none sent
        readonly bint snapshot             # book: the whole book; trade: stream type SNAPSHOT
        readonly int64_t first_update_id   # 0 = none sent
        readonly int64_t final_update_id   # 0 = none sent
        # levels, best first, owned: price[i] goes with size[i]; room for twice the capacity, to sort
        double *bid_price
        double *bid_size
        double *ask_price
        double *ask_size
        readonly Py_ssize_t n_bids
        readonly Py_ssize_t n_asks
        double *scratch                    # of sort_levels, for one side
        int unsorted                       # sides whose levels came out of order: bit 1 bids, bit 0 asks
        int cut                            # sides with more levels than the capacity: the same bits
        readonly double price
        readonly double size
        readonly bint sell                 # the taker sold
        readonly int64_t trade_id
        double ticker[11]                  # NaN = none sent
        readonly double day_volume         # ticker: traded since the exchange's midnight, NaN = none sent
        readonly bint suspended            # ticker: the exchange says that nobody trades there
        readonly int window
        readonly int control
        const char *detail
        Py_ssize_t detail_size
        # counters since construction
        readonly int64_t malformed
        readonly int64_t levels_dropped    # beyond capacity, from the far end
        readonly int64_t template_misses   # units read on the key-order-free path

        # the frame being read
        const char *frame
        const char *end
        const char *cursor                 # list frames: the next element
        const char *list_end               # behind the list's bracket; NULL = no list open
        const char *message_at             # the object being read
        const char *message_to
        bint started
        Slots slots
        uint64_t nulls                     # bit per slot whose value was null
        uint64_t level_slots               # bit per slot whose array `levels` reads
        int depth                          # containers open around the fields being read
        int fault
        int fault_slot
        const char *fault_at
        # keys by name
        Key keys[KEYS]                     # 0 to 2: the beginnings of objects at each depth
        int n_keys
        unsigned char buckets[BUCKETS]     # index into keys, 0 = none
        uint64_t key_factor
        tuple slot_names
        # text that had to be copied: resolved escapes, capitals; as large as two frames, so it never moves
        char *room
        Py_ssize_t room_size
        Py_ssize_t room_used
        bint has_ids                       # the exchange's books carry update ids
        bytes held                         # the frame that Python gave, kept until the next one
        Py_buffer view                     # the same of a frame that is not bytes
        dict names                         # bytes symbol -> (symbol, market)

    cdef int begin(self, const char *frame, Py_ssize_t size) except -1
    cdef int next(self) except -1

    # for subclasses
    cdef int name_slots(self, tuple names, dict keys) except -1
    cdef int clear(self) noexcept
    cdef const char *scan(self, const char *p, int depth) noexcept
    cdef const char *value(self, int slot, const char *p, int depth) noexcept
    cdef const char *key_at(self, const char *p, const char **key, Py_ssize_t *size, bint *escaped) noexcept
    cdef int open_list(self, const char *p, const char *end) noexcept
    cdef int open_sides(self) noexcept
    cdef Py_ssize_t settle(self, bint falling) noexcept
    cdef const char *escaped_number(self, const char *p, double *out) noexcept
    cdef int fail(self, int fault, int slot, const char *at) noexcept
    cdef int as_number(self, int slot, double *out) noexcept
    cdef int as_integer(self, int slot, int64_t *out) noexcept
    cdef int as_time(self, int slot, int64_t *out) noexcept
    cdef int needs(self, int state, int slot) noexcept
    cdef int control_message(self, int control) noexcept
    cdef int ignore(self, int slot) noexcept
    cdef char *take_room(self, Py_ssize_t size) noexcept
    # to be provided: one object frame; the fields read; a level array; the market of a symbol
    cdef int single(self, const char *p) noexcept
    cdef int message(self) noexcept
    cdef const char *levels(self, int slot, const char *p) noexcept
    cdef object market(self, str symbol)

    cdef const char *_field(self, const char *p, int depth, Key **last) noexcept
    cdef bint _fill_buckets(self) noexcept
    cdef Key *_add_key(self, const char *key, Py_ssize_t size, int slot) noexcept
    cdef Key *_find_key(self, const char *key, const char *end, Py_ssize_t size) noexcept
    cdef int hold(self, frame) except -1
    cdef int _next_element(self) noexcept
    cdef int _fail_syntax(self, const char *p) noexcept
    cdef object _side(self, const double *prices, const double *sizes, Py_ssize_t n)
    cdef tuple _names(self)
    cdef dict _as_dict(self)
    cdef int _book_dict(self, dict out) except -1
    cdef int _ticker_dict(self, dict out) except -1
    cdef object _detail(self)


# best first, equal prices in order of arrival; all but `capacity` levels go from the far end. Returns: levels left
cdef Py_ssize_t sort_levels(
    double *prices, double *sizes, Py_ssize_t n, Py_ssize_t capacity, bint falling, double *scratch,
) noexcept


cdef inline bint is_text(Parser parser, int slot, const char *text, Py_ssize_t size) noexcept:
    """Whether a slot holds this string; `size` a constant, so that no function is called to compare."""
    return (
        parser.slots.type[slot] == STRING and parser.slots.to[slot] - parser.slots.at[slot] == size
        and memcmp(parser.slots.at[slot], text, <size_t>size) == 0
    )


cdef inline const char *padded(const char *p, const char *end, char *copy) noexcept:
    """Return p where a template may read on from it, else `copy` (2 * LEVEL_PAD bytes) with the frame's end."""
    if end - p >= LEVEL_PAD:
        return p
    memset(copy, 0, 2 * LEVEL_PAD)
    memcpy(copy, p, <size_t>(end - p))
    return copy


cdef inline int add_level(Parser parser, bint falling, double price, double size) noexcept:
    """Add a level to a side: in order as it comes; out of order it waits for `settle` at the end of the side."""
    cdef double *prices = parser.bid_price if falling else parser.ask_price
    cdef double *sizes = parser.bid_size if falling else parser.ask_size
    cdef Py_ssize_t n = parser.n_bids if falling else parser.n_asks
    cdef int side = 1 << falling
    if n > 0 and (price > prices[n - 1] if falling else price < prices[n - 1]):
        parser.unsorted |= side
    if n >= parser.capacity:
        if not parser.unsorted & side:
            parser.levels_dropped += 1
            parser.cut |= side
            return 0
        if n == 2 * parser.capacity:
            n = parser.settle(falling)
            parser.unsorted |= side
    prices[n] = price
    sizes[n] = size
    if falling:
        parser.n_bids = n + 1
    else:
        parser.n_asks = n + 1
    return 0


cdef inline const char *level_number(Parser parser, const char *p, double *out) noexcept:
    """Read a number, in quotes or not. Returns: its end, NULL when it is none."""
    cdef const char *end = parser.end
    cdef const char *after
    if p >= end or p[0] != c'"':
        return number_read(p, end, out)
    after = number_read(p + 1, end, out)
    if after is not NULL and after < end and after[0] == c'"':
        return after + 1
    return parser.escaped_number(p, out)
