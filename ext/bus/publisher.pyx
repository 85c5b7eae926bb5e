"""Publish without blocking: a subscriber with a full queue misses the message, the others get it."""

from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

from coinspace._ext.journal cimport JournalWriter
from coinspace._ext.message cimport HEADER_SIZE, Header, KIND_HEARTBEAT
from coinspace._ext.sink cimport Sink, Topic
from coinspace._ext.zeromq cimport DONTWAIT, SNDMORE, XPUB_NODROP, msg_t, zmq

from coinspace.errors import BusError


cdef class ZmqSink(Sink):
    """A sink over the C handle of a bound PUB socket. The owner keeps the socket open until `detach`.

    When a subscriber's queue is full, the socket refuses the message (XPUB_NODROP), and the loss is counted
    here. The refusal concerns all subscribers; so the message is sent again without XPUB_NODROP, and only
    subscribers with full queues miss it. libzmq then skips such a subscriber silently until it has read
    half of its queue. So `dropped` counts the known losses; the subscriber's `missed` counter is exact.

    With a journal every message except heartbeats is journalled before it is sent.
    """

    def __init__(self, epoch_ns, uintptr_t handle, *, JournalWriter journal=None, clock=None):
        Sink.__init__(self, epoch_ns, clock=clock)
        self._journal = journal
        self._handle = <void *>handle
        self.refuse_when_full(1)

    def take_over(self, epoch_ns, JournalWriter journal=None):
        """Number messages from 1 under a new epoch. The sink has been quiet so far."""
        self.epoch = epoch_ns
        self._journal = journal

    def detach(self):
        """Stop using the socket; call before closing it. Sending afterwards raises BusError."""
        self._handle = NULL

    cdef int deliver(self, Topic topic, Header *header, const void *payload, size_t size) except -1:
        cdef msg_t body
        if self._handle == NULL:
            raise BusError(f"publisher: expected an open socket, was closed, {topic.name!r}")
        if self._journal is not None and header.kind != KIND_HEARTBEAT:
            self._journal.append(topic, header, payload, size)
        # allocate the body before sending the topic: a failure must not leave a message without its second part
        if zmq.msg_init_size(&body, HEADER_SIZE + size) < 0:
            self.fail("make a message")
        memcpy(zmq.msg_data(&body), header, HEADER_SIZE)
        memcpy(<char *>zmq.msg_data(&body) + HEADER_SIZE, payload, size)
        if zmq.send(self._handle, topic.data, topic.size, DONTWAIT | SNDMORE) < 0:
            self.send_again(topic, &body)
        return self.send_body(&body)

    # the only step that may fail before libzmq owns the body
    cdef int send_again(self, Topic topic, msg_t *body) except -1:
        try:
            return self.send_topic(topic)
        except BusError:
            zmq.msg_close(body)
            raise

    cdef int send_topic(self, Topic topic) except -1:
        if zmq.last_error() != EAGAIN:
            return self.insist(topic)
        self.dropped += 1
        self.refuse_when_full(0)
        try:
            return self.insist(topic)
        finally:
            self.refuse_when_full(1)

    cdef int insist(self, Topic topic) except -1:
        while zmq.send(self._handle, topic.data, topic.size, DONTWAIT | SNDMORE) < 0:
            if zmq.last_error() != EINTR:
                self.fail("send")
        return 0

    # libzmq accepts the second part without checking the queues again
    cdef int send_body(self, msg_t *body) except -1:
        while zmq.msg_send(body, self._handle, DONTWAIT) < 0:
            if zmq.last_error() != EINTR:
                number = zmq.last_error()
                zmq.msg_close(body)
                self.fail_with("send header and payload", number)
        return 0

    cdef int refuse_when_full(self, int refuse) except -1:
        if zmq.setsockopt(self._handle, XPUB_NODROP, &refuse, sizeof(refuse)) < 0:
            self.fail("set XPUB_NODROP")
        return 0

    cdef int fail(self, str doing) except -1:
        return self.fail_with(doing, zmq.last_error())

    cdef int fail_with(self, str doing, int number) except -1:
        raise BusError(f"publisher: cannot {doing}: {zmq.strerror(number).decode()} ({number})")
