"""The live sink: sends each message as two parts on a PUB socket, directly through libzmq."""

from libc.stdint cimport int64_t

from coinspace._ext.journal cimport JournalWriter
from coinspace._ext.sink cimport Sink, Topic
from coinspace._ext.zeromq cimport msg_t


cdef class ZmqSink(Sink):
    cdef:
        void *_handle              # of the PUB socket; NULL once closed
        JournalWriter _journal     # None = no journal
        readonly int64_t dropped   # messages that found a subscriber's queue full

    # these two functions close the body when they fail
    cdef int send_body(self, msg_t *body) except -1
    cdef int send_again(self, Topic topic, msg_t *body) except -1
    # sends the topic again after a full queue or a signal refused it
    cdef int send_topic(self, Topic topic) except -1
    cdef int insist(self, Topic topic) except -1
    cdef int refuse_when_full(self, int refuse) except -1
    cdef int fail(self, str doing) except -1
    cdef int fail_with(self, str doing, int number) except -1
