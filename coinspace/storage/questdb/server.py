"""The private QuestDB server: ends with its parent process.

It listens on loopback with random credentials, unless processes of other hosts use it: then on this
host's address with `storage.password`.

The ports are chosen once and stored in the root folder, so that a restarted server keeps them. The
password identifies the server: another server refuses it or requires none.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import orjson

from coinspace.config import Settings
from coinspace.errors import ConfigError, StorageError
from coinspace.files import replace_file
from coinspace.lock import lock_file
from coinspace.storage.questdb import runtime
from coinspace.storage.questdb.address import (
    LOOPBACK,
    Address,
    login,
    private,
    root,
    shared_login,
    shared_ports,
    write_private,
)

PORTS = ("http", "pg", "ilp", "health")
# Java answers SIGTERM with 128 + 15: a clean end
CLEAN_EXITS = (0, 143, -signal.SIGTERM)
# exit code for two servers on one root folder, or a port in use
EXIT_REFUSED = 55
# a loaded 2-core machine was seen to need 10 s
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
PROBE_TIMEOUT_S = 2.0
PROBE_INTERVAL_S = 0.1

# Ends the server when its parent ends for any reason. Runs in a new interpreter: a process with
# threads should not run Python between fork and exec. It uses SIGKILL, since a stopped process
# ignores SIGTERM; QuestDB keeps all acknowledged rows either way.
TIE_TO_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(143)
os.execv(sys.argv[2], sys.argv[2:])
"""

# limits that protect users from each other; storage.server_options overrides them
LIMITS = {
    # COPY reads and writes files: CoinSpace does not need it, and the read-only user may call it
    "QDB_CAIRO_SQL_COPY_ROOT": "",
    "QDB_CAIRO_SQL_COPY_EXPORT_ROOT": "",
    # separate threads for PostgreSQL's protocol: a long query never delays a write
    "QDB_PG_WORKER_COUNT": "4",
    # the sort, join or window of one query uses 1 GB at most
    "QDB_CAIRO_SQL_SORT_KEY_MAX_PAGES": "4096",
    "QDB_CAIRO_SQL_SORT_LIGHT_VALUE_MAX_PAGES": "8192",
    "QDB_CAIRO_SQL_SORT_VALUE_MAX_PAGES": "32",
    "QDB_CAIRO_SQL_HASH_JOIN_VALUE_MAX_PAGES": "64",
    "QDB_CAIRO_SQL_HASH_JOIN_LIGHT_VALUE_MAX_PAGES": "1024",
    "QDB_CAIRO_SQL_WINDOW_STORE_MAX_PAGES": "1024",
    "QDB_CAIRO_SQL_WINDOW_ROWID_MAX_PAGES": "2048",
    "QDB_CAIRO_SQL_WINDOW_TREE_MAX_PAGES": "2048",
    # so do the groups of one query: tables of 1024 keys that may double 15 times
    "QDB_CAIRO_SQL_SMALL_MAP_KEY_CAPACITY": "1024",
    "QDB_CAIRO_SQL_MAP_MAX_RESIZES": "15",
    # queries without a limit of their own fail before the machine has no memory left
    "QDB_RAM_USAGE_LIMIT_PERCENT": "50",
}

LOG_CONF = """writers=file
w.file.class=io.questdb.log.LogRollingFileWriter
w.file.location=${log.dir}/questdb-${date:yyyyMMdd}.log
w.file.level=ERROR,CRITICAL,ADVISORY
w.file.rollEvery=day
w.file.rollSize=50m
w.file.lifeDuration=7d
w.file.sizeLimit=500m
"""


