"""Look up libzmq's functions by name in the shared library that pyzmq's backend is linked to."""

import ctypes

import zmq.backend.cython._zmq as backend

from libc.stdint cimport uintptr_t

# dlsym on the backend's handle also searches the libzmq that the backend is linked with
_library = ctypes.CDLL(backend.__file__)


cdef uintptr_t address(name) except 0:
    return ctypes.cast(getattr(_library, "zmq_" + name), ctypes.c_void_p).value


zmq.send = <int (*)(void *, const void *, size_t, int) noexcept nogil>address("send")
zmq.setsockopt = <int (*)(void *, int, const void *, size_t) noexcept nogil>address("setsockopt")
zmq.msg_init = <int (*)(msg_t *) noexcept nogil>address("msg_init")
zmq.msg_init_size = <int (*)(msg_t *, size_t) noexcept nogil>address("msg_init_size")
zmq.msg_recv = <int (*)(msg_t *, void *, int) noexcept nogil>address("msg_recv")
zmq.msg_send = <int (*)(msg_t *, void *, int) noexcept nogil>address("msg_send")
zmq.msg_close = <int (*)(msg_t *) noexcept nogil>address("msg_close")
zmq.msg_more = <int (*)(const msg_t *) noexcept nogil>address("msg_more")
zmq.msg_data = <void *(*)(msg_t *) noexcept nogil>address("msg_data")
zmq.msg_size = <size_t (*)(const msg_t *) noexcept nogil>address("msg_size")
zmq.last_error = <int (*)() noexcept nogil>address("errno")
zmq.strerror = <const char *(*)(int) noexcept nogil>address("strerror")
