"""The ZeroMQ transport: bounded queues, CURVE on tcp, one owner per ipc path."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import zmq

from coinspace.bus.context import Socket, admit, close_socket
from coinspace.config import BusSettings
from coinspace.errors import BusError, ConfigError
from coinspace.lock import lock_file

RECONNECT_MS = 20
# the pause grows up to this, but not on the same host, where an attempt costs almost nothing
RECONNECT_LIMIT_MS = 1000
# over tcp a peer is asked this often for a sign of life, and is given up without one for so long
PING_MS = 2000
PING_TIMEOUT_MS = 10_000
# an attempt that gets no answer ends: on a link that was down the next one succeeds at once
ANSWER_MS = 5000
# a port is free within 1 ms, on a loaded machine later
UNBIND_MS = 1000


class Connected:
    """Connections of a socket; they end with it."""

    def close(self, linger_ms: int = 0) -> None:
        """Leave the closing to the socket's owner."""


class Bound:
    """A bound socket, the lock on its ipc path and its allowed keys."""

    # the sink counts the messages that libzmq refuses
    dropped = 0

    def __init__(self, socket: Socket, endpoint: str) -> None:
        self.endpoint = endpoint
        self._socket = socket
        self._lock: int | None = None
        self._forget_keys: Callable[[], None] = lambda: None

    def lock(self) -> None:
        """Lock the ipc path: libzmq would take over a path that another process has bound."""
        path = Path(self.endpoint.removeprefix("ipc://"))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock_file(path.with_name(f"{path.name}.lock"), self.endpoint, BusError)

    def guard(self, keys: tuple[str, str], allowed: Iterable[str]) -> None:
        """Accept only clients that have one of the allowed public keys."""
        self._forget_keys = admit(self._socket, allowed)
        self._socket.curve_server = True
        self._socket.curve_publickey, self._socket.curve_secretkey = (one.encode() for one in keys)

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket, then release its lock and keys. Idempotent."""
        if not self._socket.closed and self.endpoint.startswith("tcp://"):
            self._unbind()
        close_socket(self._socket, linger_ms)
        self._forget_keys()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _unbind(self) -> None:
        # the context closes the port on another thread: wait until the next owner can bind it
        monitor = self._socket.get_monitor_socket(zmq.EVENT_CLOSED)
        try:
            self._socket.unbind(self.endpoint)
            monitor.poll(UNBIND_MS)
        except zmq.ZMQError:
            # the socket was never bound
            pass
        finally:
            self._socket.disable_monitor()
            monitor.close(0)


def bind(socket: Socket, endpoint: str, bus: BusSettings | None) -> Bound:
    """Bind a publisher's or journal's socket.

    Returns: the bound socket; its `endpoint` has the port that replaces a wildcard.
    Raises: BusError, with the socket closed, when the endpoint is taken or cannot be bound.
    """
    bound = Bound(socket, endpoint)
    try:
        if endpoint.startswith("ipc://"):
            bound.lock()
        if endpoint.startswith("tcp://"):
            _watch_peer(socket)
            if bus is not None and (keys := bus.keys()) is not None:
                bound.guard(keys, bus.allowed)
        with contextlib.suppress(zmq.ZMQError):
            socket.ipv6 = "[" in endpoint
        socket.bind(endpoint)
    except (BusError, ConfigError):
        bound.close()
        raise
    except (zmq.ZMQError, OSError) as error:
        bound.close()
        if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise BusError(
                f"{endpoint}: expected an address of this machine: another host has this role"
            ) from None
        raise BusError(f"{endpoint}: cannot bind: {error}; is another process there?") from None
    bound.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return bound


def _watch_peer(socket: Socket) -> None:
    """Notice that the peer's host or the link is gone, which TCP alone may never do."""
    socket.heartbeat_ivl = PING_MS
    socket.heartbeat_timeout = PING_TIMEOUT_MS
    socket.handshake_ivl = socket.connect_timeout = ANSWER_MS


def connect(socket: Socket, endpoint: str, bus: BusSettings | None) -> Connected:
    """Connect; libzmq retries until the peer is there.

    Raises: BusError when the endpoint is invalid or a CURVE key is missing.
    """
    socket.reconnect_ivl = RECONNECT_MS
    socket.reconnect_ivl_max = 0 if endpoint.startswith("ipc://") else RECONNECT_LIMIT_MS
    # libzmq copies the socket's options at each connect: this resets the mechanism to NULL, so that
    # the keys of an earlier peer are not used
    with contextlib.suppress(zmq.ZMQError):
        # a libzmq without CURVE has nothing to reset
        socket.curve_server = False
    keys = bus.keys() if bus is not None and endpoint.startswith("tcp://") else None
    if endpoint.startswith("tcp://"):
        _watch_peer(socket)
    if bus is not None and keys is not None:
        server_key = bus.server_key(endpoint)
        if not server_key:
            raise BusError(
                f"{endpoint}: expected its public key in bus.curve_server_key"
                " or bus.curve_server_keys, found none"
            )
        socket.curve_serverkey = server_key.encode()
        socket.curve_publickey, socket.curve_secretkey = (one.encode() for one in keys)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise BusError(f"{endpoint}: expected an ipc or tcp endpoint, {error}") from None
    return Connected()


class ZmqTransport:
    """ZeroMQ between processes, over ipc or tcp."""

    publish = staticmethod(bind)
    serve = staticmethod(bind)
    subscribe = staticmethod(connect)
    ask = staticmethod(connect)
