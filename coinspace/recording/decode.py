"""`coinspace decode`: raw frames or recordings in, one JSON line per message out.

Input: frames one a line, or feed files (compressed or not; told by their first bytes), of which
the received frames are taken. Works in chunks as they arrive, so that it can stand behind a live
pipe and memory stays bounded by the longest line.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import click
import orjson

from coinspace._ext.parser import Parser
from coinspace.config import config_option, load
from coinspace.errors import FeedError
from coinspace.exchanges import exchange as exchange_named
from coinspace.market import as_named
from coinspace.options import EXCHANGE
from coinspace.recording.format import MAGIC, decode_line
from coinspace.recording.lines import Inflated, Lines

# more levels per side than any frame holds in practice; beyond it they are dropped and counted
CAPACITY = 1 << 16


def frames(lines: Iterable[list[bytes]], exchange: str) -> Iterator[list[bytes]]:
    """Yield the frames of lines: of a feed the received ones, otherwise every line is one.

    Raises: FeedError for a feed of another exchange.
    """
    is_feed: bool | None = None
    for batch in lines:
        if is_feed is None:
            is_feed = batch[0].startswith(MAGIC)
            if is_feed and b'"exchange":"%s"' % exchange.encode() not in batch[0].replace(
                b" ", b""
            ):
                raise FeedError(f"expected a feed of {exchange}, was {batch[0][:80]!r}")
        yield list(_received(batch)) if is_feed else batch


def _received(lines: list[bytes]) -> Iterator[bytes]:
    # `<time> < <frame>`; sent frames, REST answers, marks and headers are no frames of the socket
    for line in lines:
        record = line.split(b" ", 2)
        if len(record) != 3:
            continue
        if record[1] == b"<":
            yield record[2]
        elif record[1] == b"<64":
            yield decode_line(line).payload


class Decoder:
    """Frames to lines, with counts of what came out."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser
        self.frames = 0
        self.kinds: Counter[str] = Counter()

    def lines(self, batch: list[bytes]) -> bytes:
        """Return the JSON lines of a batch of frames."""
        decode, dumps, append = self.parser.decode, orjson.dumps, orjson.OPT_APPEND_NEWLINE
        self.frames += len(batch)
        out = []
        for frame in batch:
            for message in decode(frame):
                self.kinds[message["kind"]] += 1
                out.append(dumps(message, option=append))
        return b"".join(out)

    def summary(self) -> str:
        """Return one line of counts."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.kinds.items()))
        counts = f"{self.frames} frames: {kinds or 'nothing'}"
        malformed = self.parser.malformed
        return f"{counts}; {malformed} malformed, {self.parser.levels_dropped} levels dropped"


def _write_all(
    decoder: Decoder, exchange: str, source: BinaryIO, write: Callable[[bytes], int]
) -> None:
    stream = Inflated(source)
    lines = Lines(stream)
    # the last line needs no line feed
    for batch in frames(chain(lines, _last(lines)), exchange):
        view = memoryview(decoder.lines(batch))
        while view:
            view = view[write(view) :]  # type: ignore[arg-type]
    if stream.torn:
        print(
            "coinspace: the end of the input is cut; what came before is decoded", file=sys.stderr
        )


def _last(lines: Lines) -> Iterator[list[bytes]]:
    if lines.rest:
        yield [lines.rest]


@click.command()
@click.argument("exchange", type=EXCHANGE)
@click.argument("feeds", nargs=-1, type=click.Path(path_type=Path), metavar="[FEED]...")
@config_option
@click.option(
    "--markets",
    multiple=True,
    help="markets that name symbols such as BTCUSDT (BTC/USDT,ETH/USDT) instead of the configured"
    " ones",
)
def decode(
    exchange: str, feeds: tuple[Path, ...], config_path: str | None, markets: tuple[str, ...]
) -> None:
    """Print the messages of raw frames, one JSON line each.

    Reads frames one a line from standard input, or the received frames of each FEED
    ("-" = standard input). Malformed frames give a line of their own and are counted on
    standard error; the exit code is 0.
    """
    named = [
        as_named(text.strip()) for option in markets for text in option.split(",") if text.strip()
    ]
    spoken = exchange_named(exchange)
    if (spoken.NAMED_SYMBOLS and not named) or config_path:
        configured = load(config_path).exchanges[exchange].markets
        named = named or configured
    decoder = Decoder(spoken.parser(CAPACITY, named))
    stdout = sys.stdout.fileno()
    try:
        for feed in feeds or (Path("-"),):
            with ExitStack() as stack:
                source: BinaryIO = sys.stdin.buffer
                if str(feed) != "-":
                    try:
                        source = stack.enter_context(feed.open("rb"))
                    except OSError as error:
                        text = f"feed {feed}: expected a readable file, {error.strerror}"
                        raise FeedError(text) from None
                _write_all(decoder, exchange, source, lambda data: os.write(stdout, data))
    except BrokenPipeError:
        # whoever read has seen enough, as `head` does; nothing else must be written there
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    finally:
        if decoder.frames:
            print(decoder.summary(), file=sys.stderr)
    if not decoder.frames:
        raise FeedError("decode: expected frames, one a line, or feeds; was nothing")
