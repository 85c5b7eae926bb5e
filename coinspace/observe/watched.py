"""What `status` watches: the processes, their health files, the disk.

These are a few of the settings, and reading all settings takes two thirds of the command's CPU
time. So they are kept in a file beside the health files, with a digest of everything that they
depend on. Without this file, or with another digest, all settings are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import orjson

import coinspace
from coinspace.files import read_regular, replace_file

KEPT = "status-settings"
# of a configuration file, as in `config_sources`, whose import takes the time that is saved here
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Watched:
    """What is kept.

    Attributes: names (of the processes, in flow order), disk (folder on it), disk_low_mb, several
    (hosts, whose processes need all settings).
    """

    data: Path
    names: list[str]
    disk: Path
    disk_low_mb: int
    several: bool = False


def watched(config_path: str | None) -> Watched:
    """Return what the settings call for. Raises: ConfigError as `load` does."""
    digest = _digest(config_path)
    found = _kept(config_path, digest)
    if found is None:
        found = _read(config_path)
        _keep(found, digest)
    return found


def _read(config_path: str | None) -> Watched:
    from coinspace.config import load
    from coinspace.storage.disk import disk_folder

    settings = load(config_path)
    return Watched(
        settings.data,
        [name for name, _ in settings.processes()],
        disk_folder(settings),
        settings.storage.disk_low_mb,
        bool(settings.hosts),
    )


def _kept(config_path: str | None, digest: str) -> Watched | None:
    try:
        found = orjson.loads(read_regular(_folder(config_path) / KEPT))
        if found["digest"] != digest:
            return None
        names = [str(name) for name in found["names"]]
        return Watched(
            Path(found["data"]),
            names,
            Path(found["disk"]),
            int(found["disk_low_mb"]),
            bool(found["several"]),
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError):
        # damaged, a folder that cannot be guessed, or a configuration that is nested too deep
        return None


def _keep(found: Watched, digest: str) -> None:
    body = {
        "digest": digest,
        "data": str(found.data),
        "names": found.names,
        "disk": str(found.disk),
        "disk_low_mb": found.disk_low_mb,
        "several": found.several,
    }
    # another user's folder, a full disk, no platform has run yet, or a path that is not UTF-8
    with contextlib.suppress(OSError, TypeError):
        # private: the digest is also one of passwords
        replace_file(found.data / "run" / KEPT, orjson.dumps(body), private=True)


def _folder(config_path: str | None) -> Path:
    """Return where the health files probably are; a wrong guess only costs the time saved."""
    given: object = os.environ.get("COINSPACE_DATA")
    if given is None and (file := _file(config_path)).is_file():
        import tomllib

        given = tomllib.loads(_content(file).decode()).get("data")
    return Path(given if isinstance(given, str) else ".coinspace").expanduser() / "run"


def _file(config_path: str | None) -> Path:
    return Path(config_path or os.environ.get("COINSPACE_CONFIG") or "coinspace.toml")


def _content(file: Path) -> bytes:
    # `load` refuses a larger file; a device has no end
    if not file.is_file():
        return b""
    with file.open("rb") as opened:
        return opened.read(MOST_BYTES + 1)


def _digest(config_path: str | None) -> str:
    """Return a hash of the configuration file, the environment and the program."""
    file = _file(config_path)
    parts: list[object] = [
        str(file.absolute()),
        sorted(one for one in os.environ.items() if one[0].upper().startswith("COINSPACE_")),
        os.environ.get("HOME"),
    ]
    with contextlib.suppress(OSError):
        parts.append(_content(file))
    package = Path(coinspace.__file__).parent
    sources = [*package.glob("config*.py"), *package.glob("exchanges/*.py")]
    # exchanges that were added, see `coinspace.exchanges`
    sources += [one for entry in sys.path for one in Path(entry).glob("coinspace_exchanges/*.py")]
    for source in sorted(sources):
        facts = source.stat()
        parts.append((str(source), facts.st_mtime_ns, facts.st_size))
    return hashlib.sha256(repr(parts).encode()).hexdigest()
