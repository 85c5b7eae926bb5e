"""The WebSocket listener: frames go from picows's read buffer straight into a collector."""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from picows.picows cimport WSFrame
from picows.picows cimport WSListener
from picows.picows cimport WSMsgType
from picows.picows cimport WSTransport
from posix.time cimport CLOCK_MONOTONIC
from posix.time cimport CLOCK_REALTIME
from posix.time cimport clockid_t
from posix.time cimport clock_gettime
from posix.time cimport timespec

from coinspace._ext.collector cimport Collector


cdef inline int64_t read_clock(clockid_t clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef class FrameListener(WSListener):
    """Feeds one connection's frames to a collector.

    `owner` gets the rare events: `on_open(transport)`, `on_close(code, reason)`, `on_failure(error, frame)`.
    `recorder`: None, or called with (received_ns, frame bytes) for every frame.
    """
    cdef:
        readonly Collector collector
        readonly int connection
        readonly int64_t frames
        readonly int64_t bytes_received
        readonly int64_t failures        # exceptions while a frame was read
        # by the steady clock: receipt of the last data frame, 0 = none yet; of anything, pings and pongs included
        readonly int64_t received_ns
        readonly int64_t heard_ns
        public object recorder
        object _owner
        bytes _parts                     # of a message in several frames, None = whole frames

    def __init__(self, Collector collector not None, int connection, owner, recorder=None):
        self.collector = collector
        self.connection = connection
        self.recorder = recorder
        self._owner = owner

    cpdef on_ws_connected(self, WSTransport transport):
        self.heard_ns = read_clock(CLOCK_MONOTONIC)
        self._owner.on_open(transport)

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        cdef WSMsgType kind = frame.msg_type
        self.heard_ns = read_clock(CLOCK_MONOTONIC)
        if kind == WSMsgType.TEXT or kind == WSMsgType.BINARY:
            if frame.fin:
                self.take(frame.payload_ptr, frame.payload_size)
            else:
                self._parts = PyBytes_FromStringAndSize(frame.payload_ptr, frame.payload_size)
        elif kind == WSMsgType.CONTINUATION and self._parts is not None:
            self._parts += PyBytes_FromStringAndSize(frame.payload_ptr, frame.payload_size)
            if frame.fin:
                whole = self._parts
                self._parts = None
                self.take(PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
            elif PyBytes_GET_SIZE(self._parts) > 16 << 20:
                self._parts = None
                transport.disconnect(False)
        elif kind == WSMsgType.CLOSE:
            self._owner.on_close(int(frame.get_close_code()), frame.get_close_reason() or "")
            transport.disconnect()

    cdef int take(self, const char *frame, Py_ssize_t size) except -1:
        cdef int64_t wall_ns = read_clock(CLOCK_REALTIME)
        self.frames += 1
        self.bytes_received += size
        self.received_ns = self.heard_ns
        if self.recorder is not None:
            self.recorder(wall_ns, PyBytes_FromStringAndSize(frame, size))
        try:
            self.collector.feed(frame, size, wall_ns, self.heard_ns, self.connection)
        except Exception as error:
            # one frame must never end a connection
            self.failures += 1
            self._owner.on_failure(error, PyBytes_FromStringAndSize(frame, size))
        return 0

    cpdef on_ws_disconnected(self, WSTransport transport):
        self._owner.on_lost()
