from typing import Final

from coinspace._ext.binance import BinanceParser

REFUSALS: Final[tuple[str, ...]]

class BinanceSbeParser(BinanceParser): ...
