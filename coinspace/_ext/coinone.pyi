from typing import Any

from coinspace._ext.parser import Parser

class CoinoneParser(Parser):
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