class ManagedServer:
    """One private server on one root folder.

    Attributes:
        root: folder of the server's data, configuration, credentials and logs.
        address: address of the server, None until it is ready.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.root = root(settings).absolute()
        self.address: Address | None = None
        # where other hosts reach the server, "" = only this machine does
        self._shared = settings.shared_server
        self._announced: Address | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._credentials: dict[str, str] = {}
        self._ports: dict[str, int] = {}

    def spawn(self) -> None:
        """Start the Java process without waiting; call this from the main thread.

        The process ends when the calling thread ends.
        Raises: ConfigError when the folder, the jar or a port cannot be used, StorageError when
        the process cannot be started.
        """
        if self.process is not None and self.process.poll() is None:
            raise StorageError(f"QuestDB in {self.root}: already started, pid {self.process.pid}")
        executable, jar = runtime.java(), runtime.jar()
        self._prepare()
        heap = self.settings.storage.java_heap_mb
        # fmt: off
        command = [
            str(executable), "-Xms64m", f"-Xmx{heap}m", "-XX:+UseSerialGC",
            # Java 24 and later warn without these two
            "--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow",
            f"-XX:ErrorFile={self.root}/hs_err_%p.log",
            "-cp", str(jar), "io.questdb.ServerMain", "-d", str(self.root), "-n",
        ]
        # fmt: on
        try:
            with (self.root / "console.log").open("wb") as console:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-c", TIE_TO_PARENT, str(os.getpid()), *command],
                    cwd=self.root,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise StorageError(f"QuestDB in {self.root}: cannot be started, {error}") from None

    def wait_ready(self) -> Address:
        """Wait until this server answers a query, then write its address for all processes.

        Raises: StorageError or ConfigError when it ends, StorageError when it does not answer.
        """
        process = self.process
        if process is None:
            raise StorageError(f"QuestDB in {self.root}: expected a started server, was none")
        host = self._shared or LOOPBACK
        found = private(self._ports, self._credentials, process.pid, host)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_private_server(found):
            if process.poll() is not None:
                raise self._ended(process.returncode)
            if time.monotonic() > deadline:
                self.kill()
                raise StorageError(
                    f"QuestDB in {self.root}: expected an answer within {START_TIMEOUT_S:.0f} s,"
                    f" was none; see {self.root}/console.log"
                )
            time.sleep(PROBE_INTERVAL_S)
        self.address = found
        self.announce()
        return found

    def announce(self) -> str | None:
        """Write the server's address for all processes, unless it is written.

        Returns: why the address could not be written, None when it is written. A full disk does not
        end a server that answers: a restarted server has the same address as before.
        """
        if self.address is None or self._announced == self.address:
            return None
        try:
            write_private(self.root / "address.json", asdict(self.address))
        except OSError as error:
            return f"{self.root}/address.json cannot be written: {error}; make room on the disk"
        self._announced = self.address
        return None

    def poll(self) -> int | None:
        """Return the exit code of an ended server, None while it runs."""
        return None if self.process is None else self.process.poll()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Stop the server; SIGKILL after the time-out. Returns: its exit code, 0 when clean."""
        code = 0
        with contextlib.suppress(OSError):
            # on a disk that cannot be written the server must still stop cleanly
            (self.root / "address.json").unlink(missing_ok=True)
        self._announced = None
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                code = self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
                code = -signal.SIGKILL
        self.address = None
        self._release_lock()
        return 0 if code in CLEAN_EXITS else code

    def kill(self) -> None:
        """Kill the server; the address file stays for its next start."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _prepare(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)
            (self.root / "conf").mkdir(exist_ok=True)
            (self.root / "log").mkdir(exist_ok=True)
            _write_if_other(self.root / "conf" / "log.conf", LOG_CONF.encode())
            if self._lock is None:
                self._lock = lock_file(
                    self.root / "lock",
                    f"QuestDB in {self.root}",
                    advice="stop it with `coinspace questdb stop`",
                )
            self._credentials = self._load_credentials()
            self._ports = self._choose_ports()
        except ConfigError:
            self._release_lock()
            raise
        except OSError as error:
            self._release_lock()
            raise ConfigError(
                f"QuestDB folder {self.root}: expected a writable folder, {error};"
                " set `data` or COINSPACE_DATA"
            ) from None

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _load_credentials(self) -> dict[str, str]:
        if self._shared:
            return shared_login(self.settings)
        path = self.root / "credentials.json"
        if path.exists():
            path.chmod(0o600)
            with contextlib.suppress(orjson.JSONDecodeError):
                found: dict[str, str] = orjson.loads(path.read_bytes())
                return found
        made = login(secrets.token_urlsafe(24), secrets.token_urlsafe(24))
        write_private(path, made)
        return made

    def _choose_ports(self) -> dict[str, int]:
        storage = self.settings.storage
        asked = {
            "http": storage.http_port,
            "pg": storage.pg_port,
            "ilp": storage.ilp_port,
            "health": storage.health_port,
        }
        hosts = dict.fromkeys(PORTS, LOOPBACK)
        if self._shared:
            asked |= shared_ports(self.settings)
            hosts |= {"http": self._shared, "pg": self._shared}
        path = self.root / "ports.json"
        before: dict[str, int] = {}
        if path.exists():
            with contextlib.suppress(orjson.JSONDecodeError):
                before = orjson.loads(path.read_bytes())
        chosen: dict[str, int] = {}
        with contextlib.ExitStack() as taken:
            for name in PORTS:
                known = asked[name], before.get(name, 0)
                chosen[name] = _free_port(name, hosts[name], *known, taken)
        _write_if_other(path, orjson.dumps(chosen))
        return chosen

    def _environment(self) -> dict[str, str]:
        # do not inherit server settings or Java options: they are not tested
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("QDB_")
            and name not in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "LC_ALL")
        }
        # Java encodes file names by its locale: with C it finds no folder with non-ASCII letters
        kept["LC_CTYPE"] = "C.UTF-8"
        bind = {name: f"{LOOPBACK}:{self._ports[name]}" for name in PORTS}
        if self._shared:
            # the server takes no names and no IPv6 addresses here
            host = socket.gethostbyname(self._shared)
            bind |= {name: f"{host}:{self._ports[name]}" for name in ("http", "pg")}
        workers = str(self.settings.storage.server_workers)
        known = self._credentials
        return (
            kept
            | LIMITS
            | self.settings.storage.server_options
            | {
                "QDB_HTTP_NET_BIND_TO": bind["http"],
                "QDB_HTTP_MIN_NET_BIND_TO": bind["health"],
                "QDB_LINE_TCP_NET_BIND_TO": bind["ilp"],
                "QDB_PG_NET_BIND_TO": bind["pg"],
                "QDB_HTTP_USER": known["user"],
                "QDB_HTTP_PASSWORD": known["password"],
                "QDB_HTTP_HEALTH_CHECK_AUTHENTICATION_REQUIRED": "false",
                "QDB_PG_USER": known["user"],
                "QDB_PG_PASSWORD": known["password"],
                "QDB_PG_READONLY_USER_ENABLED": "true",
                "QDB_PG_READONLY_USER": known["readonly_user"],
                "QDB_PG_READONLY_PASSWORD": known["readonly_password"],
                "QDB_TELEMETRY_ENABLED": "false",
                "QDB_LINE_UDP_ENABLED": "false",
                # ILP over TCP has no password: any local user could write
                "QDB_LINE_TCP_ENABLED": "true" if self.settings.storage.ilp_port else "false",
                # a misspelt column must give an error, not a new column
                "QDB_LINE_AUTO_CREATE_NEW_COLUMNS": "false",
                "QDB_LINE_AUTO_CREATE_NEW_TABLES": "false",
                # the server really allocates the default of 16 MB per column of an active partition
                "QDB_CAIRO_WRITER_DATA_APPEND_PAGE_SIZE": "1M",
                "QDB_CAIRO_O3_COLUMN_MEMORY_SIZE": "256k",
                "QDB_CAIRO_PARTITION_ENCODER_PARQUET_COMPRESSION_CODEC": "ZSTD",
                "QDB_CAIRO_PARTITION_ENCODER_PARQUET_COMPRESSION_LEVEL": "3",
                "QDB_SHARED_NETWORK_WORKER_COUNT": workers,
                "QDB_SHARED_QUERY_WORKER_COUNT": workers,
                "QDB_SHARED_WRITE_WORKER_COUNT": workers,
            }
        )

    def _ended(self, code: int) -> Exception:
        console = self.root / "console.log"
        lines = console.read_text(errors="replace").strip().splitlines() if console.exists() else []
        output = lines[-1][:300] if lines else "nothing"
        if code == EXIT_REFUSED:
            ports = ", ".join(f"{name} {self._ports[name]}" for name in PORTS)
            return ConfigError(
                f"QuestDB in {self.root} refused to start (exit code {code}): another server uses"
                f" this folder or one of the ports {ports}; its output: {output}"
            )
        return StorageError(
            f"QuestDB in {self.root} ended at start (exit code {code}); its output: {output};"
            f" see {console}"
        )


def _write_if_other(path: Path, content: bytes) -> None:
    """Write a file unless it has this content; a full disk keeps the old file complete."""
    if not path.exists() or path.read_bytes() != content:
        replace_file(path, content)


def _free_port(name: str, host: str, asked: int, before: int, taken: contextlib.ExitStack) -> int:
    # the sockets stay bound until all four ports are chosen, so that no port is chosen twice
    for port in (asked,) if asked else (before, 0) if before else (0,):
        probe = taken.enter_context(socket.socket())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    raise ConfigError(
        f"storage.{name}_port: expected a free port of {host}, {asked} is in use;"
        " choose another, or 0 for any"
    )


def exec_status(found: Address, query: str, *, login: bool = True) -> int:
    """Return the HTTP status of one query, 0 when the server does not answer in time."""
    host = found.http.partition("://")[2]
    connection = http.client.HTTPConnection(host, timeout=PROBE_TIMEOUT_S)
    token = base64.b64encode(f"{found.user}:{found.password}".encode()).decode()
    headers = {"Authorization": f"Basic {token}"} if login else {}
    try:
        connection.request("GET", f"/exec?query={query}", headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def is_private_server(found: Address) -> bool:
    """Return whether the server at the address is ours: it requires our password."""
    query = "select%201"
    return exec_status(found, query) == 200 and exec_status(found, query, login=False) == 401
