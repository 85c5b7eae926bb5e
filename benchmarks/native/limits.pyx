"""What only benchmarks need in C: a collector that reads nothing, and loops without Python around them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memset

from coinspace._ext.collector cimport Collector
from coinspace._ext.message cimport Header, KIND_ORDERBOOK, Message
from coinspace._ext.orderbook cimport OrderBook
from coinspace._ext.parser cimport Parser, END
from coinspace._ext.receiver cimport Receiver
from coinspace._ext.sink cimport Sink, Topic
from coinspace._ext.zeromq cimport SNDMORE, zmq


cdef class IdleCollector(Collector):
    """Counts frames: what receiving costs when nothing is done with them."""

    def __init__(self):
        Collector.__init__(self, Parser(), Sink(1), [])

    cdef int feed(
        self, const char *frame, Py_ssize_t size, int64_t received_ns, int64_t now_ns, int connection,
    ) except -1:
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


def send_parts(uintptr_t socket, bytes topic not None, bytes body not None, Py_ssize_t n):
    """Send n messages of two parts by libzmq's plain zmq_send; wait while the queue is full."""
    cdef void *handle = <void *>socket
    cdef Py_ssize_t i
    cdef const char *t = PyBytes_AS_STRING(topic)
    cdef const char *b = PyBytes_AS_STRING(body)
    cdef size_t ts = PyBytes_GET_SIZE(topic)
    cdef size_t bs = PyBytes_GET_SIZE(body)
    for i in range(n):
        if zmq.send(handle, t, ts, SNDMORE) < 0 or zmq.send(handle, b, bs, 0) < 0:
            return i
    return n


def publish_all(Sink sink not None, Topic topic not None, bytes payload not None, int n_bids, int n_asks, Py_ssize_t n):
    """Publish n order books from C, as the collectors do."""
    cdef Header header
    cdef Py_ssize_t i
    memset(&header, 0, sizeof(Header))
    header.kind = KIND_ORDERBOOK
    header.n_bids = n_bids
    header.n_asks = n_asks
    for i in range(n):
        sink.send(topic, &header, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))


cdef class CountingReceiver(Receiver):
    """A stage that takes its messages in Cython."""
    cdef readonly int64_t taken

    cdef int handle(self, Message message) except -1:
        self.taken += 1
        return 0


def apply_all(OrderBook book not None, const double[:, :, ::1] bids not None, const double[:, :, ::1] asks not None):
    """Apply many updates in a C loop: float64[updates, 2, n] per side."""
    cdef Py_ssize_t k
    for k in range(bids.shape[0]):
        book.apply_levels(
            &bids[k, 0, 0], &bids[k, 1, 0], bids.shape[2], &asks[k, 0, 0], &asks[k, 1, 0], asks.shape[2],
        )


def counting_receiver(uintptr_t socket):
    """Return a CountingReceiver of all order books of a SUB socket."""
    return CountingReceiver(
        socket, [b"orderbook."], None, on_loss=print, on_malformed=print, on_error=print
    )
