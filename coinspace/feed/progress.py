"""Progress bars on stderr for long work, only when stderr is a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from coinspace.feed.format import FeedReader

POLL_S = 0.1


@contextmanager
def progress_bar(text: str, total: float) -> Iterator[Callable[[float], None]]:
    """Give a function that sets how much of the total is done."""
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
    """Show how much of the readers' files has been read, while the body reads them."""
    finished = threading.Event()
    with progress_bar(text, sum(reader.size for reader in readers)) as update:

        def watch() -> None:
            while not finished.wait(POLL_S):
                update(sum(reader.compressed_read for reader in readers))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()
