"""How far back a journal reaches at its present rate."""

from __future__ import annotations

from pathlib import Path

from coinspace._ext.journal import Segment
from coinspace.bus.journal import journal_folder
from coinspace.bus.segments import horizon_s, segment_path
from coinspace.clock import SECOND_NS
from coinspace.config import JournalSettings, Settings
from coinspace.observe.doctor import _journals

SIZE = 1 << 16
NAME = "orderbook-collector-binance"


def write(folder: Path, n: int, every_s: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        # not closed: the segment keeps its size, as a full one does
        Segment(segment_path(folder, 1, i + 1), 1, i + 1, SIZE, (1000 + i * every_s) * SECOND_NS)


def test_the_rate_of_the_newest_segments_counts(tmp_path: Path) -> None:
    assert horizon_s(tmp_path / "none", 1 << 30) is None
    write(tmp_path, 1, 10)
    assert horizon_s(tmp_path, 1 << 30) is None
    write(tmp_path, 5, 10)
    # a segment in ten seconds, and room for a hundred
    assert horizon_s(tmp_path, 100 * SIZE) == 1000
    (tmp_path / f"{9:020}-{1:08}.journal").write_bytes(b"damaged")
    assert horizon_s(tmp_path, 100 * SIZE) == 1000


def test_a_journal_that_was_just_begun_has_no_rate(tmp_path: Path) -> None:
    # the first segment and the reserved one are made at once
    write(tmp_path, 2, 0)
    assert horizon_s(tmp_path, 1 << 30) is None
    Segment(segment_path(tmp_path, 1, 3), 1, 3, SIZE, 1010 * SECOND_NS)
    # the first was full after ten seconds
    assert horizon_s(tmp_path, 100 * SIZE) == 1000


def test_doctor_warns_of_a_journal_that_is_too_short(tmp_path: Path) -> None:
    journal = JournalSettings(segment_bytes=SIZE, max_bytes=32 * SIZE, max_age_s=300)
    settings = Settings(data=tmp_path, journal=journal)
    write(journal_folder(settings, NAME), 5, 10)
    (finding,) = _journals(settings)
    assert (finding.subject, finding.level) == ("journal", "ok")
    settings.journal.max_age_s = 321
    (finding,) = _journals(settings)
    assert finding.level == "advice"
    assert NAME in finding.text
    assert "journal.max_bytes" in finding.text
