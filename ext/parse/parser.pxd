"""The messages of an exchange's frame, as fields that the collectors read. Each exchange has a subclass.

Use: `parser.begin(frame, size)`, then `while parser.next(): …` reads one message after the other.
A frame that is cut short, is not JSON or lacks a needed field gives MALFORMED.

Borrowed: `symbol`, `detail` and all values point into the frame or the parser. They are valid as long as the frame and
until the next `begin`.
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
    IGNORED = 6      # detail: the type of the valid frame
    MALFORMED = 7    # reason, offset

cdef enum:
    STATUS = 1       # detail: the frame
    ACK = 2          # detail: the frame
    ERROR = 3        # detail: the frame; a wrapped error object is its field "error"
    SHUTDOWN = 4     # detail: the message
    PONG = 5         # an answer to a text that keeps the connection alive
    HEARTBEAT = 6    # symbol, trade_id: the market's newest trade

# opcode of a frame, which separates an exchange's binary format from its JSON
cdef enum:
    UNKNOWN_FRAME = 0    # a recorded or a kept frame
    TEXT_FRAME = 1
    BINARY_FRAME = 2

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
    KEYS = 200       # keys in the table: keys to read, and other keys seen
    KEY_SIZE = 29    # bytes of the longest key in the table
    BUCKETS = 1024   # of the key table; a power of two

cdef enum:
    SYNTAX = 1       # not JSON, or cut short
    TRAILING = 2     # other bytes after the JSON
    NO_OBJECT = 3
    NO_MESSAGE = 4   # an empty list
    NO_TYPE = 5      # no field shows the kind of the message
    MISSING = 6      # the field fault_slot is missing
    WRONG = 7        # the field fault_slot has an unexpected value
    LEGACY = 8       # a frame of a legacy socket, which is not supported
    BAD_LEVEL = 9    # fault_slot: a diff with a price <= 0 or a size < 0

cdef extern from "fields.h" nogil:
    enum:
        SLOTS           # fields that one parser can read by name
        KEY_TEXT        # bytes of a key in the table, with its quotes and colon
    # type of a slot's value; null counts as absent
    enum:
        ABSENT
        STRING          # at..to is the text between the quotes, escapes resolved
        NUMBER          # at..to is the text, number[] the double
        TRUE
        FALSE
        OBJECT          # at..to is the whole text, checked
        ARRAY
        LEVELS          # levels, read into the sides
        LONG_NUMBER     # at..to is the text, checked
    # the fields of an object, by slot
    ctypedef struct Slots:
        unsigned char *type
        const char **at
        const char **to
        double *number
    # look of a value
    ctypedef struct Look:
        pass
    Look NO_LOOK
    void value_learn(Look *look, const char *p, const char *after, const char *end, bint near) noexcept
    # one key of the table: first the keys that a parser reads, then other keys seen in frames
    ctypedef struct Key:
        Key *next           # the key that followed last time, which is expected again; or NULL
        Py_ssize_t size     # bytes of `text`
        long slot           # -1 = not read
        Look look           # look of its last value
        char *text          # `"key":`
        char *mask          # ones for each byte of `text`
    # whether the key, which may be NULL, is at p
    bint key_follows(const char *p, const char *frame, const char *end, const Key *key) noexcept
    # read fields as long as they are the expected ones; return the place behind the last value, p when none was read
    const char *fields_expected(
        const char *p, const char *frame, const char *end, Key **last, Slots *slots,
    ) noexcept

cdef extern from "unit.h" nogil:
    enum:
        LEVEL_PAD       # bytes that a template may read
    const char *unit_default(const char *p, double *values) noexcept
    const char *unit_simple(const char *p, double *values) noexcept
    const char *level_quoted(const char *p, double *price, double *size) noexcept

cdef extern from "levels.h" nogil:
    ctypedef struct Side:
        double *prices
        double *sizes
        long n
        long room
        double least     # smallest size of a level
    double TINY          # smallest number that counts as above 0
    # read levels as long as they have the usual form; return the place behind the last one, p when none was read
    const char *pairs_falling(const char *p, const char *end, Side *side) noexcept
    const char *pairs_rising(const char *p, const char *end, Side *side) noexcept
    const char *units_default(const char *p, const char *end, Side *asks, Side *bids) noexcept
    const char *units_simple(const char *p, const char *end, Side *asks, Side *bids) noexcept

# the place of a level's key among its numbers, -1 for another key
ctypedef int (*LevelField)(const char *key, Py_ssize_t size) noexcept


cdef class Parser:
    cdef:
        readonly Py_ssize_t capacity       # levels per side
        readonly int kind
        const char *symbol
        Py_ssize_t symbol_size             # 0 = the frame has no symbol
        readonly int64_t exchange_ns       # 0 = none sent
        readonly bint snapshot             # of a book: it is whole; of a trade: stream type SNAPSHOT
        readonly int64_t first_update_id   # 0 = none sent
        readonly int64_t final_update_id   # 0 = none sent
        # owned: levels, best first; size[i] belongs to price[i]; room for twice the capacity, for sorting
        double *bid_price
        double *bid_size
        double *ask_price
        double *ask_size
        readonly Py_ssize_t n_bids
        readonly Py_ssize_t n_asks
        double *scratch                    # for sort_levels, one side
        int unsorted                       # sides whose levels came out of order: bit 1 bids, bit 0 asks
        int cut                            # sides with more levels than the capacity, same bits
        readonly int flawed                # sides that lack a level, since it cannot be read; same bits
        readonly double price
        readonly double size
        readonly bint sell                 # the taker sold
        readonly int64_t trade_id
        double ticker[11]                  # NaN = none sent
        readonly double day_volume         # ticker: volume since the exchange's midnight, NaN = none sent
        readonly bint suspended            # ticker: the exchange has suspended trading
        readonly int delisting             # ticker: day on which trading ends, 20261224; 0 = none sent
        readonly int window
        readonly int control
        const char *detail
        Py_ssize_t detail_size
        # counters since construction
        readonly int64_t malformed
        readonly int64_t levels_dropped    # levels beyond the capacity, at the far end
        readonly int64_t template_misses   # levels read on the path for any form

        # the present frame
        int opcode                         # set before `begin` where it is known
        const char *frame
        const char *end
        const char *cursor                 # next element of a list
        const char *list_end               # behind the list's bracket; NULL = no open list
        const char *message_at             # the present object
        const char *message_to
        bint started
        Slots slots
        uint64_t nulls                     # bit for each slot whose value was null
        uint64_t level_slots               # bit for each slot whose array `levels` reads
        int depth                          # open containers around the present fields
        int fault
        int fault_slot
        const char *fault_at
        # keys by name
        Key keys[KEYS]                     # 0 to 2: beginnings of objects at each depth
        int n_keys
        unsigned char buckets[BUCKETS]     # index into keys, 0 = none
        uint64_t key_factor
        tuple slot_names
        # copied text: resolved escapes, capitals; as large as two frames, so that it never moves
        char *room
        Py_ssize_t room_size
        Py_ssize_t room_used
        bint has_ids                       # the exchange's books have update ids
        bytes held                         # a frame from Python, kept until the next one
        Py_buffer view                     # the same for a frame that is not `bytes`
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
    cdef const char *level_object(self, const char *p, LevelField field_of, double *values, int all) noexcept
    cdef Py_ssize_t settle(self, bint falling) noexcept
    cdef const char *escaped_number(self, const char *p, double *out) noexcept
    cdef int fail(self, int fault, int slot, const char *at) noexcept
    cdef int as_number(self, int slot, double *out) noexcept
    cdef int ticker_numbers(self, const int *slots, const int *fields, int n, int needed) noexcept
    cdef int as_integer(self, int slot, int64_t *out) noexcept
    cdef int as_time(self, int slot, int64_t *out) noexcept
    cdef int as_instant(self, int slot, int64_t *out) noexcept
    cdef int needs(self, int state, int slot) noexcept
    cdef int control_message(self, int control) noexcept
    cdef int ignore(self, int slot) noexcept
    cdef char *take_room(self, Py_ssize_t size) noexcept
    # for subclasses to override: a frame with one object; the fields; an array of levels; the market of a symbol
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


# sort best first, equal prices in order of arrival, and drop levels beyond `capacity`. Returns: levels left
cdef Py_ssize_t sort_levels(
    double *prices, double *sizes, Py_ssize_t n, Py_ssize_t capacity, bint falling, double *scratch,
) noexcept


cdef inline bint is_text(Parser parser, int slot, const char *text, Py_ssize_t size) noexcept:
    """Return whether a slot has this string; `size` is a constant, so that comparing needs no call."""
    return (
        parser.slots.type[slot] == STRING and parser.slots.to[slot] - parser.slots.at[slot] == size
        and memcmp(parser.slots.at[slot], text, <size_t>size) == 0
    )


cdef inline const char *padded(const char *p, const char *end, char *copy) noexcept:
    """Return p when LEVEL_PAD bytes follow, else `copy` (2 * LEVEL_PAD bytes) with the end of the frame."""
    if end - p >= LEVEL_PAD:
        return p
    memset(copy, 0, 2 * LEVEL_PAD)
    memcpy(copy, p, <size_t>(end - p))
    return copy


cdef inline int open_side(Parser parser, bint falling) noexcept:
    """Empty one side before its levels are read."""
    if falling:
        parser.n_bids = 0
    else:
        parser.n_asks = 0
    parser.unsorted &= ~(1 << falling)
    parser.cut &= ~(1 << falling)
    return 0


cdef inline int add_level(Parser parser, bint falling, double price, double size) noexcept:
    """Add a level to a side; levels out of order are sorted by `settle` at the end of the side."""
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
    """Read a number with or without quotes. Returns: its end, NULL for another text."""
    cdef const char *end = parser.end
    cdef const char *after
    if p >= end or p[0] != c'"':
        return number_read(p, end, out)
    after = number_read(p + 1, end, out)
    if after is not NULL and after < end and after[0] == c'"':
        return after + 1
    return parser.escaped_number(p, out)
