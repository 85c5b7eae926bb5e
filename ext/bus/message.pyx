"""Bus messages: encode the header, and read payloads as numpy views on the received memory."""

cimport cython

import numpy as np
import orjson

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.string cimport memcpy

from coinspace.errors import MessageError

ORDERBOOK = KIND_ORDERBOOK
TICKER = KIND_TICKER
TRADE = KIND_TRADE
STATE = KIND_STATE
AGGREGATE = KIND_AGGREGATE
INDEX = KIND_INDEX
HEARTBEAT = KIND_HEARTBEAT
RATE = KIND_RATE
FACT = KIND_FACT
SNAPSHOT = FLAG_SNAPSHOT
REPEAT = FLAG_REPEAT
SELL = FLAG_SELL
REST = FLAG_REST
GROUPED = FLAG_GROUPED
TOUCH = FLAG_TOUCH
REPEATS_BITS = REPEATS_SHIFT
REPEATS_MOST = REPEATS_LIMIT
KIND_NAMES = (
    "", "orderbook", "ticker", "trade", "state", "aggregate", "index", "heartbeat", "rate", "fact",
)
WINDOWS = (None, "24h", "utc_day", "kst_day")
TICKER_NAMES = (
    "last", "open", "high", "low", "volume", "quote_volume", "change",
    "bid", "bid_size", "ask", "ask_size",
)


def encode_header(
    int kind, *, int flags=0, Py_ssize_t n_bids=0, Py_ssize_t n_asks=0, Py_ssize_t payload_size=0,
    int64_t epoch=0, int64_t sequence=0, int64_t exchange_ns=0, int64_t received_ns=0,
    int64_t published_ns=0, int64_t id=0,
):
    """Return the 64 header bytes. Raises: MessageError for an unknown kind."""
    if not 1 <= kind <= KIND_LAST:
        raise MessageError(f"message kind: expected 1 to {KIND_LAST}, was {kind}")
    cdef Header header
    header.version = VERSION
    header.kind = <uint8_t>kind
    header.flags = <uint16_t>flags
    header.n_bids = <uint32_t>n_bids
    header.n_asks = <uint32_t>n_asks
    header.payload_size = <uint32_t>payload_size
    header.epoch = epoch
    header.sequence = sequence
    header.exchange_ns = exchange_ns
    header.received_ns = received_ns
    header.published_ns = published_ns
    header.id = id
    return PyBytes_FromStringAndSize(<const char*>&header, HEADER_SIZE)


cdef str _misfit(const Header *header, Py_ssize_t size):
    if header.version != VERSION:
        return f"message version: expected {VERSION}, was {header.version}; run the same release on both sides"
    if not 1 <= header.kind <= KIND_LAST:
        return f"message kind: expected 1 to {KIND_LAST}, was {header.kind}"
    if size != header.payload_size:
        return f"payload size: expected {header.payload_size} bytes, was {size}"
    return f"payload size: expected {expected_size(header, size)} bytes for its kind, was {size}"


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Message:
    """One received message.

    Borrowed: `payload`, `bids`, `asks` and `values` are views on the received part and keep it alive.
    """

    @staticmethod
    def decode(bytes topic not None, header, payload):
        """Make a message from its parts without copying the payload.

        Raises: MessageError for an unknown version or kind, or sizes that do not agree.
        """
        cdef Message self = Message.__new__(Message)
        cdef Header copy
        cdef Py_buffer view
        PyObject_GetBuffer(header, &view, PyBUF_SIMPLE)
        try:
            if view.len != HEADER_SIZE:
                raise MessageError(f"header size: expected {HEADER_SIZE} bytes, was {view.len}, {topic!r}")
            memcpy(&copy, view.buf, HEADER_SIZE)
        finally:
            PyBuffer_Release(&view)
        owner = memoryview(payload).toreadonly().cast("B")
        cdef Py_buffer *held = PyMemoryView_GET_BUFFER(owner)
        self.fill(topic, &copy, owner, <const char*>held.buf, held.len)
        return self

    cdef int fill(
        self, bytes topic, const Header *header, object owner, const char *data, Py_ssize_t size,
    ) except -1:
        if not fits(header, size):
            raise MessageError(f"{_misfit(header, size)}, {topic!r}")
        return self.hold(topic, header, owner, data)

    cdef int hold(self, bytes topic, const Header *header, object owner, const char *data) noexcept:
        self.topic = topic
        self.header = header[0]
        self.owner = owner
        self.data = data
        return 0

    @property
    def payload(self):
        """Read-only memoryview on the payload bytes. Borrowed."""
        return memoryview(self.owner)

    cdef object floats(self):
        if self._floats is None:
            self._floats = np.frombuffer(self.owner, dtype=np.float64)
        return self._floats

    @property
    def version(self):
        return self.header.version

    @property
    def kind(self):
        return self.header.kind

    @property
    def kind_name(self):
        return KIND_NAMES[self.header.kind]

    @property
    def flags(self):
        return self.header.flags

    @property
    def n_bids(self):
        return self.header.n_bids

    @property
    def n_asks(self):
        return self.header.n_asks

    @property
    def epoch(self):
        return self.header.epoch

    @property
    def sequence(self):
        return self.header.sequence

    @property
    def exchange_ns(self):
        return self.header.exchange_ns

    @property
    def received_ns(self):
        return self.header.received_ns

    @property
    def published_ns(self):
        return self.header.published_ns

    @property
    def id(self):
        return self.header.id

    @property
    def exchange(self):
        """Second word of the topic, "" when there is none."""
        parts = self.topic.split(b".")
        return parts[1].decode() if len(parts) > 2 else ""

    @property
    def market(self):
        """Third word of the topic, such as "BTC/KRW"; "" when there is none."""
        parts = self.topic.split(b".")
        return parts[2].decode() if len(parts) > 3 else ""

    @property
    def window(self):
        """Window of a ticker's open, high, low and change: "24h", "utc_day", "kst_day" or None."""
        return WINDOWS[(self.header.flags & FLAG_WINDOW) >> 3]

    @property
    def side(self):
        """The taker's side of a trade: "buy" or "sell"."""
        return "sell" if self.header.flags & FLAG_SELL else "buy"

    @property
    def bids(self):
        """float64[2, n_bids]: row 0 prices, row 1 sizes, best first. Borrowed."""
        cdef Py_ssize_t n = self.header.n_bids
        return self.floats()[:2 * n].reshape(2, n)

    @property
    def asks(self):
        """float64[2, n_asks]: row 0 prices, row 1 sizes, best first. Borrowed."""
        cdef Py_ssize_t n = self.header.n_bids
        cdef Py_ssize_t m = self.header.n_asks
        return self.floats()[2 * n:2 * (n + m)].reshape(2, m)

    @property
    def values(self):
        """float64[n]: a ticker's 11 values (TICKER_NAMES), or a trade's price and size. Borrowed."""
        return self.floats()

    def json(self):
        """Return the decoded JSON payload of a state, index or heartbeat message."""
        return orjson.loads(memoryview(self.owner))

    def header_bytes(self):
        """Return a copy of the header bytes as received."""
        return PyBytes_FromStringAndSize(<const char*>&self.header, HEADER_SIZE)

    def __repr__(self):
        return (
            f"<Message {self.topic.decode()} {self.kind_name} epoch={self.epoch} sequence={self.sequence}"
            f" bids={self.n_bids} asks={self.n_asks}>"
        )
