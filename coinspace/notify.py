"""Signs of life for the supervisor of a process: systemd, or `coinspace up` by the same protocol.

The supervisor names a datagram socket in NOTIFY_SOCKET and, in WATCHDOG_USEC, how long it waits
for the next `WATCHDOG=1`. The protocol needs no file, so that a full disk does not look like a
hang, and compares no clocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import MutableMapping

STATUS_LENGTH = 200


class Notifier:
    """Sends a process's state to its supervisor; without one it does nothing.

    Args: environment: the protocol's variables are removed, so that children do not inherit them.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        # `@` begins the name of an abstract socket of Linux, which has no file
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        # how often to send `WATCHDOG=1`, None = the supervisor does not wait for it
        self.interval_s: float | None = None
        if microseconds.isdecimal() and int(microseconds) and pid in ("", str(os.getpid())):
            self.interval_s = int(microseconds) / 1e6 / 2
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def send(self, *states: str) -> None:
        """Send states such as `READY=1`. Never raises, never waits."""
        if self._socket is None:
            return
        text = "\n".join(state.replace("\n", " ") for state in states)
        with contextlib.suppress(OSError):
            self._socket.sendto(text.encode(errors="replace"), self._address)

    def status(self, text: str) -> None:
        """Send one line for operators."""
        self.send(f"STATUS={text[:STATUS_LENGTH]}")

    def beat(self) -> None:
        """Report that the event loop runs."""
        if self.interval_s is not None:
            self.send("WATCHDOG=1")


class Listener:
    """Receives the signs of life of one child.

    Attributes:
        heard: how many signs of life have arrived.
        ready: the child has sent `READY=1`.
        standby: the child has sent `STANDBY=1`: it waits to take over.
    """

    def __init__(self) -> None:
        self.heard = 0
        self.ready = self.standby = False
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        # an abstract socket of Linux: it has no file
        self._name = f"coinspace-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            self._socket.bind(f"\0{self._name}")
            self._loop.add_reader(self._socket.fileno(), self._read)
        except BaseException:
            self._socket.close()
            raise

    def environment(self, limit_s: float) -> dict[str, str]:
        """Return variables for the child. Args: limit_s: how long the child may be silent."""
        return {"NOTIFY_SOCKET": f"@{self._name}", "WATCHDOG_USEC": str(int(limit_s * 1e6))}

    def _read(self) -> None:
        while True:
            try:
                states = self._socket.recv(4096).split(b"\n")
            except OSError:
                return
            self.heard += b"WATCHDOG=1" in states
            self.ready |= b"READY=1" in states
            self.standby |= b"STANDBY=1" in states

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
