from collections.abc import Mapping

from coinspace._ext.parser import Parser

class BinanceParser(Parser):
    def __init__(self, capacity: int = ..., markets: Mapping[str, str] | None = None) -> None: ...
