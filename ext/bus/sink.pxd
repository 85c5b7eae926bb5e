"""Where stages send their messages: a Sink numbers, stamps and delivers them.

`ListSink` keeps the messages (replays, tests). `coinspace._ext.publisher.ZmqSink` publishes them on the bus.
"""

from libc.stdint cimport int64_t, uint32_t

from coinspace._ext.latency cimport Latency
from coinspace._ext.message cimport Header


cdef class Topic:
    """One topic of one sink. `Sink.topic` returns the same object for the same name."""
    cdef:
        readonly bytes name          # "orderbook.upbit.BTC/KRW.", with its closing dot
        readonly int64_t sequence    # of the last message, 0 = none yet
        readonly int kind            # the message kind, from the first word of the name
        const char *data             # the name's bytes, owned by `name`
        size_t size
        uint32_t number             # position in the sink's list of topics, from 0
        int repeats                 # repeated books since the last different one


cdef class Sink:
    cdef:
        readonly int64_t epoch       # ns, the publisher's start
        public bint quiet            # messages are neither numbered nor delivered
        readonly int64_t published   # messages numbered and delivered
        readonly Latency transit     # from the exchange's time of a live message to its receipt
        readonly Latency publishing  # from receipt to publication
        dict _topics
        object _clock                # callable -> ns; None = the wall clock

    cdef Topic make_topic(self, bytes name)
    # Fills version, epoch, sequence, published_ns and payload_size of the header, then delivers the message.
    # The payload is copied before this returns. Returns: 0 = done; dropped messages are counted
    cdef int send(self, Topic topic, Header *header, const void *payload, size_t size) except -1
    # delivers a message whose header is complete; subclasses implement it
    cdef int deliver(self, Topic topic, Header *header, const void *payload, size_t size) except -1


cdef class ListSink(Sink):
    cdef:
        readonly list messages       # of Message, oldest first
