"""Address and login of the database: from the configuration or the private server's files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson

from coinspace.config import SHARED_PORTS, Settings
from coinspace.errors import ConfigError, StorageError
from coinspace.files import replace_file
from coinspace.text import shown_address

LOOPBACK = "127.0.0.1"
ILP_SCHEMES = ("http", "https", "tcp", "tcps")
HOST_PORT = re.compile(r"(\[[\w.:%]+\]|[^\s:@/?#%\[\]]+)(:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class Address:
    """A QuestDB server.

    Attributes:
        ilp: configuration string of the questdb client, credentials included.
        sql: postgresql:// address of a user that may write.
        readonly_sql: postgresql:// address of a user that can only read.
        http: base URL of the HTTP server, "" when ILP uses TCP.
        user, password: login of the HTTP server.
        health: base URL of the health server, "" for a server that this host does not run.
        pid: process of the server, 0 where this host does not run it.
    """

    ilp: str
    sql: str
    readonly_sql: str
    http: str
    user: str
    password: str
    health: str = ""
    pid: int = 0

    def __repr__(self) -> str:
        # credentials must not reach logs and tracebacks
        return f"<Address http={shown_address(self.http)!r} pid={self.pid}>"


def root(settings: Settings) -> Path:
    return settings.data / "questdb"


def address(settings: Settings) -> Address:
    """Return the configured address, or else the address of the running private server.

    Raises: ConfigError when storage.ilp or storage.sql is malformed or only one of them is set,
    StorageError when no private server runs.
    """
    storage = settings.storage
    if storage.ilp or storage.sql:
        return configured(storage.ilp, storage.sql, storage.readonly_sql)
    if settings.shared_server and not settings.private_server:
        return private(shared_ports(settings), shared_login(settings), 0, settings.shared_server)
    path = root(settings) / "address.json"
    try:
        return Address(**orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        raise StorageError(
            f"no private QuestDB runs in {root(settings)}: start it with `coinspace questdb start`"
        ) from None
    except (OSError, orjson.JSONDecodeError, TypeError) as error:
        raise StorageError(f"{path}: expected the server's address, {error}") from None


def configured(ilp: str, sql: str, readonly_sql: str = "") -> Address:
    """Return the address of a configured server. Raises: ConfigError."""
    if not ilp or not sql:
        raise ConfigError(
            "storage.ilp and storage.sql: expected both or neither,"
            f" was {'ilp' if ilp else 'sql'} alone"
        )
    scheme, separator, rest = ilp.partition("::")
    if scheme not in ILP_SCHEMES or not separator:
        raise ConfigError(
            f"storage.ilp: expected 'http::addr=host:9000;' or 'tcp::addr=host:9009;',"
            f" was {f'scheme {scheme!r}' if separator else 'neither'}"
        )
    values = dict(part.partition("=")[::2] for part in rest.split(";") if part)
    if not HOST_PORT.fullmatch(values.get("addr", "")):
        raise ConfigError("storage.ilp: expected 'addr=host:port', without a login")
    for name, one in (("sql", sql), ("readonly_sql", readonly_sql or sql)):
        if not _is_postgresql(one):
            raise ConfigError(
                f"storage.{name}: expected postgresql://user:password@host:8812/qdb, in a password"
                " %2F for a slash and %40 for an at sign"
            )
    return Address(
        ilp=ilp if ilp.endswith(";") else ilp + ";",
        sql=sql,
        readonly_sql=readonly_sql or sql,
        http=f"{scheme}://{values['addr']}" if scheme.startswith("http") else "",
        user=values.get("username", ""),
        password=values.get("password", ""),
    )


def _is_postgresql(sql: str) -> bool:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    # errors of libpq show parts of a password that it takes for a port or a name
    if sql.partition("://")[0] not in ("postgresql", "postgres"):
        return False
    try:
        parts = conninfo_to_dict(sql)
    except ProgrammingError:
        return False
    ports = str(parts.get("port") or 0).split(",")
    names = f"{parts.get('host')}{parts.get('dbname')}"
    return all(one.isdecimal() for one in ports) and "@" not in names


def shared_ports(settings: Settings) -> dict[str, int]:
    """Return the ports of a private server that other hosts use: http and pg."""
    storage = settings.storage
    return {
        "http": storage.http_port or SHARED_PORTS["http"],
        "pg": storage.pg_port or SHARED_PORTS["pg"],
    }


def shared_login(settings: Settings) -> dict[str, str]:
    """Return the logins of a private server that other hosts use."""
    password = settings.storage.password.get_secret_value()
    # who knows the reader's password must not learn the other one
    reader = hashlib.blake2b(password.encode(), digest_size=24, person=b"reader").hexdigest()
    return login(password, reader)


def login(password: str, readonly_password: str) -> dict[str, str]:
    """Return the users of the private server with their passwords."""
    return {
        "user": "coinspace",
        "password": password,
        "readonly_user": "reader",
        "readonly_password": readonly_password,
    }


def private(
    ports: dict[str, int], credentials: dict[str, str], pid: int, host: str = LOOPBACK
) -> Address:
    """Return the private server's address.

    Args:
        ports: http, pg and, on this machine, health.
        host: where http and pg listen.
    """
    user, password = credentials["user"], credentials["password"]
    shown = f"[{host}]" if ":" in host else host
    http = f"{shown}:{ports['http']}"

    def sql(user: str, password: str) -> str:
        return f"postgresql://{quote(user)}:{quote(password)}@{shown}:{ports['pg']}/qdb"

    return Address(
        ilp=f"http::addr={http};username={user};password={password};",
        sql=sql(user, password),
        readonly_sql=sql(credentials["readonly_user"], credentials["readonly_password"]),
        http=f"http://{http}",
        user=user,
        password=password,
        health=f"http://{LOOPBACK}:{ports['health']}" if "health" in ports else "",
        pid=pid,
    )


def write_private(path: Path, values: object) -> None:
    """Write a JSON file atomically; only its owner may read it."""
    replace_file(path, orjson.dumps(values, option=orjson.OPT_INDENT_2), private=True)
