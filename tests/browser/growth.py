"""Does the page Premium grow? `python -m tests.browser.growth --minutes 30`; not part of the tests.

An endpoint publishes the premiums of 250 assets once a second, and a Chromium shows them. Heap, DOM
nodes and listeners are read after a forced garbage collection: the collector of a page that has
memory to spare runs late, so an unforced reading climbs although nothing is kept.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from selenium import webdriver

from tests.browser.site import build_page, chromium
from tests.browser.test_page import Feed

ASSETS = ["BTC", "ETH", *(f"A{number:03}" for number in range(248))]
EVERY_S = 30.0
MEASURES = {"JSHeapUsedSize": "heap MB", "Nodes": "nodes", "JSEventListeners": "listeners"}


def read(driver: webdriver.Chrome) -> list[float]:
    """Collect all garbage; return heap in MB, DOM nodes and listeners."""
    for _ in range(2):
        # what the first one finalises is free after the second one
        driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    found = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    values = {one["name"]: one["value"] for one in found}
    return [values["JSHeapUsedSize"] / 1e6, values["Nodes"], values["JSEventListeners"]]


def cpu_s(driver: webdriver.Chrome) -> float:
    """Return the CPU seconds of all processes of the browser."""
    total = 0.0
    for one in psutil.Process(driver.service.process.pid).children(recursive=True):
        try:
            times = one.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def watch(minutes: float) -> None:
    """Measure, and print each reading and the slopes."""
    build_page()
    folder = Path(tempfile.mkdtemp(prefix="coinspace-growth-"))
    with Feed(ASSETS).running(folder) as feed, chromium(1440, 1000, requests=False) as driver:
        driver.get(f"{feed.url}/#/premium")
        driver.execute_cdp_cmd("Performance.enable", {})
        time.sleep(15)
        begun, used, rows = time.monotonic(), cpu_s(driver), []
        while (now := time.monotonic() - begun) < 60 * minutes:
            rows.append([now / 60, *read(driver)])
            print(*(f"{value:.3f}" for value in rows[-1]), flush=True)
            time.sleep(EVERY_S)
        shown = driver.execute_script("return document.querySelectorAll('#premium-list tr').length")
        share = (cpu_s(driver) - used) / (time.monotonic() - begun)
    table = np.array(rows)
    print(f"{len(ASSETS)} assets at 1 Hz, {shown} rows, {100 * share:.1f} % of a core")
    for column, name in enumerate(MEASURES.values(), 1):
        for part, label in ((table, "all"), (table[len(table) // 4 :], "after a quarter")):
            slope = np.polyfit(part[:, 0], part[:, column], 1)[0]
            first, last = part[0, column], part[-1, column]
            print(f"{name}, {label}: {first:.3f} to {last:.3f}, {slope:+.4f} a minute")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    watch(parser.parse_args().minutes)
