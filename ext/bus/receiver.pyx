"""Receive: drain a SUB socket, make Message objects on libzmq's memory, find missing messages.

Losses are found by (epoch, topic). The next message reveals a gap. The publisher's heartbeat has the last
sequence of each topic and reveals a lost tail. Messages sent before the first message or heartbeat of an
epoch are not counted as lost: the subscriber had not subscribed yet.
"""

cimport cython

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memset

from coinspace._ext.checksum cimport word64
from coinspace._ext.message cimport HEADER_SIZE, Header, KIND_AGGREGATE, KIND_HEARTBEAT, KIND_ORDERBOOK, Message, fits
from coinspace._ext.zeromq cimport DONTWAIT, msg_t, zmq

from coinspace._ext.sink import KINDS, TOPIC_LIMIT
from coinspace.errors import BusError, MessageError

# kept at most: a publisher of garbage must not fill the memory
CHANNEL_LIMIT = 65_536
# dots of a whole topic of a market
TOPIC_DOTS = 3
PROCESS_LIMIT = 1024
# epochs of one topic: one per publisher, and some more for restarts without a heartbeat between them
EPOCH_LIMIT = 16
# bytes: room for 15,000 topics, which take about 20 ms to read
HEARTBEAT_LIMIT = 1 << 20

cdef enum:
    SEQUENCE_BITS = 53  # a larger sequence comes from a damaged or hostile message


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Part:
    def __cinit__(self):
        zmq.msg_init(&self.message)

    def __dealloc__(self):
        zmq.msg_close(&self.message)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(
            view, self, <char *>zmq.msg_data(&self.message) + HEADER_SIZE,
            <Py_ssize_t>zmq.msg_size(&self.message) - HEADER_SIZE, 1, flags,
        )


@cython.final
cdef class Channel:
    def __cinit__(self):
        self.last = -1


# a function of its own: Cython saves the exception state of each function with a `try`
cdef bint is_text(bytes topic) except -1:
    try:
        topic.decode()
    except UnicodeDecodeError:
        return False
    return True


