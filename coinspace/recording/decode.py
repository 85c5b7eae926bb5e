"""`coinspace decode`: reads raw frames or recordings and prints one JSON line per message.

Input: one frame per line, or feed files, compressed or not, which the first bytes identify. A line
of a binary frame is hexadecimal or base64, or JSON with only the field "hex". From a
feed only received frames are decoded. Input is read in chunks as it arrives, so it can be a live
pipe, and the longest line bounds the memory.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

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
from coinspace.text import safe_json

# levels per side, more than any real frame has; further levels are dropped and counted
CAPACITY = 1 << 16
# a binary frame as text; no JSON text has only these characters and the length of a header
CODED = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
NAMED_HEX = re.compile(rb'\s*\{\s*"hex"\s*:\s*"([0-9A-Fa-f]+)"\s*\}\s*')
HEAD = 11


def frames(lines: Iterable[list[bytes]], exchange: str) -> Iterator[list[bytes]]:
    """Yield the frames: the received frames of a feed, or else every line.

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
        yield list(_received(batch) if is_feed else map(plain_frame, batch))


def plain_frame(line: bytes) -> bytes:
    """Return the frame of a line: the bytes of a binary one, or the line itself."""
    named = NAMED_HEX.fullmatch(line)
    text = named[1] if named else line.strip()
    if len(text) < HEAD or not CODED.fullmatch(text):
        return line
    try:
        return bytes.fromhex(text.decode())
    except ValueError:
        pass
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return line


def _received(lines: list[bytes]) -> Iterator[bytes]:
    # `<time> < <frame>`; sent frames, REST answers, marks and headers are not received frames
    for line in lines:
        record = line.split(b" ", 2)
        if len(record) != 3:
            continue
        if record[1] == b"<":
            yield record[2]
        elif record[1] == b"<64":
            yield decode_line(line).payload


class Decoder:
    """Decodes frames to JSON lines and counts messages by kind."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser
        self.frames = 0
        self.kinds: Counter[str] = Counter()

    def lines(self, batch: list[bytes]) -> bytes:
        """Return the JSON lines of a batch of frames."""
        decode = self.parser.decode
        self.frames += len(batch)
        out = []
        for frame in batch:
            for message in decode(frame):
                self.kinds[message["kind"]] += 1
                out.append(_line(message))
        return safe_json(b"".join(out))

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
    for batch in frames(Lines(stream, whole=True), exchange):
        view = memoryview(decoder.lines(batch))
        while view:
            view = view[write(view) :]  # type: ignore[arg-type]
    if stream.torn:
        print(
            "coinspace: the end of the input is cut; everything before it is decoded",
            file=sys.stderr,
        )


@click.command()
@click.argument("exchange", type=EXCHANGE)
@click.argument("feeds", nargs=-1, type=click.Path(path_type=Path), metavar="[FEED]...")
@config_option
@click.option(
    "--markets",
    multiple=True,
    help="markets (BTC/USDT,ETH/USDT) for symbols such as BTCUSDT, instead of the configured"
    " markets",
)
def decode(
    exchange: str, feeds: tuple[Path, ...], config_path: str | None, markets: tuple[str, ...]
) -> None:
    """Print the messages of raw frames, one JSON line each.

    Reads one frame per line from standard input, or the received frames of each FEED
    ("-" = standard input). Each malformed frame also gives a line. Standard error has their count;
    the exit code is 0.
    """
    named = [
        as_named(text.strip()) for option in markets for text in option.split(",") if text.strip()
    ]
    module = exchange_named(exchange)
    if (module.NAMED_SYMBOLS and not named) or config_path:
        configured = load(config_path).exchanges[exchange].markets
        named = named or configured
    decoder = Decoder(module.parser(CAPACITY, named))
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
        # the reader closed the pipe, as `head` does: write nothing more to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    finally:
        if decoder.frames:
            print(decoder.summary(), file=sys.stderr)
    if not decoder.frames:
        raise FeedError("decode: expected one frame per line, or feeds; found no frame")


def _line(message: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # JSON is read to a depth of 1024, and written to one of 254
        detail = "nested too deep to be shown"
        return orjson.dumps({**message, "detail": detail}, option=orjson.OPT_APPEND_NEWLINE)
