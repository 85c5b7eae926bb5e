"""Sockets as the bus wants them: bounded queues, CURVE on tcp, one owner per ipc path."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import zmq

from coinspace.bus.context import Socket, admit, close_socket, dismiss
from coinspace.config import BusSettings
from coinspace.errors import BusError

# a peer that sends more is cut off by libzmq: 16 MiB is 32 times the deepest book
MESSAGE_SIZE_LIMIT = 1 << 24
RECONNECT_MS = 20
# the pause grows up to this, but not on the own host, where an attempt costs next to nothing
RECONNECT_LIMIT_MS = 1000
# subscribers on this host that wait for a publisher have found it so long after it has bound
SETTLE_S = 0.1
# a port is free within a millisecond, on a loaded machine somewhat later
UNBIND_MS = 1000


class Bound:
    """A bound socket and its place: the lock on its ipc path, the keys that it lets in."""

    def __init__(self, socket: Socket, endpoint: str) -> None:
        self.endpoint = endpoint
        self._socket = socket
        self._lock: int | None = None
        self._domain: bytes | None = None

    def lock(self) -> None:
        """Refuse an ipc path that another living process has bound: libzmq would take it over."""
        path = Path(self.endpoint.removeprefix("ipc://"))
        path.parent.mkdir(parents=True, exist_ok=True)
        # the kernel lets go of the lock when its process dies, however it dies
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BusError(
                f"{self.endpoint}: expected no other process here, found one; stop it"
                " or choose another data folder"
            ) from None
        self._lock = lock

    def guard(self, bus: BusSettings) -> None:
        """Let in only clients that have one of the allowed public keys."""
        self._domain = admit(self._socket, bus.curve_allowed)
        self._socket.curve_server = True
        self._socket.curve_publickey = bus.curve_public_key.encode()
        self._socket.curve_secretkey = bus.curve_secret_key.get_secret_value().encode()

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket, then release its place; idempotent."""
        if not self._socket.closed and self.endpoint.startswith("tcp://"):
            self._unbind()
        close_socket(self._socket, linger_ms)
        if self._domain is not None:
            dismiss(self._domain)
            self._domain = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _unbind(self) -> None:
        # the shared context closes it in a thread of its own: a next owner must find the port free
        monitor = self._socket.get_monitor_socket(zmq.EVENT_CLOSED)
        try:
            self._socket.unbind(self.endpoint)
            monitor.poll(UNBIND_MS)
        except zmq.ZMQError:
            # it was never bound
            pass
        finally:
            self._socket.disable_monitor()
            monitor.close(0)


def bind(socket: Socket, endpoint: str, bus: BusSettings | None) -> Bound:
    """Bind a publisher's or journal's socket.

    Returns: its place, whose `endpoint` names the port where a wildcard was given.
    Raises: BusError, with the socket closed, when the endpoint is taken or cannot be bound.
    """
    bound = Bound(socket, endpoint)
    try:
        if endpoint.startswith("ipc://"):
            bound.lock()
        if bus is not None and bus.curve_public_key and endpoint.startswith("tcp://"):
            bound.guard(bus)
        with contextlib.suppress(zmq.ZMQError):
            socket.ipv6 = "[" in endpoint
        socket.bind(endpoint)
    except BusError:
        bound.close()
        raise
    except (zmq.ZMQError, OSError) as error:
        bound.close()
        raise BusError(f"{endpoint}: cannot bind: {error}; is another process there?") from None
    bound.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return bound


def connect(socket: Socket, endpoint: str, bus: BusSettings | None) -> None:
    """Connect; a peer that is not there yet is tried again and again.

    Raises: BusError when the endpoint is not one, or a CURVE key is missing.
    """
    socket.reconnect_ivl = RECONNECT_MS
    socket.reconnect_ivl_max = 0 if endpoint.startswith("ipc://") else RECONNECT_LIMIT_MS
    # libzmq copies the socket's options at each connect: those of an earlier peer must not stay,
    # and this one sets the mechanism back to NULL
    with contextlib.suppress(zmq.ZMQError):
        # a libzmq without CURVE has nothing to set back
        socket.curve_server = False
    if bus is not None and bus.curve_public_key and endpoint.startswith("tcp://"):
        server_key = bus.curve_server_keys.get(endpoint) or bus.curve_server_key
        if not server_key:
            raise BusError(
                f"{endpoint}: expected its public key in bus.curve_server_key"
                " or bus.curve_server_keys, found none"
            )
        socket.curve_serverkey = server_key.encode()
        socket.curve_publickey = bus.curve_public_key.encode()
        socket.curve_secretkey = bus.curve_secret_key.get_secret_value().encode()
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise BusError(f"{endpoint}: expected an ipc or tcp endpoint, {error}") from None
