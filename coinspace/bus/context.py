"""The ZeroMQ context of this process: one I/O thread and one guard for all its sockets.

The first socket opens the context. The last socket closes it after all queued messages are sent.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial

import zmq

from coinspace.bus.guard import Guard

# ZMQ_ZERO_COPY_RECV, which pyzmq does not name. With it libzmq puts several messages into one
# block, at unaligned addresses, and one kept message keeps the whole block in memory. Switching it
# off has no measurable cost.
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
    # the context's threads exist in the parent process only
    global _shared
    _shared = _Shared()


os.register_at_fork(after_in_child=_after_fork)


def open_socket(kind: int) -> Socket:
    """Return a socket that drops unsent messages when closed; close it with `close_socket`."""
    shared = _shared
    with shared.lock:
        if shared.context is None:
            shared.context = zmq.Context()
            with contextlib.suppress(zmq.ZMQError):
                # an older libzmq refuses the option: views are still right, but slower
                shared.context.set(ZERO_COPY_RECV, 0)
        socket: Socket = shared.context.socket(kind)
        shared.sockets += 1
    socket.linger = 0
    return socket


def close_socket(socket: Socket, linger_ms: int = 0) -> None:
    """Close a socket; the last one also closes the context. Idempotent.

    Args: linger_ms: how long to wait until queued messages are sent.
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


def admit(socket: Socket, keys: Iterable[str]) -> Callable[[], None]:
    """Let only clients with one of these public keys connect to a socket; call before `bind`.

    Returns: a function that forgets the keys, for the time after the socket is closed.
    """
    shared = _shared
    with shared.lock:
        if shared.guard is None:
            shared.guard = Guard(socket.context)
        domain = b"coinspace-%d" % next(shared.domains)
        shared.guard.allow(domain, keys)
        forget = partial(shared.guard.forget, domain)
    socket.zap_domain = domain
    return forget
