"""The ZeroMQ context of this process: one I/O thread and one guard for all its sockets.

It begins with the first socket and ends with the last, once what they had to send has left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterable

import zmq

from coinspace.bus.guard import Guard

# ZMQ_ZERO_COPY_RECV, which pyzmq does not name: libzmq would put several messages into one block,
# at odd addresses, and a kept message would hold the whole block; off costs nothing measurable
ZERO_COPY_RECV = 10

Socket = zmq.Socket[bytes]


class _Shared:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.context: zmq.Context[Socket] | None = None
        self.guard: Guard | None = None
        self.sockets = 0
        self.domains = itertools.count(1)


_shared = _Shared()


def _after_fork() -> None:
    # its threads are not here: the parent's context is of no use
    global _shared
    _shared = _Shared()


os.register_at_fork(after_in_child=_after_fork)


def open_socket(kind: int) -> Socket:
    """Return a socket that drops what is unsent when it is closed; give it to `close_socket`."""
    shared = _shared
    with shared.lock:
        if shared.context is None:
            shared.context = zmq.Context()
            with contextlib.suppress(zmq.ZMQError):
                # an older libzmq refuses it: its views are right too, only slower
                shared.context.set(ZERO_COPY_RECV, 0)
        socket: Socket = shared.context.socket(kind)
        shared.sockets += 1
    socket.linger = 0
    return socket


def close_socket(socket: Socket, linger_ms: int = 0) -> None:
    """Close a socket, and with the last one the context; idempotent.

    Args: linger_ms: how long what is queued may take to leave; the context waits for it.
    """
    if socket.closed:
        return
    socket.close(linger_ms)
    shared = _shared
    with shared.lock:
        shared.sockets -= 1
        if shared.sockets:
            return
        context, guard = shared.context, shared.guard
        shared.context = shared.guard = None
    if guard is not None:
        guard.close()
    if context is not None:
        context.term()


def admit(socket: Socket, keys: Iterable[str]) -> bytes:
    """Let only clients with one of these public keys connect to a socket, once it is bound.

    Returns: what `dismiss` takes.
    """
    shared = _shared
    with shared.lock:
        if shared.guard is None:
            shared.guard = Guard(socket.context)
        domain = b"coinspace-%d" % next(shared.domains)
        shared.guard.allow(domain, keys)
    socket.zap_domain = domain
    return domain


def dismiss(domain: bytes) -> None:
    """Forget the keys of a socket that is closed."""
    with _shared.lock:
        if _shared.guard is not None:
            _shared.guard.forget(domain)
