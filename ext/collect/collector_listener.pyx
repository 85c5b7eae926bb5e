"""The WebSocket listener: frames go from picows's read buffer straight into a collector."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from picows import WSProtocolError
from picows.picows cimport WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, clockid_t, timespec

from coinspace._ext.collector cimport Collector
from coinspace._ext.parser cimport BINARY_FRAME, TEXT_FRAME

# largest message in bytes, in one frame or in several: market data is far smaller
MAX_MESSAGE = 16 << 20
cdef Py_ssize_t _max_message = MAX_MESSAGE
# Frames with less content than any market data, and control frames: picows hands over a whole read of
# 1 MiB at once, and half a million empty frames would hold the loop for a second.
SMALL_BYTES = 32
SMALL_PER_SECOND = 1000
cdef Py_ssize_t _small_bytes = SMALL_BYTES
cdef int _small_per_second = SMALL_PER_SECOND


cdef inline int64_t read_clock(clockid_t clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef class FrameListener(WSListener):
    """Feeds one connection's frames to a collector.

    `owner` gets the rare events:
        on_open(transport),
        on_close(code, reason): the peer sent a close frame,
        on_lost(error): the connection has ended; error: the broken rule of the protocol, or None,
        on_failure(error, frame): an internal error.
    `recorder`: None, or called with (received_ns, frame bytes) for every frame.
    `ping`: text that is sent to keep the connection alive, empty = a ping of the protocol.

    Any frame of the peer counts as an answer to a ping.
    """
    cdef:
        Collector collector
        int connection
        readonly int64_t frames          # data messages
        readonly bint stuck              # the connection was ended because the peer does not read
        public object recorder
        bytes _ping
        object _owner
        WSTransport _transport           # None = not connected
        bint _is_broken                  # the peer broke the protocol: its frames are not read any more
        bytearray _parts                 # parts of a message in several frames, None = no such message
        int _opcode                      # of the present message: TEXT_FRAME or BINARY_FRAME
        int64_t _second_ns               # begin of the second whose small frames are counted
        int _small

    def __init__(self, Collector collector not None, int connection, owner, recorder=None, bytes ping=b""):
        self.collector = collector
        self.connection = connection
        self.recorder = recorder
        self._owner = owner
        self._ping = ping

    cpdef on_ws_connected(self, WSTransport transport):
        self._transport = transport
        # has the protocol error; asyncio would log a traceback if its exception were never read
        transport.disconnected_future.add_done_callback(self._on_ended)
        self._owner.on_open(transport)

    def _on_ended(self, future):
        self._transport = None
        self._owner.on_lost(future.exception())

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        cdef WSMsgType kind = frame.msg_type
        if self._is_broken:
            return
        transport.auto_ping_expect_pong = False
        if frame.payload_size < _small_bytes or kind == WSMsgType.PING or kind == WSMsgType.PONG:
            self.count_small()
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.refuse(WSCloseCode.PROTOCOL_ERROR, "reserved bits are set, expected no extension")
        if kind == WSMsgType.TEXT or kind == WSMsgType.BINARY:
            if self._parts is not None:
                self.refuse(WSCloseCode.PROTOCOL_ERROR, "a message began before the last one ended")
            self._opcode = BINARY_FRAME if kind == WSMsgType.BINARY else TEXT_FRAME
            if frame.fin:
                self.take(frame.payload_ptr, frame.payload_size)
            else:
                self._parts = bytearray()
                self.join(frame)
        elif kind == WSMsgType.CONTINUATION:
            if self._parts is None:
                self.refuse(WSCloseCode.PROTOCOL_ERROR, "a continuation of no message")
            self.join(frame)
        elif kind == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind == WSMsgType.CLOSE:
            self.close(transport, frame)

    cdef int refuse(self, WSCloseCode code, str reason) except -1:
        # picows sends the close code and disconnects
        self._is_broken = True
        raise WSProtocolError(code, reason)

    cdef int count_small(self) except -1:
        cdef int64_t now_ns = read_clock(CLOCK_MONOTONIC)
        if now_ns - self._second_ns >= 1_000_000_000:
            self._second_ns = now_ns
            self._small = 0
        self._small += 1
        if self._small > _small_per_second:
            self.refuse(
                WSCloseCode.POLICY_VIOLATION,
                f"more than {_small_per_second} small or control frames within a second",
            )
        return 0

    cdef int join(self, WSFrame frame) except -1:
        # a bytearray grows in steps, so many small parts cost no more than a few large ones
        if PyByteArray_GET_SIZE(self._parts) + frame.payload_size > _max_message:
            self.refuse(WSCloseCode.MESSAGE_TOO_BIG, f"a message in parts is larger than {_max_message}")
        self._parts += PyBytes_FromStringAndSize(frame.payload_ptr, frame.payload_size)
        if frame.fin:
            whole = self._parts
            self._parts = None
            self.take(PyByteArray_AS_STRING(whole), PyByteArray_GET_SIZE(whole))
        return 0

    cdef int close(self, WSTransport transport, WSFrame frame) except -1:
        cdef int code = <int>frame.get_close_code()
        self._owner.on_close(code, frame.get_close_reason() or "")
        # answer with the same code, or with 1000 when the frame has none
        transport.send_close(<WSCloseCode>(code or 1000))
        transport.disconnect()
        return 0

    cdef int take(self, const char *frame, Py_ssize_t size) except -1:
        cdef int64_t received_ns = read_clock(CLOCK_REALTIME)
        cdef int64_t now_ns = read_clock(CLOCK_MONOTONIC)
        self.frames += 1
        # an error in a frame or in the recorder must not end the connection
        if self.recorder is not None:
            whole = PyBytes_FromStringAndSize(frame, size)
            try:
                self.recorder(received_ns, whole)
            except Exception as error:
                self._owner.on_failure(error, whole)
        self.collector.parser.opcode = self._opcode
        try:
            self.collector.feed(frame, size, received_ns, now_ns, self.connection)
        except Exception as error:
            self._owner.on_failure(error, PyBytes_FromStringAndSize(frame, size))
        return 0

    cpdef send_user_specific_ping(self, WSTransport transport):
        # any frame counts as an answer, so the answer to a text needs no rule of its own
        if self._ping:
            transport.send(WSMsgType.TEXT, self._ping)
        else:
            transport.send_ping()

    cpdef pause_writing(self):
        # CoinSpace sends very little: the peer does not read, and answers to its pings would fill the memory
        self.stuck = True
        self._transport.disconnect(False)

    cpdef resume_writing(self):
        pass
