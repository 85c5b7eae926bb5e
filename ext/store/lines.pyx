"""Lines of QuestDB's text protocol: encodes bus messages without a Python object per value."""

cimport cython

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.math cimport isnan
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from coinspace._ext.latency cimport Latency
from coinspace._ext.message cimport (
    FLAG_AGGREGATE, FLAG_GROUPED, KIND_ORDERBOOK, KIND_TICKER, KIND_TRADE, Message,
    TICKER_FIELDS, fine_levels,
)

from coinspace._ext.message import TICKER_NAMES
from coinspace.errors import MessageError

# bytes of all columns except arrays: names, signs and at most 20 digits each
cdef enum:
    FIXED_BYTES = 768

# names separated by NUL; a null value has no column in the line, since the protocol has no null
cdef bytes NAMES = b"".join(name.encode() + b"\0" for name in TICKER_NAMES)


cdef inline char *put(char *p, const char *text, Py_ssize_t n) noexcept nogil:
    memcpy(p, text, <size_t>n)
    return p + n


cdef inline char *put_digits(char *p, int64_t value) noexcept nogil:
    cdef char digits[20]
    cdef int n = 20
    cdef uint64_t rest
    if value < 0:
        p[0] = c"-"
        p += 1
        rest = <uint64_t>0 - <uint64_t>value
    else:
        rest = <uint64_t>value
    while True:
        n -= 1
        digits[n] = <char>(c"0" + <int>(rest % 10))
        rest = rest // 10
        if rest == 0:
            break
    memcpy(p, digits + n, <size_t>(20 - n))
    return p + (20 - n)


cdef inline char *put_integer(char *p, const char *name, Py_ssize_t n, int64_t value, char kind) noexcept nogil:
    p = put(p, name, n)
    p = put_digits(p, value)
    p[0] = kind
    p[1] = c","
    return p + 2


cdef inline char *put_double(char *p, const char *name, Py_ssize_t n, const char *value) noexcept nogil:
    p = put(p, name, n)
    p = put(p, b"==\x10", 3)
    p = put(p, value, 8)
    p[0] = c","
    return p + 1


cdef inline char *put_side(
    char *p, const char *name, const char *side, Py_ssize_t n, Py_ssize_t depth,
) noexcept nogil:
    cdef uint32_t rows = 2
    cdef uint32_t columns = <uint32_t>min(n, depth)
    p = put(p, name, 4)
    p = put(p, b"==\x0e\x0a\x02", 5)
    p = put(p, <const char *>&rows, 4)
    p = put(p, <const char *>&columns, 4)
    p = put(p, side, 8 * <Py_ssize_t>columns)
    p = put(p, side + 8 * n, 8 * <Py_ssize_t>columns)
    p[0] = c","
    return p + 1


# replaces the last comma with the space before the time
cdef inline char *put_end(char *p, int64_t at_ns) noexcept nogil:
    (p - 1)[0] = c" "
    p = put_digits(p, at_ns)
    p[0] = c"n"
    p[1] = c"\n"
    return p + 2


cdef inline char *put_identity(char *p, Message message) noexcept:
    p = put_integer(p, b"flags=", 6, message.header.flags, c"i")
    p = put_integer(p, b"epoch=", 6, message.header.epoch, c"i")
    p = put_integer(p, b"seq=", 4, message.header.sequence, c"i")
    if message.header.published_ns > 0:
        p = put_integer(p, b"published_ts=", 13, message.header.published_ns, c"n")
    return p


# a message without a receive time (REST answer, state) has its publishing time
cdef inline int64_t received_ns(Message message) noexcept:
    return message.header.received_ns or message.header.published_ns


