"""Pictures of the page: `python -m tests.browser.screenshots [--url URL] [--output FOLDER]`.

Without an address the platform is started on simulated exchanges first.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver

from tests.browser.site import HOW_TO_GET_ONE, Platform, browser_found, chromium
from tests.waiting import wait_for

# name, width, height, theme, language, asset, style; what fits above the fold, in a few 100 kB
SHOTS = (
    ("dashboard-dark", 1440, 1150, "dark", "en", "BTC", "line"),
    ("dashboard-light-korean", 1440, 1150, "light", "ko", "ETH", "candles"),
    ("dashboard-phone", 390, 1400, "dark", "ko", "BTC", "line"),
)
SIZE_LIMIT = 300_000
# seconds of values that a picture shows
SETTLE_S = 6.0


def take(driver: webdriver.Chrome, url: str, folder: Path, warm_s: float) -> list[Path]:
    """Save every picture and return the files."""
    taken = []
    driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    for name, width, height, theme, language, asset, style in SHOTS:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        driver.get(url)
        driver.execute_script(
            "localStorage.clear(); Object.entries(arguments[0]).forEach(([k, v]) =>"
            " localStorage.setItem(k, v)); location.hash = '';",
            {"theme": theme, "language": language, "asset": asset, "style": style, "range": "5m"},
        )
        driver.get(url)
        wait_for(lambda: driver.execute_script(_DRAWN))
        time.sleep(warm_s)
        path = folder / f"{name}.png"
        driver.save_screenshot(str(path))
        assert path.stat().st_size < SIZE_LIMIT, f"{path}: {path.stat().st_size} bytes"
        taken.append(path)
    return taken


_DRAWN = "return +(document.getElementById('depth').dataset.drawn || 0) > 2"


@contextlib.contextmanager
def _site(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="coinspace-") as folder:
        platform = Platform(Path(folder))
        try:
            platform.wait_ready()
            # a chart with values on it
            time.sleep(90)
            yield platform.url
        finally:
            platform.stop()


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running endpoint")
    parser.add_argument("--output", type=Path, default=Path("docs/screenshots"))
    chosen = parser.parse_args()
    if not browser_found():
        print(HOW_TO_GET_ONE, file=sys.stderr)
        return 1
    chosen.output.mkdir(parents=True, exist_ok=True)
    with _site(chosen.url) as url, chromium() as driver:
        for path in take(driver, url, chosen.output, SETTLE_S):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
