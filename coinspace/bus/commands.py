"""`coinspace journal`: list, print and verify the publishers' journals."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from coinspace._ext.message import GROUPED, REPEAT, Message
from coinspace._ext.segment import SEGMENT_HEAD_SIZE, messages
from coinspace.bus.segments import SegmentFile, segment_paths
from coinspace.config import config_option, load
from coinspace.errors import JournalError
from coinspace.instant import shown
from coinspace.text import json_line, printable

PRINTED_KINDS = ("state", "index")


@click.group()
def journal() -> None:
    """List, print and verify journals."""


process_argument = click.argument("process", required=False)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout")


def _folders(config_path: str | None, process: str | None) -> list[Path]:
    """Return the folders of the journals to read. Raises: JournalError when there is none."""
    root = load(config_path).data / "journal"
    if process:
        chosen = Path(process) if "/" in process else root / process
        if not chosen.is_dir():
            raise JournalError(f"{chosen}: expected a journal folder, found none")
        return [chosen]
    found = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not any(segment_paths(folder) for folder in found):
        raise JournalError(f"{root}: expected a journal, found none; start a publisher")
    return found


@journal.command()
@process_argument
@config_option
@json_option
def ls(process: str | None, config_path: str | None, as_json: bool) -> None:
    """List the ranges in journals by process, epoch and topic. PROCESS: a name or a folder."""
    for folder in _folders(config_path, process):
        rows: dict[tuple[int, bytes], dict[str, Any]] = {}
        for path in segment_paths(folder):
            file = _open(path)
            if file is None:
                continue
            for run in file.runs:
                row = rows.setdefault(
                    (file.epoch, run.topic),
                    {
                        "process": folder.name,
                        "epoch": file.epoch,
                        "topic": run.topic.decode(errors="replace"),
                        "ranges": [],
                        "first_ns": run.started_ns,
                    },
                )
                ranges = row["ranges"]
                if ranges and ranges[-1][1] == run.first:
                    ranges[-1][1] = run.last + 1
                else:
                    ranges.append([run.first, run.last + 1])
                row["last_ns"] = run.ended_ns
        for row in rows.values():
            row["messages"] = sum(end - first for first, end in row["ranges"])
            if as_json:
                click.echo(json_line(row))
            else:
                ranges = ", ".join(f"{first}-{end - 1}" for first, end in row["ranges"])
                click.echo(
                    f"{printable(row['process']):<28} {row['epoch']} {printable(row['topic']):<30}"
                    f" {row['messages']:>10} {ranges:<24}"
                    f" {shown(row['first_ns'])} - {shown(row['last_ns'])}"
                )


@journal.command()
@process_argument
@config_option
@click.option("--topic", default="", help="prefix of the topics to print")
@click.option("--epoch", type=int, default=None, help="only this epoch")
@click.option("--first", type=int, default=1, help="first sequence")
@click.option("--end", type=int, default=None, help="sequence to stop before")
@click.option("--limit", type=click.IntRange(min=1), default=None, help="messages at most")
@json_option
def cat(
    process: str | None,
    config_path: str | None,
    topic: str,
    epoch: int | None,
    first: int,
    end: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print messages, oldest first; --json adds the payload. PROCESS: a name or a folder."""
    if end is not None and end <= first:
        raise JournalError(f"--first and --end: expected first before end, was {first} and {end}")
    left = limit
    printed = 0
    for folder in _folders(config_path, process):
        for message in _read(folder, epoch):
            if not message.topic.startswith(topic.encode()) or message.sequence < first:
                continue
            if end is not None and message.sequence >= end:
                continue
            click.echo(json_line(_facts(message)) if as_json else _line(message))
            printed += 1
            if left is not None:
                left -= 1
                if not left:
                    return
    if not printed:
        raise JournalError("journal cat: found no message of this topic, epoch and range")


@journal.command()
@process_argument
@config_option
@json_option
def verify(process: str | None, config_path: str | None, as_json: bool) -> None:
    """Check the checksum and sequence of every record; exit code 1 when a journal is damaged."""
    damaged = False
    for folder in _folders(config_path, process):
        last: dict[tuple[int, bytes], int] = {}
        for path in segment_paths(folder):
            row: dict[str, Any] = {"segment": str(path), "records": 0, "bytes": 0}
            problems: list[str] = []
            try:
                file = SegmentFile(path)
                file.refresh()
                row |= {"epoch": file.epoch, "number": file.number}
                row |= {"records": file.index.records, "bytes": file.index.end}
                if file.index.torn:
                    problems.append(f"bytes after {file.index.end} are not a whole record")
                for run in file.runs:
                    before = last.get((file.epoch, run.topic))
                    if before is not None and run.first != before + 1:
                        topic = run.topic.decode(errors="replace")
                        problems.append(f"{topic}: expected sequence {before + 1}, was {run.first}")
                    last[(file.epoch, run.topic)] = run.last
            except JournalError as error:
                problems.append(str(error))
            row["problems"] = problems
            damaged = damaged or bool(problems)
            if as_json:
                click.echo(json_line(row))
            else:
                state = printable("; ".join(problems)) or "ok"
                click.echo(
                    f"{printable(path)} {row['records']} records {row['bytes']} bytes: {state}"
                )
    if damaged:
        sys.exit(1)


def _open(path: Path) -> SegmentFile | None:
    try:
        file = SegmentFile(path)
        file.refresh()
    except FileNotFoundError:
        return None
    except JournalError as error:
        click.echo(f"coinspace: {printable(error)}", err=True)
        return None
    return file


def _read(folder: Path, epoch: int | None) -> Iterator[Message]:
    for path in segment_paths(folder):
        file = _open(path)
        if file is None or epoch not in (None, file.epoch):
            continue
        yield from messages(file.read(SEGMENT_HEAD_SIZE, file.index.end - SEGMENT_HEAD_SIZE))


def _line(message: Message) -> str:
    text = (
        f"{shown(message.published_ns)} {printable(message.topic.decode(errors='replace'))}"
        f" {message.epoch} {message.sequence}"
    )
    if message.kind_name == "orderbook":
        repeat = " repeat" if message.flags & REPEAT else ""
        text += f" bids={message.n_bids} asks={message.n_asks}{repeat}"
    elif message.kind_name in PRINTED_KINDS:
        text += f" {printable(bytes(message.payload).decode(errors='replace'))}"
    return text


def _facts(message: Message) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "topic": message.topic.decode(errors="replace"),
        "kind": message.kind_name,
        "flags": message.flags,
        "epoch": message.epoch,
        "sequence": message.sequence,
        "exchange_ns": message.exchange_ns or None,
        "received_ns": message.received_ns or None,
        "published_ns": message.published_ns,
        "id": None if message.flags & GROUPED else message.id or None,
    }
    if message.kind_name == "orderbook":
        facts["bids"] = message.bids.T.tolist()
        facts["asks"] = message.asks.T.tolist()
    elif message.kind_name in ("ticker", "trade"):
        facts["values"] = message.values.tolist()
    elif message.kind_name in PRINTED_KINDS:
        facts["payload"] = message.json()
    else:
        facts["payload_bytes"] = len(message.payload)
    return facts
