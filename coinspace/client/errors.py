"""Errors of the client."""

from __future__ import annotations

from typing import Any

from coinspace.errors import CoinSpaceError


class ApiError(CoinSpaceError):
    """The API answered with a problem.

    Attributes: status, kind (stable name such as `unknown-asset`), detail, retry_after_s (None =
    it did not say), problem (the whole JSON object).
    """

    def __init__(self, status: int, problem: dict[str, Any], retry_after: str | None) -> None:
        self.status = status
        self.kind = str(problem.get("type", "")).rpartition(":")[2]
        self.detail = str(problem.get("detail", ""))
        self.retry_after_s = int(retry_after) if retry_after and retry_after.isdigit() else None
        self.problem = problem
        super().__init__(f"{status} {self.kind}: {self.detail}")


class ConnectionLost(CoinSpaceError):
    """The API cannot be reached."""
