"""Text from outside on a terminal and in logs: printable, visible and bounded."""

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from coinspace import query
from coinspace.cli import coinspace
from coinspace.client import ApiError, Rows
from coinspace.client.answers import Gap
from coinspace.clock import now_ns
from coinspace.config import load
from coinspace.health_file import health_path
from coinspace.log import configure_logging
from coinspace.query import render
from coinspace.recording.format import FeedWriter
from coinspace.storage import commands
from coinspace.storage.reconcile import Line, Report
from coinspace.text import (
    LIMIT,
    PrintableFormatter,
    cell,
    json_line,
    printable,
    printable_lines,
)

HOSTILE = "a\x1b[31m\n[red]b[/]\r\u202e\u2066\x00\x9b2J\ufeff\u2028"
# forbidden output: C0 except the line feed that ends lines, C1, marks of direction
ACTIVE = {chr(code) for code in (*range(32), 127, *range(0x80, 0xA0)) if code != 10} | set(
    "\u202e\u2066\ufeff\u2028"
)


@given(st.text())
def test_a_printed_text_is_one_printable_line(text: str) -> None:
    shown = printable(text, 40)
    assert shown.isprintable()
    assert len(shown) < 40 * 10 + 40
    if text.isprintable() and len(text) <= 40:
        assert shown == text


def test_a_megabyte_is_cut_with_its_length() -> None:
    assert printable("한" * (1 << 20)) == "한" * LIMIT + "… (1,048,576 characters)"
    assert len(printable_lines("x\n" * (1 << 20))) < 2000


def test_a_cell_takes_brackets_as_they_are() -> None:
    console = Console(file=(out := io.StringIO()), width=200, color_system=None)
    table = Table()
    table.add_row(cell(HOSTILE), cell("[/nothing]"), cell("\\[x"))
    console.print(table)
    assert "[red]b[/]" in out.getvalue()
    assert "[/nothing]" in out.getvalue()
    assert not set(out.getvalue()) & ACTIVE


def test_an_answer_is_shown_as_text() -> None:
    shown = render({"note": HOSTILE, "rows": [{"na[red]me": HOSTILE}], HOSTILE: 1, "gaps": []})
    assert not set(shown) & ACTIVE
    assert "[red]b[/]" in shown
    assert re.search("^gaps +none$", shown, re.MULTILINE)


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_gets_escaped_rows(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"asset,reason\nBTC,{HOSTILE} 한국\n"
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(out, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", out)
    # a character may be cut between two parts
    query._write("-", [bytes([one]) for one in text.encode()])
    shown = out.buffer.getvalue().decode()
    assert bool(set(shown) & ACTIVE) is not terminal
    assert shown.endswith(" 한국\n")


def test_a_terminal_gets_its_own_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors="replace")
    monkeypatch.setattr(out, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", out)
    query._write("-", ["é 한\n".encode()])
    assert out.buffer.getvalue() == b"\xe9 ?\n"


def test_the_client_shows_answers_and_errors_as_text() -> None:
    shown = repr(Rows([Gap({"kind": HOSTILE, "status": "open"})]))
    error = ApiError(400, {"type": "a:b", "detail": HOSTILE}, None, "/v1/gaps")
    assert not set(shown) & ACTIVE
    assert not set(str(error)) & ACTIVE
    assert error.detail == HOSTILE


def test_a_reconciled_topic_is_shown_as_text(capfd: pytest.CaptureFixture[str]) -> None:
    report = Report(0, 1)
    report.lines.append(Line(HOSTILE, HOSTILE, 0))
    report.unexplained.append((HOSTILE, HOSTILE, 1, 1))
    commands._print_report(report)
    shown = capfd.readouterr()
    assert not set(shown.out + shown.err) & ACTIVE


@pytest.mark.parametrize(
    "value",
    [{"a": HOSTILE, "한국": "🪙"}, "\ud800", 1 << 70, "\x7f\U000e0001"],
    ids=["hostile", "lone surrogate", "large", "beyond 16 bits"],
)
@pytest.mark.parametrize("option", [0, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE])
def test_json_on_a_terminal_is_the_same_json(value: Any, option: int) -> None:
    shown = json_line(value, option).decode()
    assert not set(shown) & (ACTIVE | {"\U000e0001"})
    assert json.loads(shown) == value
    assert shown.endswith("\n") == bool(option)
    if isinstance(value, dict):
        assert '"한국":"🪙"' in shown.replace(" ", "")


@pytest.mark.parametrize(
    "command",
    [["status"], ["top", "--once", "--interval", "0.01", "--all"], ["status", "--json"]],
    ids=" ".join,
)
def test_the_state_of_a_process_is_shown_as_text(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    path = health_path(load(), "index-calculator")
    path.parent.mkdir(parents=True)
    health = {"process": "x", "pid": 1, "started_ns": now_ns(), "updated_ns": now_ns()}
    health |= {"state": "degraded", "reason": HOSTILE, "counters": {f"c{HOSTILE}": 1}}
    path.write_bytes(orjson.dumps(health))
    result = CliRunner().invoke(coinspace, command)
    assert "degraded" in result.output
    assert not set(result.output) & ACTIVE


def test_the_names_in_a_recording_are_shown_as_text(tmp_path: Path) -> None:
    path = tmp_path / "x.feed.zst"
    with FeedWriter(path, {"exchange": "upbit", "url": HOSTILE}) as writer:
        writer.write(1, "!", "", orjson.dumps({"mark": HOSTILE}))
        writer.write(2, "<", "", f'{{"ty":"{HOSTILE}","cd":"{HOSTILE}"}}'.encode())
    for command in (["info"], ["verify"], ["info", "--json"], ["verify", "--json"]):
        result = CliRunner().invoke(coinspace, ["feed", *command, str(path)])
        assert result.output
        assert not set(result.output) & ACTIVE


def test_decoded_frames_are_shown_as_text(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    path.write_bytes(f'{{"error":{{"name":"{HOSTILE[-4:]}","message":"\u202e\x9b"}}}}\n'.encode())
    found = subprocess.run(
        [sys.executable, "-m", "coinspace", "decode", "upbit", str(path)],
        capture_output=True,
        check=True,
    )
    assert "u202e" in found.stdout.decode()
    assert not set(found.stdout.decode()) & ACTIVE


@pytest.mark.parametrize("terminal", [True, False])
def test_a_log_line_is_one_line(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", out)
    configure_logging()
    log = structlog.get_logger("x")
    log.warning(HOSTILE, reason=HOSTILE, many=[HOSTILE], long="x" * (1 << 20))
    (line, _) = out.getvalue().split("\n")
    # a terminal gets our colours
    assert "[31m" not in line.replace("\\x1b[31m", "")
    assert len(line) < 20_000
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed")
    assert "\u202e" not in out.getvalue()
    structlog.reset_defaults()


def test_lines_of_libraries_are_printable_too() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 1, HOSTILE, None, None)
    assert not set(PrintableFormatter(logging.BASIC_FORMAT).format(record)) & ACTIVE
