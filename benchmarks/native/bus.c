/* The limit of the bus: libzmq's own rate, called from C alone, through the addresses it is given. */

#include <errno.h>
#include <stddef.h>

typedef int (*send_fn)(void *socket, const void *data, size_t size, int flags);
typedef int (*receive_fn)(void *message, void *socket, int flags);
typedef int (*message_fn)(void *message);

enum { SNDMORE = 2 };

/* zmq_msg_t: 64 bytes, aligned as pointers */
typedef union {
    unsigned char content[64];
    void *alignment;
} message;

/* Returns: messages sent; a full queue is waited for. */
long send_messages(
    send_fn send, void *socket, const void *const *parts, const size_t *sizes, int n_parts, long n
) {
    for (long i = 0; i < n; i++) {
        for (int part = 0; part < n_parts; part++) {
            int flags = part + 1 < n_parts ? SNDMORE : 0;
            if (send(socket, parts[part], sizes[part], flags) < 0) return i;
        }
    }
    return n;
}

/* Returns: messages received. */
long receive_messages(
    message_fn init, receive_fn receive, message_fn more, message_fn close, void *socket, long n
) {
    message part;
    init(&part);
    for (long i = 0; i < n; i++) {
        do {
            if (receive(&part, socket, 0) < 0) return i;
        } while (more(&part));
    }
    close(&part);
    return n;
}
