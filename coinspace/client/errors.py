"""Errors of the client."""

from __future__ import annotations

from typing import Any

from coinspace import __version__
from coinspace.errors import CoinSpaceError
from coinspace.text import printable

# what a caller can do about a refusal, for problems whose text does not say it
REMEDIES = {
    401: "pass key=…, which `coinspace keys new NAME` makes",
    403: "pass the key of an operator, which `coinspace keys new NAME --role operator` makes",
    421: "use a name that the server knows, or add this one to its endpoint.hosts",
}
OLDER = (
    f"this client has version {__version__}: the endpoint may be older (update it), or not"
    " CoinSpace's; its /docs lists what it has"
)
RETRY_LIMIT_S = 3600
TEXT_LIMIT = 2000


class ApiError(CoinSpaceError):
    """The API answered with a problem.

    Attributes: status, kind (stable name such as `unknown-asset`), detail, route, parameter ("" =
    none), retry_after_s (None = not given), problem (the whole JSON object).
    """

    def __init__(
        self, status: int, problem: dict[str, Any], retry_after: str | None, route: str = ""
    ) -> None:
        self.status = status
        self.kind = str(problem.get("type", "")).rpartition(":")[2]
        self.detail = str(problem.get("detail", ""))
        self.parameter = str(problem.get("parameter", ""))
        self.route = route
        self.retry_after_s = _seconds(retry_after)
        self.problem = problem
        super().__init__(printable(self._text(), TEXT_LIMIT))

    def _text(self) -> str:
        text = f"{self.route}: " if self.route else ""
        text += f"{self.status} {self.kind}: {self.detail}"
        if self.parameter and not self.detail.startswith(self.parameter):
            text += f" (parameter {self.parameter})"
        if self.retry_after_s is not None:
            return f"{text}; try again in {self.retry_after_s} s"
        remedy = OLDER if self._unknown else REMEDIES.get(self.status)
        return f"{text}; {remedy}" if remedy else text

    @property
    def _unknown(self) -> bool:
        # a route or a parameter that this endpoint does not have
        if self.status == 404:
            return self.kind in ("", "unknown-route")
        return self.status == 400 and "no such parameter" in self.detail


def _seconds(text: str | None) -> int | None:
    if not text or len(text) > 9 or not (text.isascii() and text.isdigit()):
        return None
    return min(int(text), RETRY_LIMIT_S)


class ConnectionLost(CoinSpaceError):
    """The API cannot be reached.

    Attributes: begun: the answer had begun.
    """

    def __init__(self, text: str, *, begun: bool = False) -> None:
        super().__init__(printable(text, TEXT_LIMIT))
        self.begun = begun


class BadAnswer(CoinSpaceError):
    """The answer is not one of the API: a redirect, another type, broken JSON, too many bytes."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text, TEXT_LIMIT))


class InvalidArgument(CoinSpaceError, ValueError):
    """A URL, key or time that cannot be sent."""
