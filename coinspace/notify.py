"""Signs of life for whoever supervises a process: systemd, or `coinspace up` by the same protocol.

The supervisor names a datagram socket in NOTIFY_SOCKET and, in WATCHDOG_USEC, how long it waits
for the next `WATCHDOG=1`. No file is involved, so that a full disk does not look like a hang, and
no clock is compared.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

STATUS_LENGTH = 200


class Notifier:
    """Sends a process's state to its supervisor; without one it does nothing.

    Args: environment: its three variables are taken out, since they are not for the children.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        # how often to send `WATCHDOG=1`, None = nobody waits for it
        self.interval_s: float | None = None
        if microseconds.isdecimal() and int(microseconds) and pid in ("", str(os.getpid())):
            self.interval_s = int(microseconds) / 1e6 / 2
        self._socket: socket.socket | None = None
        if self._address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def send(self, *states: str) -> None:
        """Send states such as `READY=1`. Never raises, never waits."""
        if self._socket is None:
            return
        address = self._address
        if address.startswith("@"):
            # Linux's sockets without a file
            address = "\0" + address[1:]
        text = "\n".join(state.replace("\n", " ") for state in states)
        with contextlib.suppress(OSError):
            self._socket.sendto(text.encode(errors="replace"), address)

    def status(self, text: str) -> None:
        """Send one line for people."""
        self.send(f"STATUS={text[:STATUS_LENGTH]}")

    def beat(self) -> None:
        """Say that the event loop runs."""
        if self.interval_s is not None:
            self.send("WATCHDOG=1")
