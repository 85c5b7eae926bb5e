"""The section of an exchange in the configuration. The exchange's module has its defaults."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator, model_validator

from coinspace.config_sources import STRICT, Names, UserPath
from coinspace.errors import MarketError
from coinspace.market import Market, as_named


class ExchangeSettings(BaseModel):
    """Addresses of one exchange and what to collect."""

    model_config = STRICT

    websocket: str
    rest: str
    markets: list[str]
    depth: Annotated[
        int,
        Field(
            ge=1,
            le=5000,
            description="published levels per side; 500 levels of Binance reach as far as 15 to 30"
            " of the Korean exchanges; 1000 levels double the journal",
        ),
    ] = 30
    snapshot_depth: Annotated[
        int,
        Field(
            ge=0,
            le=5000,
            description="levels of a REST snapshot (exchanges that send updates), 100 or more;"
            " 0 = the next step from ten times the depth on",
        ),
    ] = 0
    record: Annotated[bool, Field(description="archive raw frames below data/archive")] = False
    format: Annotated[
        Literal["SIMPLE", "DEFAULT", "SIMPLE_LIST", "JSON_LIST", "sbe"],
        Field(
            description="format of Upbit's and Bithumb's frames; only Upbit has the lists. sbe ="
            " Binance's binary streams, books every 20 ms; they need api_key"
        ),
    ] = "SIMPLE"
    api_key: Annotated[
        SecretStr,
        Field(description="Ed25519 key without permissions, for format sbe; a secret"),
    ] = SecretStr("")
    sbe_websocket: Annotated[
        str,
        Field(
            description="address of the binary streams; empty = Binance's, or /sbe below"
            " websocket where that is not Binance's"
        ),
    ] = ""
    microseconds: Annotated[bool, Field(description="ask Binance for times in µs")] = True
    correct_touch: Annotated[
        bool,
        Field(
            description="give published books newer best prices between two updates; messages have"
            " a flag"
        ),
    ] = False
    links: Annotated[
        int,
        Field(
            ge=1,
            le=2,
            description="connections that deliver the same for good; 2 = each update is taken from"
            " the one that brings it first",
        ),
    ] = 1
    group_reach: Annotated[
        float,
        Field(
            ge=0,
            le=0.1,
            description="share of the price that a second book, of price groups, is to reach for"
            " the assets of the index, where the exchange has groups; 0 = no second book",
        ),
    ] = 0.0
    group_levels: Annotated[
        dict[str, Annotated[float, Field(ge=0, le=1e9)]],
        Names(as_named),
        Field(
            description="market -> the exchange's level of its price groups, in place of the"
            " finest one that reaches far enough; 0 = none"
        ),
    ] = {}
    stale_after_s: Annotated[
        float, Field(gt=4, le=3600, description="seconds of silence until a book is stale")
    ] = 20.0
    compare_interval_s: Annotated[
        float, Field(ge=5, le=86_400, description="seconds between REST comparisons of all books")
    ] = 60.0
    ca_file: Annotated[
        UserPath | None, Field(description="PEM file of the only certificate authorities to trust")
    ] = None

    @field_validator("websocket", "sbe_websocket", "rest")
    @classmethod
    def _address(cls, text: str, info: ValidationInfo) -> str:
        # libraries would show a malformed address, and with it a login, in their errors
        schemes = ("http", "https") if info.field_name == "rest" else ("ws", "wss")
        if not text and info.field_name == "sbe_websocket":
            return text
        try:
            parts = urlsplit(text)
            good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or parts.fragment or "@" in parts.path + parts.query or not text.isprintable():
            raise ValueError(
                f"expected {schemes[0]}:// or {schemes[1]}:// and a host, no fragment, and"
                " in a password %2F for a slash and %40 for an at sign"
            )
        return text

    @field_validator("api_key")
    @classmethod
    def _api_key(cls, key: SecretStr) -> SecretStr:
        # it becomes a header of the handshake
        text = key.get_secret_value().strip()
        if not re.fullmatch(r"[!-~]{0,512}", text):
            raise ValueError("expected at most 512 characters without spaces")
        return SecretStr(text)

    @model_validator(mode="after")
    def _secret_way(self) -> ExchangeSettings:
        way = urlsplit(self.sbe_websocket or self.websocket)
        if self.api_key.get_secret_value() and way.scheme == "ws" and not _is_own(way.hostname):
            raise ValueError("api_key: expected an address with wss://, as ws:// shows the key")
        return self

    @field_validator("snapshot_depth")
    @classmethod
    def _snapshot_depth(cls, levels: int) -> int:
        # fewer levels cost the same weight
        if 0 < levels < 100:
            raise ValueError(f"expected 0 or at least 100, was {levels}")
        return levels

    @field_validator("markets")
    @classmethod
    def _markets(cls, markets: list[str]) -> list[str]:
        return [_market(one) for one in markets]

    @field_validator("group_levels")
    @classmethod
    def _group_levels(cls, levels: dict[str, float]) -> dict[str, float]:
        return {_market(market): level for market, level in levels.items()}


def _is_own(host: str | None) -> bool:
    # whether a host is this machine
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def _market(text: str) -> str:
    # a market or a pattern, in upper or lower case
    text = as_named(text.strip())
    if "*" not in text:
        try:
            Market.parse(text)
        except MarketError as error:
            raise ValueError(str(error)) from None
    return text
