"""Sinks number, stamp and deliver messages: one interface for the live bus, replays and tests."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from coinspace._ext.latency cimport Latency
from coinspace._ext.message cimport (
    FLAG_REPEAT, FLAG_REST, FLAG_SNAPSHOT, HEADER_SIZE, Header, KIND_ORDERBOOK, KIND_STATE, Message, REPEATS_LIMIT,
    REPEATS_SHIFT, VERSION, expected_size,
)

from coinspace._ext.message import KIND_NAMES
from coinspace.errors import MessageError

# bytes; libzmq sends topics of up to 33 bytes without an allocation
TOPIC_LIMIT = 255
KINDS = {name.encode(): kind for kind, name in enumerate(KIND_NAMES) if name}


cdef class Topic:
    def __init__(self, bytes name not None, int number=0):
        self.kind = KINDS.get(name.split(b".", 1)[0], 0)
        if not self.kind or not name.endswith(b".") or len(name) > TOPIC_LIMIT:
            raise MessageError(
                f"topic: expected KIND.EXCHANGE.MARKET. with its closing dot, at most {TOPIC_LIMIT} bytes"
                f" and a kind of {', '.join(KIND_NAMES[1:])}, was {name!r}"
            )
        self.name = name
        self.data = PyBytes_AS_STRING(name)
        self.size = <size_t>len(name)
        self.number = <uint32_t>number

    def __repr__(self):
        return f"<Topic {self.name.decode()} sequence={self.sequence}>"


cdef class Sink:
    """Base class of all sinks. `clock` returns published_ns; the default is the wall clock."""

    def __cinit__(self, *given, **named):
        self.transit = Latency()
        self.publishing = Latency()

    def __init__(self, epoch_ns, *, clock=None):
        if epoch_ns <= 0:
            raise MessageError(f"epoch: expected ns since 1970, was {epoch_ns}")
        self.epoch = epoch_ns
        self._clock = clock
        self._topics = {}

    cdef Topic make_topic(self, bytes name):
        found = self._topics.get(name)
        if found is None:
            found = self._topics[name] = Topic(name, len(self._topics))
        return <Topic>found

    def topic(self, bytes name not None):
        """Return the topic's handle; each call returns the same one.

        Raises: MessageError when the name is not KIND.….… with a closing dot.
        """
        return self.make_topic(name)

    @property
    def sequences(self):
        """Last sequence of every topic with messages, by name."""
        return {topic.name: topic.sequence for topic in self._topics.values() if topic.sequence}

    def publish(
        self, Topic topic not None, int kind, payload, *, int flags=0, n_bids=0, n_asks=0,
        int64_t exchange_ns=0, int64_t received_ns=0, int64_t id=0,
    ):
        """Send one message; the payload is copied from any C-contiguous buffer.

        Returns: the message's sequence.
        Raises: MessageError when kind, topic and size do not agree.
        """
        cdef Header header
        cdef Py_buffer view
        if kind != topic.kind:
            raise MessageError(f"message kind: expected {topic.kind} for {topic.name!r}, was {kind}")
        memset(&header, 0, HEADER_SIZE)
        header.kind = <uint8_t>kind
        header.flags = <uint16_t>flags
        header.n_bids = n_bids
        header.n_asks = n_asks
        header.exchange_ns = exchange_ns
        header.received_ns = received_ns
        header.id = id
        PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
        try:
            expected = expected_size(&header, view.len)
            if view.len != expected:
                raise MessageError(
                    f"payload size: expected {expected} bytes for its kind, was {view.len}, {topic.name!r}"
                )
            self.send(topic, &header, view.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)
        return topic.sequence

    cdef int send(self, Topic topic, Header *header, const void *payload, size_t size) except -1:
        if self.quiet:
            return 0
        topic.sequence += 1
        if header.kind == KIND_ORDERBOOK:
            if header.flags & FLAG_REPEAT:
                topic.repeats = min(topic.repeats + 1, REPEATS_LIMIT)
            elif topic.repeats:
                header.flags |= <uint16_t>(topic.repeats << REPEATS_SHIFT)
                topic.repeats = 0
        header.version = VERSION
        header.epoch = self.epoch
        header.sequence = topic.sequence
        header.payload_size = <uint32_t>size
        header.published_ns = wall_ns() if self._clock is None else self._clock()
        self.published += 1
        # what REST fetched is as old as the outage before; a repeated book has the time of its last change
        if header.received_ns and header.kind != KIND_STATE and not header.flags & (FLAG_REST | FLAG_SNAPSHOT):
            self.publishing.add(header.published_ns - header.received_ns)
            if header.exchange_ns and not header.flags & FLAG_REPEAT:
                self.transit.add(header.received_ns - header.exchange_ns)
        return self.deliver(topic, header, payload, size)

    cdef int deliver(self, Topic topic, Header *header, const void *payload, size_t size) except -1:
        raise NotImplementedError(f"{type(self).__name__}.deliver")


cdef class ListSink(Sink):
    """Keeps every message. Without a clock published_ns = received_ns: replays are bit-identical."""

    def __init__(self, epoch_ns=1, *, clock=None):
        Sink.__init__(self, epoch_ns, clock=clock)
        self.messages = []

    def clear(self):
        """Drop the messages; sequences continue."""
        self.messages.clear()

    cdef int deliver(self, Topic topic, Header *header, const void *payload, size_t size) except -1:
        if self._clock is None:
            header.published_ns = header.received_ns
        self.messages.append(Message.decode(
            topic.name,
            PyBytes_FromStringAndSize(<const char*>header, HEADER_SIZE),
            PyBytes_FromStringAndSize(<const char*>payload, <Py_ssize_t>size),
        ))
        return 0


cdef int64_t wall_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec
