"""libzmq's C functions, from the library that pyzmq has loaded: no second copy, no headers."""

cdef enum:
    DONTWAIT = 1
    SNDMORE = 2
    XPUB_NODROP = 69

# zmq_msg_t of zmq.h: 64 bytes, aligned as pointers; part of libzmq's stable binary interface
ctypedef union msg_t:
    unsigned char content[64]
    void *alignment

cdef struct Library:
    int (*send)(void *socket, const void *data, size_t size, int flags) noexcept nogil
    int (*setsockopt)(void *socket, int option, const void *value, size_t size) noexcept nogil
    int (*msg_init)(msg_t *message) noexcept nogil
    int (*msg_init_size)(msg_t *message, size_t size) noexcept nogil
    int (*msg_recv)(msg_t *message, void *socket, int flags) noexcept nogil
    int (*msg_send)(msg_t *message, void *socket, int flags) noexcept nogil
    int (*msg_close)(msg_t *message) noexcept nogil
    int (*msg_more)(const msg_t *message) noexcept nogil
    void *(*msg_data)(msg_t *message) noexcept nogil
    size_t (*msg_size)(const msg_t *message) noexcept nogil
    int (*last_error)() noexcept nogil
    const char *(*strerror)(int number) noexcept nogil

cdef Library zmq