@cython.final
cdef class Lines:
    """A growing buffer of lines with room for `size` bytes at first."""

    def __cinit__(self, Py_ssize_t size=1 << 16):
        self.room(size)

    def __dealloc__(self):
        PyMem_Free(self._data)
        PyMem_Free(self._published)

    def __len__(self):
        return self.size

    # Borrowed: valid until the next call of a method that writes
    cdef char *room(self, Py_ssize_t n) except NULL:
        cdef Py_ssize_t wanted = self.size + n
        cdef char *data
        if wanted > self._capacity:
            wanted = max(wanted, 2 * self._capacity)
            data = <char *>PyMem_Realloc(self._data, <size_t>wanted)
            if data == NULL:
                raise MemoryError(f"lines: cannot grow to {wanted} bytes")
            self._data = data
            self._capacity = wanted
        return self._data + self.size

    # begins a row with room for `more` bytes beside its fixed columns
    cdef char *begin(self, bytes head, Message message, int kind, Py_ssize_t more) except NULL:
        cdef Py_ssize_t n = PyBytes_GET_SIZE(head)
        if message.header.kind != kind:
            raise MessageError(f"message kind: expected {kind}, was {message.header.kind}")
        return put(self.room(n + FIXED_BYTES + more), PyBytes_AS_STRING(head), n)

    # ends a row with the message's identity and its time. Returns: the new size
    cdef Py_ssize_t end(self, char *p, Message message, int64_t at_ns) except -1:
        cdef Py_ssize_t wanted
        cdef int64_t *published
        if self._n_published == self._n_capacity:
            wanted = 2 * self._n_capacity + 64
            published = <int64_t *>PyMem_Realloc(self._published, <size_t>wanted * sizeof(int64_t))
            if published == NULL:
                raise MemoryError(f"lines: cannot grow to {wanted} messages")
            self._published = published
            self._n_capacity = wanted
        self._published[self._n_published] = message.header.published_ns
        self._n_published += 1
        p = put_end(put_identity(p, message), at_ns)
        self.size = p - self._data
        return self.size

    cpdef Py_ssize_t orderbook(self, bytes head, Message message, Py_ssize_t depth) except -1:
        """Append a row of `orderbook` with at most `depth` levels a side, without price groups.

        Returns: the new size.
        """
        cdef Py_ssize_t n = message.header.n_bids
        cdef Py_ssize_t m = message.header.n_asks
        cdef Py_ssize_t fine_bids = fine_levels(&message.header, True)
        cdef Py_ssize_t fine_asks = fine_levels(&message.header, False)
        depth = max(depth, 0)
        cdef char *p = self.begin(head, message, KIND_ORDERBOOK, 16 * (min(n, depth) + min(m, depth)))
        cdef const char *bids = message.data
        cdef const char *asks = message.data + 16 * n
        if n:
            p = put_double(p, b"bid", 3, bids)
            p = put_double(p, b"bid_size", 8, bids + 8 * n)
        if m:
            p = put_double(p, b"ask", 3, asks)
            p = put_double(p, b"ask_size", 8, asks + 8 * m)
        p = put_side(p, b"bids", bids, n, min(depth, fine_bids))
        p = put_side(p, b"asks", asks, m, min(depth, fine_asks))
        p = put_integer(p, b"n_bids=", 7, fine_bids, c"i")
        p = put_integer(p, b"n_asks=", 7, fine_asks, c"i")
        if message.header.id and not message.header.flags & FLAG_GROUPED:
            p = put_integer(p, b"update_id=", 10, message.header.id, c"i")
        if message.header.exchange_ns > 0:
            p = put_integer(p, b"exchange_ts=", 12, message.header.exchange_ns, c"n")
        return self.end(p, message, received_ns(message))

    cpdef Py_ssize_t ticker(self, bytes head, Message message) except -1:
        """Append a row of `ticker`; NaN values are left out. Returns: the new size."""
        cdef char *p = self.begin(head, message, KIND_TICKER, 0)
        cdef const char *name = PyBytes_AS_STRING(NAMES)
        cdef Py_ssize_t n
        cdef double value
        cdef int i
        for i in range(TICKER_FIELDS):
            n = 0
            while name[n]:
                n += 1
            memcpy(&value, message.data + 8 * i, 8)
            if not isnan(value):
                p = put_double(p, name, n, message.data + 8 * i)
            name += n + 1
        if message.header.exchange_ns > 0:
            p = put_integer(p, b"exchange_ts=", 12, message.header.exchange_ns, c"n")
        return self.end(p, message, received_ns(message))

    cpdef Py_ssize_t trade(self, bytes head, Message message) except -1:
        """Append a row of `trade` at its trade time. Returns: the new size."""
        cdef char *p = self.begin(head, message, KIND_TRADE, 0)
        p = put_double(p, b"price", 5, message.data)
        p = put_double(p, b"size", 4, message.data + 8)
        p = put_integer(p, b"trade_id=", 9, message.header.id, c"i")
        if message.header.flags & FLAG_AGGREGATE:
            p = put_integer(p, b"n_trades=", 9, message.header.n_bids, c"i")
        if message.header.received_ns > 0:
            p = put_integer(p, b"received_ts=", 12, message.header.received_ns, c"n")
        return self.end(p, message, message.header.exchange_ns or received_ns(message))

    def extend(self, bytes lines not None):
        """Append encoded lines. Returns: the new size."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(lines)
        put(self.room(n), PyBytes_AS_STRING(lines), n)
        self.size += n
        return self.size

    def tobytes(self):
        """Return a copy of all lines."""
        return PyBytes_FromStringAndSize(self._data, self.size)

    def stored(self, Latency latency not None, int64_t now_ns):
        """Count the time from the publication of each message until now."""
        cdef Py_ssize_t i
        for i in range(self._n_published):
            latency.add(now_ns - self._published[i])

    def clear(self):
        """Drop all lines; the memory is kept."""
        self.size = 0
        self._n_published = 0
