"""nautilus_trader: its Binance adapter's own decoder, schema and book."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from nautilus_trader.adapters.binance.common.schemas.market import BinanceOrderBookMsg
from nautilus_trader.model.book import OrderBook
from nautilus_trader.model.enums import BookType
from nautilus_trader.model.identifiers import InstrumentId


def binance_diffs(frames: list[bytes]) -> tuple[Callable[[], None], OrderBook]:
    """Return a pass: decode, make deltas, apply them to a price-level book."""
    instrument = InstrumentId.from_str("BTCUSDT.BINANCE")
    decoder = msgspec.json.Decoder(BinanceOrderBookMsg)
    book = OrderBook(instrument, BookType.L2_MBP)

    def run() -> None:
        for frame in frames:
            message = decoder.decode(frame)
            book.apply_deltas(message.data.parse_to_order_book_deltas(instrument, 1))

    return run, book
