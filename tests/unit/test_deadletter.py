"""Refused rows on disk: bounded, and the newest are always kept."""

from pathlib import Path

import pytest

from coinspace.storage import deadletter


def test_a_full_file_makes_room_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadletter, "FILE_BYTES", 1000)
    letters = tmp_path / "letters" / "worker.jsonl"
    for number in range(100):
        deadletter.add(letters, "trade", "no such column", number, b"trade size=1")
    kept = [entry["key"] for entry in deadletter.read(letters)]
    assert kept == list(range(kept[0], 100))
    assert sum(path.stat().st_size for path in letters.parent.iterdir()) < 2 * 1200


def test_a_torn_line_hides_no_other(tmp_path: Path) -> None:
    letters = tmp_path / "worker.jsonl"
    deadletter.add(letters, "trade", "refused", 1, b"trade size=1")
    with letters.open("ab") as file:
        file.write(b'{"at_ns": 17\n')
    deadletter.add(letters, "trade", "refused", 2, b"trade size=\xff")
    found = list(deadletter.read(letters))
    assert [(entry["key"], entry["ilp"]) for entry in found] == [
        (1, b"trade size=1"),
        (2, b"trade size=\xff"),
    ]
