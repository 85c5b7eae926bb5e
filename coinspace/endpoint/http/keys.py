"""API keys: `cs_ID_SECRET`; only a hash of the secret is kept.

The secret has 256 random bits, so that a plain SHA-256 of it cannot be reversed by a search. The
file is read again when it changes: a revoked key is refused within a second.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import stat
import time
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from coinspace.clock import SECOND_NS, now_ns
from coinspace.config import Settings
from coinspace.errors import EndpointError
from coinspace.files import replace_file

Role = Literal["reader", "operator"]
_KEY = re.compile(r"cs_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
RELOAD_S = 1.0
# of a file of keys: more than 50,000 keys; a device has no end
MOST_BYTES = 16 << 20
# compared with when the id is unknown, so that the answer takes the same time
_NOBODY = hashlib.sha256(b"").hexdigest()


class Key(msgspec.Struct, kw_only=True):
    """A key as kept: `digest` is the SHA-256 of its secret; `revoked` epoch s, 0 = valid."""

    id: str
    name: str
    role: Role
    digest: str
    created: int
    revoked: int = 0


class Keys:
    """The keys in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._keys: dict[str, Key] = {}
        self._stamp: tuple[int, int] | None = None
        self._checked = 0.0
        self.reload()

    def __len__(self) -> int:
        return sum(1 for key in self._keys.values() if not key.revoked)

    def reload(self) -> None:
        """Read the file when it changed. Raises: EndpointError when it is not a file of keys."""
        try:
            status = self.file.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
                raise OSError(f"was another kind of file, or has more than {MOST_BYTES} bytes")
            keys = msgspec.json.decode(self.file.read_bytes(), type=list[Key])
        except FileNotFoundError:
            self._keys, self._stamp = {}, None
        except (OSError, msgspec.MsgspecError, RecursionError) as error:
            # RecursionError: JSON nested too deep
            raise EndpointError(f"{self.file}: expected a list of keys, {error}") from None
        else:
            self._keys = {key.id: key for key in keys}

    def find(self, text: str) -> Key | None:
        """Return the valid key that a client sent, None for any other text."""
        self._follow()
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        key = self._keys.get(match[1])
        digest = hashlib.sha256(match[2].encode()).hexdigest()
        # as bytes: a text that is not ASCII, from a damaged file, cannot be compared
        known = key.digest if key else _NOBODY
        same = hmac.compare_digest(digest.encode(), known.encode())
        return key if key is not None and same and not key.revoked else None

    def in_force(self, key: Key) -> bool:
        """Tell whether a key that was found before is still as it was."""
        self._follow()
        now = self._keys.get(key.id)
        return (
            now is not None and not now.revoked and (now.digest, now.role) == (key.digest, key.role)
        )

    def _follow(self) -> None:
        now = time.monotonic()
        if now - self._checked <= RELOAD_S:
            return
        self._checked = now
        try:
            self.reload()
        except EndpointError as error:
            # the keys read before stay valid, so that a typing error locks no client out
            structlog.get_logger("index-endpoint").error("keys not read", error=str(error))

    def all(self) -> list[Key]:
        """Return every key, revoked ones too, oldest first."""
        return sorted(self._keys.values(), key=lambda key: (key.created, key.id))

    def new(self, name: str, role: Role) -> str:
        """Make a key and return its text, which is not stored."""
        identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        self._keys[identity] = Key(
            id=identity, name=name, role=role, digest=digest, created=now_ns() // SECOND_NS
        )
        self._write()
        return f"cs_{identity}_{secret}"

    def revoke(self, identity: str) -> Key:
        """Revoke a key. Raises: EndpointError for an unknown id."""
        key = self._keys.get(identity)
        if key is None:
            raise EndpointError(
                f"key: expected an id that `coinspace keys list` shows, was {identity!r}"
            )
        if not key.revoked:
            key.revoked = now_ns() // SECOND_NS
            self._write()
        return key

    def _write(self) -> None:
        text = msgspec.json.format(msgspec.json.encode(self.all()))
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.file, text, private=True)
        except OSError as error:
            raise EndpointError(f"{self.file}: cannot write keys, {error}") from None
        self._stamp = None
        self.reload()


def keys_of(settings: Settings) -> Keys:
    """Return the keys of an endpoint."""
    return Keys(Path(settings.endpoint.keys or settings.data / "keys.json"))
