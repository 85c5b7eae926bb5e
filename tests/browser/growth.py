"""Does the page Premium grow? `python -m tests.browser.growth --minutes 30`; not part of the tests.

An endpoint publishes the premiums of 250 assets once a second, and a Chromium shows them. Heap, DOM
nodes and listeners are read after a forced garbage collection: the collector of a page that has
memory to spare runs late, so an unforced reading climbs although nothing is kept.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.browser.site import build_page, chromium
from tests.browser.test_page import Feed, measured

ASSETS = ["BTC", "ETH", *(f"A{number:03}" for number in range(248))]
EVERY_S = 30.0
MEASURES = ("heap MB", "nodes", "listeners")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and all below it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_s(int(one)) for one in below)


def watch(minutes: float) -> None:
    """Measure, and print each reading and the slopes."""
    build_page()
    folder = Path(tempfile.mkdtemp(prefix="coinspace-growth-"))
    with Feed(ASSETS).running(folder) as feed, chromium(1440, 1000, requests=False) as driver:
        driver.get(f"{feed.url}/#/premium")
        driver.execute_cdp_cmd("Performance.enable", {})
        time.sleep(15)
        pid = driver.service.process.pid
        begun, used, rows = time.monotonic(), cpu_s(pid), []
        while (now := time.monotonic() - begun) < 60 * minutes:
            rows.append([now / 60, *measured(driver)])
            print(*(f"{value:.3f}" for value in rows[-1]), flush=True)
            time.sleep(EVERY_S)
        shown = driver.execute_script("return document.querySelectorAll('#premium-list tr').length")
        share = (cpu_s(pid) - used) / (time.monotonic() - begun)
    table = np.array(rows)
    print(f"{len(ASSETS)} assets at 1 Hz, {shown} rows, {100 * share:.1f} % of a core")
    for column, name in enumerate(MEASURES, 1):
        for part, label in ((table, "all"), (table[len(table) // 4 :], "after a quarter")):
            slope = np.polyfit(part[:, 0], part[:, column], 1)[0]
            first, last = part[0, column], part[-1, column]
            print(f"{name}, {label}: {first:.3f} to {last:.3f}, {slope:+.4f} a minute")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    watch(parser.parse_args().minutes)
