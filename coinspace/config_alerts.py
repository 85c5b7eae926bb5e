"""The section `alerts` of the configuration: what is watched, and where alerts are sent."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from coinspace.config_sources import STRICT, Names, UserPath
from coinspace.market import as_named, exchange_as_named

Kind = Literal["premium", "venue", "index", "gap", "storage", "disk", "process"]
# what a rule compares with a level; a premium rule needs exactly one of these
LEVELS = ("over", "under", "over_percentile", "under_percentile")
# kind of rule -> its keys, besides those that every rule has
KEYS: dict[Kind, tuple[str, ...]] = {
    "premium": ("assets", "basis", *LEVELS, "window", "hysteresis"),
    "venue": ("venues",),
    "index": ("assets",),
    "gap": (),
    "storage": ("behind_s",),
    "disk": ("free_mb", "hysteresis"),
    "process": ("processes",),
}
COMMON = ("kind", "for_s", "targets")
# kind of rule -> `for_s` where the rule has none
FOR_S: dict[Kind, float] = {
    "premium": 10,
    "venue": 30,
    "index": 30,
    "gap": 60,
    "storage": 10,
    "disk": 10,
    "process": 60,
}
TELEGRAM = "https://api.telegram.org"
# a name stands in messages and in the names of environment variables
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$"

Number = Annotated[float, Field(allow_inf_nan=False)]
# +-100 %: a larger number is one in percent
Fraction = Annotated[float, Field(allow_inf_nan=False)]
Percentile = Annotated[float, Field(gt=0, lt=100, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=604_800, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=NAME)]


class AlertRule(BaseModel):
    """One rule; each asset, venue or process that it watches has an alert of its own."""

    model_config = STRICT

    kind: Kind
    """premium, venue (not synced), index (no value), gap, storage (behind), disk, process"""
    assets: list[str] = ["*"]
    """premium, index: names and patterns"""
    basis: Literal["coin", "fiat"] = "coin"
    """premium: against USDT (coin), or against US dollars (fiat)"""
    over: Fraction | None = None
    """premium: a fraction, 0.05 = 5 %"""
    under: Fraction | None = None
    over_percentile: Percentile | None = None
    """premium: of the minutes of the window"""
    under_percentile: Percentile | None = None
    window: Literal["1h", "24h", "7d", "30d", "90d"] = "24h"
    hysteresis: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """how far back the value must go before the alert ends: a fraction, percentiles or MB"""
    for_s: Seconds | None = None
    """seconds until the alert begins; unset: 10 to 60, by kind"""
    venues: list[str] = ["*"]
    """venue: EXCHANGE:BASE/QUOTE, * for any part"""
    processes: list[str] = ["*"]
    """process: names and patterns"""
    behind_s: Annotated[Number | None, Field(gt=0)] = None
    """storage: age of the oldest row that is not stored; unset: 30"""
    free_mb: Annotated[int | None, Field(gt=0)] = None
    """disk: unset: storage.disk_low_mb"""
    targets: list[str] = ["*"]
    """names of targets, * = all; the log has every alert"""

    @field_validator("assets", "venues", "processes", "targets", mode="before")
    @classmethod
    def _one(cls, given: object) -> object:
        return [given] if isinstance(given, str) else given

    @field_validator("assets")
    @classmethod
    def _assets(cls, assets: list[str]) -> list[str]:
        return [as_named(one.strip()) for one in assets]

    @field_validator("venues")
    @classmethod
    def _venues(cls, venues: list[str]) -> list[str]:
        parts = [one.strip().partition(":") for one in venues]
        return [
            f"{exchange_as_named(exchange)}{colon}{as_named(market)}"
            for exchange, colon, market in parts
        ]

    @field_validator("over", "under")
    @classmethod
    def _fraction(cls, level: float | None) -> float | None:
        if level is not None and abs(level) >= 1:
            raise ValueError(
                f"expected a fraction between -1 and 1, such as 0.05 for 5 %, was {level:g}"
            )
        return level

    @model_validator(mode="after")
    def _fits(self) -> AlertRule:
        known = (*COMMON, *KEYS[self.kind])
        for name in sorted(self.model_fields_set):
            if name not in known:
                raise ValueError(
                    f"expected keys of a rule of kind {self.kind}, {', '.join(known)}; was {name}"
                )
        if self.kind == "premium":
            self._check_level()
        return self

    def _check_level(self) -> None:
        given = [name for name in LEVELS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of {', '.join(LEVELS)}, was {' and '.join(given) or 'none'}"
            )
        (name,) = given
        level: float = getattr(self, name)
        # of a percentile: to the end of the scale at which the alert would never end
        room = 100 - level if name == "under_percentile" else abs(level)
        if self.hysteresis > room > 0:
            raise ValueError(
                f"hysteresis: expected at most {room:g}, since {name} is {level:g},"
                f" was {self.hysteresis:g}"
            )

    @property
    def level_name(self) -> str:
        """The name of a premium rule's level."""
        return next(name for name in LEVELS if getattr(self, name) is not None)

    @property
    def by_percentile(self) -> bool:
        """Whether a premium rule compares percentiles."""
        return self.level_name.endswith("percentile")

    @property
    def is_over(self) -> bool:
        """Whether a premium rule's alert begins above its level."""
        return self.level_name.startswith("over")

    @property
    def level(self) -> float:
        """A premium rule's level."""
        return float(getattr(self, self.level_name))

    @property
    def delay_s(self) -> float:
        """Seconds for which the condition holds before the alert begins."""
        return FOR_S[self.kind] if self.for_s is None else self.for_s


