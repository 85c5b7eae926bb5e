"""A progress bar for long downloads: on a terminal, in a notebook, or the caller's own."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# True: always, False: never, None: on a terminal or in a notebook once it takes `PATIENCE_S`; a
# function gets the fraction that is done
Progress = bool | Callable[[float], object] | None

PATIENCE_S = 1.0


@contextmanager
def progress_bar(text: str, wanted: Progress) -> Iterator[Callable[[float], object]]:
    """Yield a function that takes the fraction that is done."""
    if callable(wanted):
        yield wanted
        return
    if wanted is False or (wanted is None and not (_notebook() or sys.stderr.isatty())):
        yield lambda fraction: None
        return
    bar = _Bar(text, time.monotonic() + (0 if wanted else PATIENCE_S))
    try:
        yield bar.update
    finally:
        bar.close()


def _notebook() -> bool:
    # a kernel of Jupyter has imported it
    return "ipykernel" in sys.modules


class _Bar:
    """Made when it is first shown, so that short downloads show nothing."""

    def __init__(self, text: str, shown_from_s: float) -> None:
        self._text = text
        self._shown_from_s = shown_from_s
        self._display: Any = None
        self._rich: Any = None

    def update(self, fraction: float) -> None:
        """Show the fraction that is done."""
        if time.monotonic() < self._shown_from_s:
            return
        if _notebook():
            self._in_notebook(fraction)
            return
        if self._rich is None:
            from rich.console import Console
            from rich.progress import Progress as Rich

            console = Console(stderr=True)
            # a file gets one line at the end
            self._rich = Rich(console=console, transient=console.is_terminal)
            self._rich.start()
            self._rich.add_task(self._text, total=1.0)
        self._rich.update(self._rich.task_ids[0], completed=fraction)

    def _in_notebook(self, fraction: float) -> None:
        ipython: Any = importlib.import_module("IPython.display")
        shown = ipython.HTML(f'{self._text} <progress max="1" value="{fraction:.4f}"></progress>')
        if self._display is None:
            self._display = ipython.display(shown, display_id=True)
        else:
            self._display.update(shown)

    def close(self) -> None:
        """End the bar."""
        if self._rich is not None:
            self._rich.stop()
        if self._display is not None:
            ipython: Any = importlib.import_module("IPython.display")
            self._display.update(ipython.HTML(f"{self._text}: done"))
