"""The live sink: three parts per message onto a PUB socket, straight through libzmq."""

from libc.stdint cimport int64_t

from coinspace._ext.journal cimport JournalWriter
from coinspace._ext.message cimport Header
from coinspace._ext.sink cimport Sink
from coinspace._ext.sink cimport Topic


cdef class ZmqSink(Sink):
    cdef:
        void *_handle              # the PUB socket's; NULL once closed
        JournalWriter _journal     # None = nothing is written down
        readonly int64_t dropped   # messages that found a subscriber's queue full

    cdef int send_first(self, Topic topic) except -1
    cdef int send_rest(self, Header *header, const void *payload, size_t size) except -1
    cdef int refuse_when_full(self, int refuse) except -1
    cdef int fail(self, str doing) except -1
