"""Publish without ever blocking: a full subscriber misses the message, the others get it."""

from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

from coinspace._ext.journal cimport JournalWriter
from coinspace._ext.message cimport HEADER_SIZE, Header, KIND_HEARTBEAT
from coinspace._ext.sink cimport Sink, Topic
from coinspace._ext.zeromq cimport DONTWAIT, SNDMORE, XPUB_NODROP, msg_t, zmq

from coinspace.errors import BusError


cdef class ZmqSink(Sink):
    """A sink over the C handle of a bound PUB socket, which its owner keeps open until `detach`.

    The socket refuses a message for which a subscriber's queue is full (XPUB_NODROP), so the loss is
    seen and counted here. It refuses it for all subscribers at once; the message is therefore sent
    again with the refusal switched off, and only the full ones miss it. From then until such a
    subscriber has read half of its queue libzmq leaves it out without a word: `dropped` counts the
    messages known to be lost, the subscriber's own `missed` counter has the exact number.

    With a journal every message but the heartbeats is written down before it is sent.
    """

    def __init__(self, epoch_ns, uintptr_t handle, *, JournalWriter journal=None, clock=None):
        Sink.__init__(self, epoch_ns, clock=clock)
        self._journal = journal
        self._handle = <void *>handle
        self.refuse_when_full(1)

    def detach(self):
        """Stop using the socket: call before it is closed. Sending afterwards raises BusError."""
        self._handle = NULL

    cdef int deliver(self, Topic topic, Header *header, const void *payload, size_t size) except -1:
        cdef msg_t body
        if self._handle == NULL:
            raise BusError(f"publisher: expected an open socket, was closed, {topic.name!r}")
        if self._journal is not None and header.kind != KIND_HEARTBEAT:
            self._journal.append(topic, header, payload, size)
        # made before anything is sent, so that no message ends after its topic
        if zmq.msg_init_size(&body, HEADER_SIZE + size) < 0:
            self.fail("make a message")
        memcpy(zmq.msg_data(&body), header, HEADER_SIZE)
        memcpy(<char *>zmq.msg_data(&body) + HEADER_SIZE, payload, size)
        if zmq.send(self._handle, topic.data, topic.size, DONTWAIT | SNDMORE) < 0:
            self.send_again(topic, &body)
        return self.send_body(&body)

    # the only way on which a call may fail before libzmq has the body
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

    # after an accepted first part libzmq takes the second without looking at the queues again
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
