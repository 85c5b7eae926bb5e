"""The allow-list of CURVE keys: libzmq asks it about each new connection (ZAP, RFC 27).

It runs on a thread with a plain socket: pyzmq's authenticator uses zmq.asyncio, which misses
wake-ups.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import structlog
import zmq
from zmq.utils import z85

from coinspace.clock import SECOND_NS, now_ns

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"
POLL_MS = 100
LOG_INTERVAL_NS = 60 * SECOND_NS

log = structlog.get_logger("guard")


class Guard:
    """Accepts clients by their Z85 public keys; one guard serves all sockets of a context.

    Attributes: refused: number of refused connections.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.refused = 0
        # ZAP domain (one per bound socket) -> allowed keys
        self._allowed: dict[bytes, frozenset[bytes]] = {}
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(ZAP_ENDPOINT)
        self._logged_ns = 0
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="bus guard", daemon=True)
        self._thread.start()

    def allow(self, domain: bytes, keys: Iterable[str]) -> None:
        """Let clients with these keys connect to the socket with this ZAP domain."""
        self._allowed[domain] = frozenset(key.encode() for key in keys)

    def forget(self, domain: bytes) -> None:
        """Refuse all clients of the socket with this ZAP domain from now on."""
        self._allowed.pop(domain, None)

    def close(self) -> None:
        """Stop answering: libzmq refuses connections from now on."""
        self._closing = True
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._closing:
            if not self._socket.poll(POLL_MS):
                continue
            parts = self._socket.recv_multipart()
            number = parts[1] if len(parts) > 1 else b""
            reason = self._refusal(parts)
            if reason:
                self.refused += 1
                self._report(reason, parts)
            status = [b"400", reason.encode()] if reason else [b"200", b"OK"]
            self._socket.send_multipart([ZAP_VERSION, number, *status, b"", b""])

    def _report(self, reason: str, parts: list[bytes]) -> None:
        now = now_ns()
        if now - self._logged_ns >= LOG_INTERVAL_NS:
            self._logged_ns = now
            address = parts[3].decode(errors="replace") if len(parts) > 3 else ""
            log.warning("connection refused", reason=reason, address=address, so_far=self.refused)

    def _refusal(self, parts: list[bytes]) -> str:
        # version, request id, domain, address, identity, mechanism, credentials
        if len(parts) != 7 or parts[0] != ZAP_VERSION or parts[5] != b"CURVE":
            return "expected a CURVE key"
        key = z85.encode(parts[6])
        if key not in self._allowed.get(parts[2], ()):
            return f"expected a key in bus.curve_allowed or of a host, was {key.decode()}"
        return ""
