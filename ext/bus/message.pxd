"""The layout of a bus message, which has two parts: the topic, and the header with the payload.

All numbers are little-endian. Times are int64 ns since 1970, 0 = none. Prices are in the quote currency,
sizes in the base currency.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef enum:
    VERSION = 1
    HEADER_SIZE = 64
    TICKER_FIELDS = 11

cdef enum:
    KIND_ORDERBOOK = 1
    KIND_TICKER = 2
    KIND_TRADE = 3
    KIND_STATE = 4
    KIND_AGGREGATE = 5
    KIND_INDEX = 6
    KIND_HEARTBEAT = 7
    KIND_RATE = 8
    KIND_FACT = 9
    KIND_LAST = 9

cdef enum:
    FLAG_SNAPSHOT = 1     # a trade's stream type is SNAPSHOT
    FLAG_REPEAT = 2       # the book is identical to the one before: it shows that data arrives and is not stored
    FLAG_SELL = 4         # the taker sold
    FLAG_WINDOW_24H = 8   # bits 3-4: the window of a ticker's open, high, low and change; 0 = none
    FLAG_WINDOW_UTC_DAY = 16
    FLAG_WINDOW_KST_DAY = 24
    FLAG_WINDOW = 24
    FLAG_REST = 32        # fetched by REST, not received on the websocket
    FLAG_GROUPED = 64     # levels far from the best prices are price groups
    FLAG_TOUCH = 128      # the best prices are newer than the levels behind them

cdef enum:
    # bits 8-15 of a book's flags: number of repeats directly before it, which are not stored themselves
    REPEATS_SHIFT = 8
    REPEATS_LIMIT = 255   # 255 or more

cdef packed struct Header:
    uint8_t version
    uint8_t kind
    uint16_t flags
    uint32_t n_bids        # levels; 0 for kinds without books
    uint32_t n_asks
    uint32_t payload_size  # bytes
    int64_t epoch          # publisher's start, ns
    int64_t sequence       # from 1, per epoch and topic
    int64_t exchange_ns
    int64_t received_ns
    int64_t published_ns
    int64_t id             # book: exchange's update id; trade: trade id; 0 = none


# payload bytes that the header's kind and levels require; `size` for kinds without a fixed size
cdef inline Py_ssize_t expected_size(const Header *header, Py_ssize_t size) noexcept nogil:
    if header.kind == KIND_ORDERBOOK:
        return 16 * (<Py_ssize_t>header.n_bids + <Py_ssize_t>header.n_asks)
    if header.kind == KIND_TICKER:
        return 8 * TICKER_FIELDS
    if header.kind == KIND_TRADE:
        return 16
    return size


# whether a header is valid and agrees with the size of its payload
cdef inline bint fits(const Header *header, Py_ssize_t size) noexcept nogil:
    return (
        header.version == VERSION and 1 <= header.kind <= KIND_LAST
        and size == <Py_ssize_t>header.payload_size and size == expected_size(header, size)
    )


cdef class Message:
    cdef:
        readonly bytes topic
        Header header
        const char *data     # the payload, header.payload_size bytes; owned by `owner`, may be unaligned
        object owner         # exports the payload's buffer
        object _floats       # float64 view on the payload, made at first use

    cdef object floats(self)
    # checks header and size, then does the same as `hold`; raises MessageError
    cdef int fill(
        self, bytes topic, const Header *header, object owner, const char *data, Py_ssize_t size,
    ) except -1
    # keeps a reference to the owner; the caller has checked header and size
    cdef int hold(self, bytes topic, const Header *header, object owner, const char *data) noexcept