cdef class Receiver:
    """Drains a connected SUB socket by its C handle. The owner keeps the socket open until `detach`.

    Args:
        wanted: prefixes of the topics to deliver; messages of other topics are only counted.
        on_message: called with each Message, in order of receipt.
        on_loss: called with (topic, epoch, expected, found): [expected, found) did not arrive.
        on_malformed: called with the reason (str).
        on_error: called with an exception of one of the other callbacks.
        conflate: deliver only the newest order book or aggregate per topic of one drain.
        on_drained: called after each drain that took messages, so that they can be handled together.
    """

    def __cinit__(self):
        zmq.msg_init(&self._topic)

    def __dealloc__(self):
        zmq.msg_close(&self._topic)

    def __init__(
        self, uintptr_t handle, wanted, on_message, *, on_loss, on_malformed, on_error,
        bint conflate=False, on_drained=None,
    ):
        self._handle = <void *>handle
        # hundreds of whole topics are compared at once, the few prefixes one by one
        self._wanted_topics = {one for one in wanted if one.count(b".") >= TOPIC_DOTS}
        self._wanted = tuple(one for one in wanted if one not in self._wanted_topics)
        self._on_message = on_message
        self._on_loss = on_loss
        self._on_malformed = on_malformed
        self._on_error = on_error
        self._conflate = conflate
        self._on_drained = on_drained
        self._channels = {}
        self._processes = {}
        self._newest = {}

    @property
    def n_processes(self):
        """Number of processes whose heartbeats were received."""
        return len(self._processes)

    def want(self, bytes topic):
        """Deliver a topic of one market from now on; subscribe the socket to it as well."""
        cdef Channel channel = self.topic_channel(topic)
        if channel is not None and not channel.wanted:
            self._wanted_topics.add(topic)
            channel.wanted = True
            channel.late = True

    def detach(self):
        """Stop using the socket; call before closing it."""
        self._handle = NULL

    def drain(self, Py_ssize_t limit):
        """Deliver at most `limit` waiting messages.

        Returns: whether the limit was reached; more messages may be waiting.
        """
        cdef Py_ssize_t n = 0
        while n < limit and self._handle != NULL and self.receive():
            n += 1
        if self._conflate and self._newest:
            newest = self._newest
            self._newest = {}
            for message in newest.values():
                self.handle(<Message>message)
        if n and self._on_drained is not None:
            self.call(self._on_drained, ())
        return n >= limit

    cdef int call(self, callback, tuple arguments) except -1:
        try:
            callback(*arguments)
        except Exception as error:
            self.errors += 1
            self._on_error(error)
        return 0

    # Returns: 1 = one message taken or refused, 0 = no message waits
    cdef int receive(self) except -1:
        cdef Part part
        while zmq.msg_recv(&self._topic, self._handle, DONTWAIT) < 0:
            if zmq.last_error() == EAGAIN:
                return 0
            if zmq.last_error() != EINTR:
                number = zmq.last_error()
                raise BusError(f"subscriber: cannot receive: {zmq.strerror(number).decode()} ({number})")
        self.received += 1
        part = Part.__new__(Part)
        # the parts of a message arrive together: reading the second part never waits
        if (
            zmq.msg_more(&self._topic) and self.receive_part(&part.message)
            and not zmq.msg_more(&part.message)
        ):
            self.take(part)
        else:
            self.refuse_parts(part)
        return 1

    # a signal may interrupt libzmq between two parts
    cdef bint receive_part(self, msg_t *part) noexcept:
        while zmq.msg_recv(part, self._handle, DONTWAIT) < 0:
            if zmq.last_error() != EINTR:
                return False
        return True

    # reads to the message's last part, so that the next receive begins with a first part
    cdef int refuse_parts(self, Part part) except -1:
        cdef int n_parts = 1 + zmq.msg_more(&self._topic)
        while zmq.msg_more(&part.message) and self.receive_part(&part.message):
            n_parts += 1
        return self.refuse(f"message parts: expected 2, was {n_parts}, {self.topic_copy()!r}")

    cdef bytes topic_copy(self):
        return PyBytes_FromStringAndSize(
            <char *>zmq.msg_data(&self._topic),
            min(<Py_ssize_t>zmq.msg_size(&self._topic), <Py_ssize_t>TOPIC_LIMIT),
        )

    cdef int take(self, Part part) except -1:
        cdef const Header *header = <const Header *>zmq.msg_data(&part.message)
        cdef Channel channel
        cdef Message message
        cdef Py_ssize_t size = <Py_ssize_t>zmq.msg_size(&part.message) - HEADER_SIZE
        if size < 0:
            return self.refuse(
                f"header size: expected {HEADER_SIZE} bytes, was {size + HEADER_SIZE},"
                f" {self.topic_copy()!r}"
            )
        self.received_bytes += size
        channel = self.channel(
            <const char *>zmq.msg_data(&self._topic), <Py_ssize_t>zmq.msg_size(&self._topic)
        )
        if channel is None:
            return 0
        message = Message.__new__(Message)
        if fits(header, size):
            message.hold(channel.topic, header, part, <const char *>header + HEADER_SIZE)
        else:
            return self.refuse_misfit(message, channel.topic, header, part, size)
        if header.kind != channel.kind:
            return self.refuse(
                f"message kind: expected {channel.kind} for {channel.topic!r}, was {header.kind}"
            )
        if header.epoch <= 0 or header.sequence <= 0:
            return self.refuse(
                f"epoch and sequence: expected both above 0, was {header.epoch} and {header.sequence},"
                f" {channel.topic!r}"
            )
        if header.sequence >> SEQUENCE_BITS:
            return self.refuse(
                f"sequence: expected {SEQUENCE_BITS} bits, was {header.sequence}, {channel.topic!r}"
            )
        if channel.epoch != header.epoch:
            channel = self.epoch_of(channel, header.epoch)
        if header.sequence != channel.last + 1 and not self.check(channel, header):
            return 0
        channel.last = header.sequence
        if header.kind == KIND_HEARTBEAT and not self.take_heartbeat(message, channel.topic):
            return 0
        if not channel.wanted:
            return 0
        if self._conflate and (header.kind == KIND_ORDERBOOK or header.kind == KIND_AGGREGATE):
            if self._newest.pop(channel.topic, None) is not None:
                self.conflated += 1
            self._newest[channel.topic] = message
            return 0
        return self.handle(message)

    # a function of its own: Cython saves the exception state of each function with a `try`
    cdef int refuse_misfit(
        self, Message message, bytes topic, const Header *header, Part part, Py_ssize_t size,
    ) except -1:
        try:
            message.fill(topic, header, part, <const char *>header + HEADER_SIZE, size)
        except MessageError as error:
            return self.refuse(str(error))
        return 0

    # Returns: 0 = refused
    cdef int take_heartbeat(self, Message message, bytes topic) except -1:
        try:
            self.heartbeat(message)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            self.refuse(f"heartbeat: expected process and sequences, {error!r:.500}, {topic!r}")
            return 0
        return 1

    # Returns: the channel of the topic's newest epoch, None for an invalid topic
    cdef Channel channel(self, const char *data, Py_ssize_t size):
        cdef uint64_t hash = <uint64_t>size
        cdef uint32_t slot
        cdef Py_ssize_t i
        cdef Channel channel
        # the first 8 bytes distinguish the kinds, the last 16 the markets; a collision only costs a look-up
        if size >= 16:
            hash = (hash ^ word64(<const unsigned char *>data)) * 0x9E3779B97F4A7C15ULL
            hash = (hash ^ word64(<const unsigned char *>data + size - 16)) * 0x9E3779B97F4A7C15ULL
            hash = (hash ^ word64(<const unsigned char *>data + size - 8)) * 0x9E3779B97F4A7C15ULL
        else:
            for i in range(size):
                hash = (hash ^ <unsigned char>data[i]) * 0x9E3779B97F4A7C15ULL
        slot = <uint32_t>(hash >> 54)
        if self._recent[slot] != NULL:
            channel = <Channel>self._recent[slot]
            if PyBytes_GET_SIZE(channel.topic) == size and not memcmp(
                PyBytes_AS_STRING(channel.topic), data, <size_t>size
            ):
                return channel
        if size > TOPIC_LIMIT:
            self.refuse(f"topic: expected at most {TOPIC_LIMIT} bytes, was {size}")
            return None
        channel = self.topic_channel(PyBytes_FromStringAndSize(data, size))
        if channel is None:
            return None
        self._recent[slot] = <void *>channel
        return channel

    cdef Channel topic_channel(self, bytes topic):
        cdef Channel channel = self._channels.get(topic)
        if channel is None:
            kind = KINDS.get(topic.split(b".", 1)[0], 0)
            if not kind or not topic.endswith(b"."):
                self.refuse(f"topic: expected KIND.EXCHANGE.MARKET. with its closing dot, was {topic!r}")
                return None
            if not is_text(topic):
                # the callbacks decode the topic's words
                self.refuse(f"topic: expected UTF-8, was {topic!r}")
                return None
            if len(self._channels) >= CHANNEL_LIMIT:
                self.refuse(f"topics: expected at most {CHANNEL_LIMIT}, was one more, {topic!r}")
                return None
            channel = Channel.__new__(Channel)
            channel.topic = topic
            channel.kind = kind
            channel.wanted = self.is_wanted(topic)
            self._channels[topic] = channel
        return channel

    cdef bint is_wanted(self, bytes topic) except -1:
        return topic in self._wanted_topics or topic.startswith(self._wanted)

    # a topic's chain has one link per publisher: two for `state.`, one for other kinds
    cdef Channel epoch_of(self, Channel channel, int64_t epoch):
        cdef Channel link = channel
        cdef Channel last_but_one = None
        cdef int n = 0
        while link is not None:
            if link.epoch == epoch:
                return link
            if not link.epoch:
                link.epoch = epoch
                return link
            n += 1
            if link.next is not None and link.next.next is None:
                last_but_one = link
            link = link.next
        if n >= EPOCH_LIMIT:
            # drop the oldest link, except the head, to which others refer
            last_but_one.next = None
        link = Channel.__new__(Channel)
        link.topic = channel.topic
        link.kind = channel.kind
        link.wanted = channel.wanted
        link.epoch = epoch
        link.next = channel.next
        channel.next = link
        return link

    # Returns: 0 = seen before, not delivered
    cdef int check(self, Channel channel, const Header *header) except -1:
        if channel.last < 0:
            channel.first = header.sequence
            # earlier heartbeats of this epoch did not list the topic: all its messages were for this receiver
            if channel.late or header.sequence == 1 or header.epoch not in self._processes.values():
                return 1
            channel.first = 1
            channel.last = 0
        if header.sequence <= channel.last:
            self.repeated += 1
            return 0
        if header.kind != KIND_HEARTBEAT:
            self.hole(channel, channel.last + 1, header.sequence)
        return 1

    cdef int heartbeat(self, Message message) except -1:
        cdef Channel channel
        cdef int64_t epoch = message.header.epoch
        cdef int64_t last
        if message.header.payload_size > HEARTBEAT_LIMIT:
            raise ValueError(f"expected at most {HEARTBEAT_LIMIT} bytes, was {message.header.payload_size}")
        facts = message.json()
        process = facts["process"]
        if not isinstance(process, str) or len(process) > TOPIC_LIMIT:
            raise ValueError(f"expected a process name of at most {TOPIC_LIMIT} characters")
        before = self._processes.get(process)
        if before is None and len(self._processes) >= PROCESS_LIMIT:
            raise ValueError(f"expected at most {PROCESS_LIMIT} processes")
        sequences = {name.encode(): int(number) for name, number in facts["sequences"].items()}
        for number in sequences.values():
            # Python's integers: a shifted C constant of 32 bits would be 0
            if number < 0 or number >> <object>SEQUENCE_BITS:
                raise ValueError(f"expected sequences of {SEQUENCE_BITS} bits, was {number}")
        if before is not None and before != epoch:
            self.forget(before)
        for topic, number in sequences.items():
            if not self.is_wanted(topic) or topic.startswith(b"heartbeat."):
                continue
            channel = self.topic_channel(topic)
            if channel is None:
                continue
            channel = self.epoch_of(channel, epoch)
            last = number
            if (before is None or channel.late) and channel.last < 0:
                # subscribed late: earlier messages are not counted as lost
                channel.first = last + 1
                channel.last = last
                continue
            if channel.last < 0:
                channel.first = 1
                channel.last = 0
            elif before is not None and before != epoch and channel.first > 1:
                # the process restarted after this receiver subscribed: its first messages count too
                self.hole(channel, 1, channel.first)
                channel.first = 1
            if channel.last < last:
                expected = channel.last + 1
                channel.last = last
                self.hole(channel, expected, last + 1)
        self._processes[process] = epoch
        return 0

    # drop the channels of an epoch that has ended
    cdef int forget(self, int64_t epoch) except -1:
        cdef Channel link
        cdef Channel kept
        # it borrows from the channels that go now
        memset(self._recent, 0, sizeof(self._recent))
        for topic in list(self._channels):
            link = self._channels.pop(topic)
            kept = None
            while link is not None:
                following = link.next
                if link.epoch != epoch:
                    link.next = kept
                    kept = link
                link = following
            if kept is not None:
                self._channels[topic] = kept
        return 0

    cdef int hole(self, Channel channel, int64_t expected, int64_t found) except -1:
        self.gaps += 1
        if self.missed >> SEQUENCE_BITS == 0:
            # only a hostile publisher reaches this bound: the counter then stops
            self.missed += found - expected
        return self.call(self._on_loss, (channel.topic, channel.epoch, expected, found))

    cdef int refuse(self, object reason) except -1:
        self.malformed += 1
        return self.call(self._on_malformed, (reason,))

    cdef int handle(self, Message message) except -1:
        try:
            self._on_message(message)
        except Exception as error:
            self.errors += 1
            self._on_error(error)
        return 0
