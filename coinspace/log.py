"""Logging that never raises into the caller and never waits for the reader of stderr.

stderr may be closed, a pipe without a reader, or a file on a full disk. A line that cannot be
written is dropped and counted; the work goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
from typing import Any, TextIO

import structlog

from coinspace.text import PrintableFormatter, printable_event

# PIPE_BUF: a pipe that is ready for writing takes this many bytes without blocking
PIPE_BYTES = 4096


class Output:
    """A text stream for loggers.

    Attributes: lost: lines that were not written, or only in part.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._descriptor: int | None = None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # a stream in memory has no descriptor
            self._descriptor = stream.fileno() if stream is not None else None
        self._torn = False
        self.lost = 0

    def write(self, text: str) -> int:
        """Write a line, or drop it where writing would raise or wait."""
        try:
            if self._descriptor is not None:
                self._write(self._descriptor, text.encode(errors="backslashreplace"))
            elif self._stream is not None:
                self._stream.write(text)
            else:
                self.lost += 1
        except (OSError, ValueError):
            self.lost += 1
        return len(text)

    def _write(self, descriptor: int, data: bytes) -> None:
        ready = select.poll()
        ready.register(descriptor, select.POLLOUT)
        if self._torn:
            data = b"\n" + data
        left = data
        while left:
            if not ready.poll(0):
                self.lost += 1
                self._torn = len(left) < len(data)
                return
            left = left[os.write(descriptor, left[:PIPE_BYTES]) :]
        self._torn = False

    def flush(self) -> None:
        """Flush a stream in memory; a descriptor has nothing to flush."""
        if self._descriptor is None and self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False


output = Output(None)


def lost_lines() -> int:
    return output.lost


def safe(logger: type[Any]) -> type[Any]:
    """Return a logger class whose calls never raise, even when an argument does."""

    class Safe(logger):  # type: ignore[misc]
        def _proxy_to_logger(self, method_name: str, event: Any = None, **facts: Any) -> Any:
            try:
                return super()._proxy_to_logger(method_name, event, **facts)
            except Exception:
                # an argument cannot be shown: log at least the event
                output.lost += 1
                with contextlib.suppress(Exception):
                    output.write(f"level={method_name!r} event={event!r} arguments not shown\n")

    return Safe


def _fill_standard_descriptors() -> None:
    # libuv aborts when a socket gets the number of a closed stdin, stdout or stderr
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def configure_logging(level: str = "info") -> None:
    """Log key=value lines to stderr, those of the standard library's loggers too."""
    global output
    _fill_standard_descriptors()
    output = Output(sys.stderr)
    terminal = output.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            printable_event,
            structlog.dev.ConsoleRenderer(colors=True, pad_event_to=0)
            if terminal
            else structlog.processors.KeyValueRenderer(
                key_order=["timestamp", "level", "event"], sort_keys=False
            ),
        ],
        wrapper_class=safe(structlog.make_filtering_bound_logger(getattr(logging, level.upper()))),
        logger_factory=structlog.WriteLoggerFactory(output),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=output, level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PrintableFormatter(logging.BASIC_FORMAT))
