"""The drain loop of a SUB socket: takes messages from libzmq without a copy and checks sequences."""

from libc.stdint cimport int64_t

from coinspace._ext.message cimport Header, Message
from coinspace._ext.zeromq cimport msg_t


cdef class Part:
    """A received header and payload: owns libzmq's message and exports the payload read-only."""
    cdef msg_t message


cdef class Channel:
    """The received sequences of one topic of one epoch."""
    cdef:
        bytes topic
        int64_t epoch
        int64_t first               # sequence of the first message seen or known lost
        int64_t last                # newest sequence seen or known lost, -1 = none yet
        int kind                    # message kind of the topic's first word; 0 = no such kind
        bint wanted                 # the user subscribed to the topic; not only a heartbeat of the receiver
        bint late                   # subscribed while its publisher was known: earlier messages are not lost
        Channel next                # the same topic of another publisher


cdef class Receiver:
    cdef:
        void *_handle               # of the SUB socket; NULL once closed
        msg_t _topic                # topic part of the current message; the next receive frees it
        bint _conflate
        tuple _wanted               # prefixes
        set _wanted_topics
        object _on_message
        object _on_loss             # called with (topic, epoch, expected, found)
        object _on_malformed        # called with (reason,)
        object _on_error            # called with (exception,)
        object _on_drained          # called without arguments, or None
        dict _channels              # topic -> Channel
        void *_recent[1024]         # Channel by hash of the topic's bytes; borrowed from _channels
        dict _processes             # process -> epoch, from the heartbeats
        dict _newest                # topic -> Message of this drain, when conflating
        readonly int64_t received
        readonly int64_t received_bytes
        readonly int64_t conflated
        readonly int64_t malformed
        readonly int64_t repeated   # messages with a sequence seen before, which are not delivered
        readonly int64_t gaps       # gaps found
        readonly int64_t missed     # messages in those gaps
        readonly int64_t errors     # exceptions of the user's callbacks

    # calls back; counts and reports an error of the callback
    cdef int call(self, callback, tuple arguments) except -1
    cdef int receive(self) except -1
    cdef bint receive_part(self, msg_t *part) noexcept
    cdef int take(self, Part part) except -1
    cdef bytes topic_copy(self)
    cdef int refuse_parts(self, Part part) except -1
    cdef Channel channel(self, const char *data, Py_ssize_t size)
    cdef Channel topic_channel(self, bytes topic)
    cdef bint is_wanted(self, bytes topic) except -1
    cdef Channel epoch_of(self, Channel channel, int64_t epoch)
    cdef int heartbeat(self, Message message) except -1
    cdef int forget(self, int64_t epoch) except -1
    cdef int check(self, Channel channel, const Header *header) except -1
    cdef int refuse_misfit(
        self, Message message, bytes topic, const Header *header, Part part, Py_ssize_t size,
    ) except -1
    cdef int take_heartbeat(self, Message message, bytes topic) except -1
    cdef int hole(self, Channel channel, int64_t expected, int64_t found) except -1
    cdef int refuse(self, object reason) except -1
    # delivers one message; a stage may override it to take messages without a Python call
    cdef int handle(self, Message message) except -1
