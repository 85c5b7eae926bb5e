"""A second process of a name on one data folder is refused in one line."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from coinspace.config import Settings
from coinspace.errors import ConfigError
from coinspace.lock import hold
from coinspace.process import Process, run


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "worker.lock"
    first = hold(path, "worker")
    with pytest.raises(ConfigError, match=f"runs as process {os.getpid()}"):
        hold(path, "worker")
    os.close(first)
    os.close(hold(path, "worker"))


def test_a_process_runs_once_on_a_data_folder(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    inner: list[BaseException] = []

    async def main(process: Process) -> None:
        def again() -> None:
            run("orderbook-storage-worker", settings, main)

        try:
            await asyncio.to_thread(again)
        except ConfigError as error:
            inner.append(error)

    run("orderbook-storage-worker", settings, main)
    assert "not to run yet on this data folder" in str(inner[0])
    # another name, and another folder, are others
    descriptor = hold(tmp_path / "run" / "ticker-storage-worker.lock", "ticker-storage-worker")
    os.close(descriptor)
