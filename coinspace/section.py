"""What the sections of the configuration share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict


def _user_path(given: Any) -> Any:
    # a path in a file is not expanded by a shell
    if not isinstance(given, str):
        return given
    if not given.strip():
        raise ValueError("expected a path, was an empty text")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ValueError(f"expected a path without ~, as there is no such home: {given}") from None


UserPath = Annotated[Path, BeforeValidator(_user_path)]
# for every section: unknown keys are refused
STRICT = ConfigDict(extra="forbid", validate_assignment=True)