class AlertTarget(BaseModel):
    """Where alerts are sent. Addresses and tokens are secrets: no output shows them."""

    model_config = STRICT

    form: Literal["webhook", "telegram", "slack"] = "webhook"
    """webhook: JSON with every fact; telegram: a bot's message; slack: an incoming webhook"""
    url: SecretStr = SecretStr("")
    """better in COINSPACE_ALERTS__TARGETS__NAME__URL or url_file; telegram needs none"""
    url_file: UserPath | None = None
    """file with the address alone"""
    token: SecretStr = SecretStr("")
    """telegram: the bot's token; webhook: sent as Authorization: Bearer"""
    token_file: UserPath | None = None
    """file with the token alone"""
    chat: str = ""
    """telegram: chat_id, a number or @channel"""

    @model_validator(mode="after")
    def _fits(self) -> AlertTarget:
        for name in ("url", "token"):
            if getattr(self, name).get_secret_value() and getattr(self, f"{name}_file"):
                raise ValueError(f"expected {name} or {name}_file, was both")
        if self.form == "telegram" and not self.chat.strip():
            raise ValueError("chat: expected the chat_id of the telegram chat, was none")
        if self.form == "slack" and (self.token.get_secret_value() or self.token_file):
            raise ValueError("token: expected none, since the address of a slack webhook has it")
        return self


class AlertSettings(BaseModel):
    """Alerts: nothing is sent without a rule."""

    model_config = STRICT

    rules: dict[Name, AlertRule] = {}
    """name -> rule"""
    targets: Annotated[dict[Name, AlertTarget], Names(str.lower), Field(max_length=20)] = {}
    """name -> target"""
    group_s: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 3.0
    """alerts within this time share one message"""
    interval_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 60.0
    """shortest time between two messages about the same alert; what happens meanwhile is counted"""
    timeout_s: Annotated[float, Field(gt=0, le=15, allow_inf_nan=False)] = 10.0
    """of one attempt to deliver"""
    give_up_s: Annotated[float, Field(ge=1, le=604_800, allow_inf_nan=False)] = 21_600.0
    """a message that is not delivered for this long is reported as undelivered"""


def is_address(text: str) -> bool:
    """Return whether a text is an HTTP address without a fragment."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return good and not parts.fragment and text.isprintable() and " " not in text
