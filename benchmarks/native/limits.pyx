"""What only benchmarks need in C: a collector that reads nothing, and loops without Python around them."""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.stdint cimport uintptr_t

from coinspace._ext.collector cimport Collector
from coinspace._ext.parser cimport Parser
from coinspace._ext.parser cimport END
from coinspace._ext.sink cimport Sink
from coinspace._ext.zeromq cimport DONTWAIT
from coinspace._ext.zeromq cimport SNDMORE
from coinspace._ext.zeromq cimport zmq


cdef class IdleCollector(Collector):
    """Counts frames: what receiving costs when nothing is done with them."""

    def __init__(self):
        Collector.__init__(self, Parser(), Sink(1), [])

    cdef int feed(self, const char *frame, Py_ssize_t size, int64_t received_ns, int connection) except -1:
        self.frames += 1
        return 0


def parse_all(Parser parser not None, list frames not None):
    """Parse every frame in a C loop. Returns: messages."""
    cdef bytes frame
    cdef Py_ssize_t messages = 0
    for frame in frames:
        parser.begin(PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
        while parser.next() != END:
            messages += 1
    return messages


def send_parts(uintptr_t socket, bytes topic not None, bytes header not None, bytes payload not None, Py_ssize_t n):
    """Send n messages of three parts by libzmq's plain zmq_send; wait while the queue is full."""
    cdef void *handle = <void *>socket
    cdef Py_ssize_t i
    cdef const char *t = PyBytes_AS_STRING(topic)
    cdef const char *h = PyBytes_AS_STRING(header)
    cdef const char *p = PyBytes_AS_STRING(payload)
    cdef size_t ts = PyBytes_GET_SIZE(topic)
    cdef size_t hs = PyBytes_GET_SIZE(header)
    cdef size_t ps = PyBytes_GET_SIZE(payload)
    for i in range(n):
        if zmq.send(handle, t, ts, SNDMORE) < 0 or zmq.send(handle, h, hs, SNDMORE) < 0 or zmq.send(handle, p, ps, 0) < 0:
            return i
    return n
