"""Progress bars for long work, on stderr if it is a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from coinspace.recording.format import FeedReader
from coinspace.text import printable

POLL_S = 0.1


@contextmanager
def progress_bar(text: str, total: float) -> Iterator[Callable[[float], None]]:
    """Show a progress bar; yields a function that sets how much of the total is done."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def reading(readers: Sequence[FeedReader], text: str) -> Iterator[None]:
    """Show how much of the readers' files has been read while the body reads them.

    Reports at the end which files are cut.
    """
    total = sum(reader.size for reader in readers)
    with watched(text, total, lambda: sum(reader.compressed_read for reader in readers)):
        yield
    for reader in readers:
        if reader.torn:
            path = printable(reader.path)
            print(
                f"coinspace: feed {path}: the end is cut; everything before it is read",
                file=sys.stderr,
            )


@contextmanager
def elapsing(text: str, seconds: float | None) -> Iterator[None]:
    """Show how much of a time has passed while the body waits; None = unknown, no bar."""
    if seconds is None:
        yield
        return
    begin_s = time.monotonic()
    with watched(text, seconds, lambda: time.monotonic() - begin_s):
        yield


@contextmanager
def watched(text: str, total: float, done: Callable[[], float]) -> Iterator[None]:
    """Show the progress that `done` returns while the body works."""
    finished = threading.Event()
    with progress_bar(text, total) as update:

        def watch() -> None:
            while not finished.wait(POLL_S):
                update(done())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()
