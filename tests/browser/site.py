"""The whole platform on simulated exchanges, and a Chromium looking at its page."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from coinspace.endpoint.dashboard import build
from tests.waiting import free_port, wait_for

START_TIMEOUT_S = 150.0
STOP_TIMEOUT_S = 90.0
HOW_TO_GET_ONE = (
    "no Chromium with ChromeDriver on the PATH: `apt-get install chromium chromium-driver`"
)


def build_page() -> None:
    """Build the page, unless another worker of the test run has done so."""
    with (build.FOLDER / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build.build()


def browser_found() -> bool:
    """Return whether this machine has a Chromium and its driver."""
    return bool(shutil.which("chromedriver") and _chromium())


def may_skip() -> bool:
    """Return whether tests may run without a browser: BROWSER_TESTS=required forbids it."""
    return not browser_found() and os.environ.get("BROWSER_TESTS") != "required"


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.contextmanager
def chromium(
    width: int = 1500, height: int = 1000, *, requests: bool = True
) -> Iterator[webdriver.Chrome]:
    """A browser that logs its console and, with `requests`, every request."""
    assert browser_found(), HOW_TO_GET_ONE
    options = Options()
    options.binary_location = _chromium() or ""
    for argument in (
        "--headless=new",
        # containers have no user namespaces and a small /dev/shm
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--lang=en-US",
        f"--window-size={width},{height}",
    ):
        options.add_argument(argument)
    logged = {"browser": "ALL"} | ({"performance": "ALL"} if requests else {})
    options.set_capability("goog:loggingPrefs", logged)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


class Platform:
    """`coinspace up --simulate` with a data folder and a port of its own.

    Args: settings: more variables, without COINSPACE_.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {
            **os.environ,
            "COINSPACE_DATA": str(folder),
            "COINSPACE_ENDPOINT__PORT": str(self.port),
            **{f"COINSPACE_{name}": value for name, value in settings.items()},
        }
        self._log = (folder / "up.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "coinspace", "up", "--simulate"],
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_ready(self, *assets: str) -> None:
        """Wait until these indices have a value, by default all."""
        wait_for(
            lambda: self._has_values(assets),
            limit_s=START_TIMEOUT_S,
            shown=lambda: (self.folder / "up.log").read_text()[-2000:],
        )

    def _has_values(self, assets: tuple[str, ...]) -> bool:
        if self._process.poll() is not None:
            raise AssertionError((self.folder / "up.log").read_text()[-2000:])
        try:
            body = self.get("/v1/indices")
        except OSError:
            return False
        values = {one["asset"]: one["value"] for one in body["indices"]}
        return not body["missing"] and all(values.get(one) for one in assets or values)

    def get(self, path: str) -> Any:
        """Return a JSON answer."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return orjson.loads(answer.read())

    def pid(self, name: str) -> int:
        """Return the process id of a stage."""
        health = orjson.loads((self.folder / "run" / f"{name}.json").read_bytes())
        return int(health["pid"])

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a stage."""
        os.kill(self.pid(name), number)

    def stop(self) -> None:
        """Stop everything."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
