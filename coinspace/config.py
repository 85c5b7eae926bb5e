"""Settings: `coinspace.toml` and `COINSPACE_*` environment variables, typed and validated.

Order: environment over file over defaults, key by key. A key that does not exist is an error that
names the nearest valid one. No error shows a secret.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from coinspace import hosts as several
from coinspace.config_alerts import AlertRule, AlertSettings, AlertTarget
from coinspace.config_sources import (
    PREFIX,
    STRICT,
    Environment,
    Names,
    UserPath,
    merged,
    read_environment,
    read_file,
    spelled,
)
from coinspace.errors import ConfigError, MarketError
from coinspace.exchanges import EXCHANGES, UNUSABLE, every
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.files import replace_file
from coinspace.market import ASSETS, RATED_QUOTES, Market, as_named, exchange_as_named
from coinspace.plain_options import config_option as config_option

COLLECTORS = ("orderbook-collector", "ticker-collector")
WORKERS = (
    "orderbook-storage-worker",
    "ticker-storage-worker",
    "orderbook-aggregator",
    "index-calculator",
    "index-endpoint",
)
# collects quotations of USD/KRW
RATE_COLLECTOR = "fx-collector"
# runs where alerts have rules
ALERTER = "alerter"
# storage workers that share one stream
STORAGE_WORKERS_LIMIT = 4


def storage_worker(kind: str, number: int) -> str:
    """Return the name of a storage worker; the first one has no number."""
    return kind if number == 1 else f"{kind}-{number}"


PROCESSES = (
    *(f"{kind}-{exchange}" for kind in COLLECTORS for exchange in EXCHANGES),
    *WORKERS,
    "questdb",
    RATE_COLLECTOR,
    ALERTER,
    *(
        storage_worker(kind, number)
        for number in range(2, STORAGE_WORKERS_LIMIT + 1)
        for kind in WORKERS[:2]
    ),
)
# markets that enter the index by default, as in the methodology
CONSTITUENTS = tuple(
    f"{one.NAME}:*/{one.QUOTES[0]}" for one in every() if one.QUOTES[0] in RATED_QUOTES
)
# sockaddr_un.sun_path has 108 bytes, with the closing zero
IPC_PATH_LIMIT = 107
# endpoints on NATS: this word, then the first words of their subjects
NATS_SCHEME = "nats:"
SUBJECT_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
# values of storage.retention: a duration, or words for rows that are never deleted
RETENTION = re.compile(r"([1-9]\d{0,4}) ?(h|d|w|M|y|(?i:hours?|days?|weeks?|months?|years?))")
KEEP_FOR_EVER = ("off", "keep")
# a longer interval would store less than one book a minute
SLOWEST_PER_SECOND = 0.016
# 32 bytes written in Z85
CURVE_KEY_SIZE = 40
# ports of each process of several hosts, in the order of PROCESSES: messages, journal, heartbeats
PORTS_EACH = 3
# of the private server that other hosts use, where the settings name none
SHARED_PORTS = {"http": 9000, "pg": 8812}
# the processes that use the database
DATABASE_USERS = (
    *(name for name in PROCESSES if "-storage-worker" in name),
    *WORKERS[3:],
    ALERTER,
)


def _process(name: str) -> str:
    return name.lower().replace("_", "-")


def _venue(name: str) -> str:
    exchange, colon, market = name.partition(":")
    return f"{exchange_as_named(exchange)}{colon}{as_named(market)}"


def _curve_key(key: str) -> str:
    if key and (len(key) != CURVE_KEY_SIZE or not key.isascii()):
        raise ValueError(f"expected a CURVE key of {CURVE_KEY_SIZE} Z85 characters")
    return key


Z85 = Annotated[str, AfterValidator(_curve_key)]


def _duration(text: str) -> str:
    if not RETENTION.fullmatch(text) and text.lower() not in KEEP_FOR_EVER:
        raise ValueError('expected "12h", "7d", "2w", "3M" (months), "1y" or "off"')
    return text


Duration = Annotated[str, AfterValidator(_duration)]


def default_exchanges() -> dict[str, ExchangeSettings]:
    """Return exchange -> its default section; one that is off by default has no markets."""
    return {
        one.NAME: one.SETTINGS.model_copy(
            deep=True, update={} if one.BY_DEFAULT else {"markets": []}
        )
        for one in every()
    }


class Section(BaseModel):
    model_config = STRICT


class HostSettings(Section):
    """One of several hosts."""

    address: str
    """name or IP address at which the other hosts reach it"""
    roles: list[str]
    """collectors, storage, index, endpoint, or names of processes, * for any"""
    public_key: Z85 = ""
    """what `coinspace keys curve` prints there; with keys of all hosts the bus is encrypted"""


class BusSettings(Section):
    """The bus: ZMQ, with one PUB socket and one journal socket per publishing process, or NATS."""

    url: str = ""
    """nats://host:port, several with commas: the bus runs on these NATS servers; empty = ZMQ"""
    credentials: str = ""
    """NATS credentials file (JWT and seed)"""
    ca_file: str = ""
    """certificates that NATS servers are checked with; empty = the system's"""
    platform: str = "coinspace"
    """first word of all subjects on NATS: one per platform that shares the servers"""

    endpoints: Annotated[dict[str, str], Names(_process)] = {}
    """process name -> tcp://host:port; ipc below data/run by default"""
    replay_endpoints: Annotated[dict[str, str], Names(_process)] = {}
    """process name -> tcp://host:port of its journal"""
    high_water_mark: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """messages queued per peer before drops"""
    directory: str = ""
    """folder of ipc sockets; empty = data/run"""
    port: Annotated[int, Field(ge=1, le=65_535 - PORTS_EACH * len(PROCESSES))] = 9400
    """first port of the processes of several hosts; each process takes three"""
    curve_public_key: Z85 = ""
    """Z85 key of this host; with the secret key it turns on CURVE for tcp"""
    curve_secret_key: SecretStr = SecretStr("")
    """better in COINSPACE_BUS__CURVE_SECRET_KEY than in a file"""
    curve_server_key: Z85 = ""
    """Z85 public key of the publishers"""
    curve_server_keys: Annotated[dict[str, Z85], Names(str.lower)] = {}
    """tcp endpoint -> its public key, where it is not curve_server_key"""
    curve_allowed: list[Z85] = []
    """Z85 public keys that may connect to this host's publishers"""
    _sockets: Path = PrivateAttr(default=Path("run"))
    _key_file: Path = PrivateAttr(default=Path("curve.json"))
    # process -> the host that runs it, of several hosts
    _runs: dict[str, HostSettings] = PrivateAttr(default_factory=dict)

    @field_validator("url")
    @classmethod
    def _servers(cls, given: str) -> str:
        for one in filter(None, given.split(",")):
            if not re.fullmatch(r"((nats|tls|ws|wss)://)?[^/\s]+", one.strip()):
                raise ValueError("expected nats://host:port, several with commas between them")
        return given

    @field_validator("platform")
    @classmethod
    def _subject_word(cls, given: str) -> str:
        if not SUBJECT_WORD.fullmatch(given):
            raise ValueError("expected at most 64 letters, digits, - and _")
        return given

    @model_validator(mode="after")
    def _curve_pair(self) -> BusSettings:
        secret = self.curve_secret_key.get_secret_value()
        if bool(secret) != bool(self.curve_public_key) or len(secret) not in (0, CURVE_KEY_SIZE):
            raise ValueError(
                "expected curve_public_key and curve_secret_key together,"
                f" {CURVE_KEY_SIZE} Z85 characters each"
            )
        return self

    def _ipc(self, name: str) -> str:
        path = self._sockets.absolute() / f"{name}.ipc"
        if len(str(path).encode()) > IPC_PATH_LIMIT:
            raise ConfigError(
                f"ipc socket path: expected at most {IPC_PATH_LIMIT} bytes, was {path};"
                " choose a shorter data folder or set bus.directory"
            )
        return f"ipc://{path}"

    def _tcp(self, process: str, number: int) -> str:
        """Return one of the endpoints of a process of several hosts, "" on a single host."""
        host = self._runs.get(process)
        if host is None:
            return ""
        address = f"[{host.address}]" if ":" in host.address else host.address
        return f"tcp://{address}:{self.port + PORTS_EACH * PROCESSES.index(process) + number}"

    def _nats(self, kind: str, process: str) -> str:
        """Return the endpoint of a process on NATS, "" on ZMQ."""
        return f"{NATS_SCHEME}{self.platform}.{kind}.{process}" if self.url else ""

    def endpoint(self, process: str) -> str:
        """Return the endpoint where a process publishes."""
        if self.url:
            return self._nats("bus", process)
        return self.endpoints.get(process) or self._tcp(process, 0) or self._ipc(process)

    def replay_endpoint(self, process: str) -> str:
        """Return the endpoint where a process answers journal requests."""
        if self.url:
            return self._nats("journal", process)
        given = self.replay_endpoints.get(process) or self._tcp(process, 1)
        return given or self._ipc(f"{process}.journal")

    def beat_endpoint(self, process: str) -> str:
        """Return where a process of several hosts publishes its health, "" on a single host."""
        if self.url:
            return self._nats("beat", process) if process in self._runs else ""
        return self._tcp(process, 2)

    def lock_path(self, endpoint: str) -> Path:
        """Return the file that this host's process with an endpoint on NATS locks."""
        return self._sockets / f"{endpoint.removeprefix(NATS_SCHEME)}.lock"

    @property
    def key_file(self) -> Path:
        """Where `coinspace keys curve` writes this host's key pair."""
        return self._key_file

    def keys(self) -> tuple[str, str] | None:
        """Return this host's public and secret key, None without CURVE.

        Raises: ConfigError when the hosts have keys and this host's pair cannot be read.
        """
        if self.curve_public_key:
            return self.curve_public_key, self.curve_secret_key.get_secret_value()
        if not any(host.public_key for host in self._runs.values()):
            return None
        pair = read_keys(self._key_file)
        if pair is None:
            raise ConfigError(
                f"{self._key_file}: expected this host's keys, found none;"
                " `coinspace keys curve` makes them"
            )
        return pair

    def server_key(self, endpoint: str) -> str:
        """Return the public key of a publisher's host, "" when the settings have none."""
        for process, host in self._runs.items():
            if endpoint in (self._tcp(process, number) for number in range(PORTS_EACH)):
                return host.public_key
        return self.curve_server_keys.get(endpoint) or self.curve_server_key

    @property
    def allowed(self) -> list[str]:
        """Public keys that may connect to this host's publishers."""
        return [*self.curve_allowed, *{host.public_key for host in self._runs.values()}]


def read_keys(path: Path) -> tuple[str, str] | None:
    """Return the public and the secret key of a file, None without the file.

    Raises: ConfigError when the file cannot be read.
    """
    try:
        found = orjson.loads(path.read_bytes())
        return _curve_key(found["public"]), _curve_key(found["secret"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: expected a pair of CURVE keys, {error!r:.100}") from None


class JournalSettings(Section):
    """The journal behind each publisher."""

    enabled: bool = True
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 2 << 30
    """bytes kept per publisher"""
    max_age_s: Annotated[int, Field(ge=1)] = 86_400
    """seconds kept"""
    segment_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 30)] = 1 << 24
    """largest size of a segment; two are reserved per publisher, sized to its rate"""
    min_free_bytes: Annotated[int, Field(ge=0)] = 1 << 29
    """journalling stops when the disk has less free space"""

    @model_validator(mode="after")
    def _segments_fit(self) -> JournalSettings:
        if self.max_bytes < 4 * self.segment_bytes:
            raise ValueError(
                f"expected max_bytes of at least four segments, {4 * self.segment_bytes},"
                f" was {self.max_bytes}"
            )
        return self


class StreamSettings(Section):
    """JetStream streams behind the live bus on NATS: they keep messages until they are stored."""

    enabled: bool = False
    """collectors send their journals to the streams, and storage workers read these"""
    replicas: Annotated[int, Field(ge=0, le=5)] = 0
    """servers that have each message; 0 = three where bus.url has three servers, otherwise one"""
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 4 << 30
    """bytes per stream that no storage worker has taken; beyond it messages wait in the journals"""
    batch_bytes: Annotated[int, Field(ge=1 << 12, le=8 << 20)] = 1 << 18
    """messages that are sent as one; less where the servers accept less"""
    batch_ms: Annotated[int, Field(ge=1, le=10_000)] = 50
    """age of a batch when it is sent"""
    ack_wait_s: Annotated[int, Field(ge=1, le=3600)] = 30
    """another storage worker takes a batch of one that has not been heard of for so long"""


class StoragePolicy(Section):
    """What is stored of some markets; trades, states and rates are always stored."""

    markets: Annotated[list[str], Field(min_length=1)]
    """EXCHANGE:BASE/QUOTE, * for any part"""
    depth: Annotated[int | None, Field(ge=1, le=5000)] = None
    """stored levels per side; unset: storage.depth"""
    books_per_second: Annotated[float, Field(ge=0, le=1000)] = 0
    """the first book of each interval is stored; 0 = every book"""
    tickers_per_second: Annotated[float, Field(ge=0, le=1000)] = 0
    """the same for tickers"""
    archive: bool = True
    """whether `coinspace archive` writes their rows"""

    @field_validator("markets", mode="before")
    @classmethod
    def _one(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("markets")
    @classmethod
    def _markets(cls, patterns: list[str]) -> list[str]:
        return [_stored_market(one) for one in patterns]

    @field_validator("books_per_second", "tickers_per_second")
    @classmethod
    def _at_least(cls, a_second: float) -> float:
        if 0 < a_second < SLOWEST_PER_SECOND:
            raise ValueError(
                f"expected 0 (every message) or at least {SLOWEST_PER_SECOND}, one a minute"
            )
        return a_second


def _stored_market(text: str) -> str:
    pattern = _venue(text.strip())
    exchange, _, market = pattern.partition(":")
    names = any(fnmatchcase(one, exchange) for one in EXCHANGES)
    if pattern != "*" and (not names or "/" not in market):
        raise ValueError(
            f"expected EXCHANGE:BASE/QUOTE of {', '.join(EXCHANGES)}, such as 'upbit:*/KRW',"
            f" or '*', was {text!r}"
        )
    return pattern


class StorageSettings(Section):
    """QuestDB: empty addresses mean the private server that CoinSpace starts itself."""

    ilp: str = ""
    """ILP, 'http::addr=host:9000;', or 'tcp::addr=…;', which is lossy"""
    sql: str = ""
    """postgresql://user:password@host:8812/qdb"""
    readonly_sql: str = ""
    """the same for a user that may only read; empty = as sql"""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """of the private server, 0 = any free one"""
    pg_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    ilp_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """for ILP over TCP, which has no password; 0 = off"""
    health_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    password: SecretStr = SecretStr("")
    """of the private server for other hosts; better in COINSPACE_STORAGE__PASSWORD"""
    java_heap_mb: Annotated[int, Field(ge=128, le=65_536)] = 512
    server_workers: Annotated[int, Field(ge=1, le=64)] = 1
    """threads in each of the private server's pools"""
    server_options: Annotated[dict[str, str], Names(str.upper)] = {}
    """more settings of the private server, QDB_NAME = value"""
    workers: Annotated[int, Field(ge=1, le=STORAGE_WORKERS_LIMIT)] = 1
    """storage workers of each kind; more than one share the streams"""
    batch_rows: Annotated[int, Field(ge=1, le=100_000)] = 1000
    batch_ms: Annotated[int, Field(ge=1, le=60_000)] = 1000
    """age of a batch when it is sent; fewer commits load the server less"""
    request_timeout_ms: Annotated[int, Field(ge=100, le=60_000)] = 5000
    memory_mb: Annotated[int, Field(ge=1, le=65_536)] = 64
    """rows kept while the database does not answer"""
    disk_low_mb: Annotated[int, Field(ge=0)] = 2048
    """a problem is reported when the disk has less free space"""
    depth: Annotated[int, Field(ge=1, le=5000)] = 30
    """stored levels per side, unless the policy says otherwise"""
    policy: list[StoragePolicy] = []
    """what is stored of which markets; the first entry that matches a market counts"""
    ttl: Literal["on", "off"] = "on"
    """default retention; off for replayed history, which it would delete"""
    retention: Annotated[dict[str, Duration], Names(str.lower)] = {}
    """table or view -> "12h", "7d", "2w", "3M", "1y" or "off" (for ever)"""

    @field_validator("password")
    @classmethod
    def _password(cls, password: SecretStr) -> SecretStr:
        # other characters would need quotes, which differ between the protocols
        if not re.fullmatch(r"|[A-Za-z0-9_-]{16,200}", password.get_secret_value()):
            raise ValueError(
                "expected at least 16 letters, digits, _ and -, such as from `openssl rand -hex 24`"
            )
        return password

    @field_validator("server_options")
    @classmethod
    def _server_options(cls, options: dict[str, str]) -> dict[str, str]:
        for name in options:
            if not re.fullmatch(r"QDB_[A-Z0-9_]+", name):
                raise ValueError(
                    f"expected names of QuestDB's variables, such as QDB_CAIRO_O3_MAX_LAG,"
                    f" was {name!r}"
                )
        return options


# sources of USD/KRW -> (address, seconds between two requests)
RATE_SOURCES = {
    "dunamu": ("https://quotation-api-cdn.dunamu.com", 15.0),
    "naver": ("https://m.stock.naver.com", 60.0),
    "yahoo": ("https://query1.finance.yahoo.com", 60.0),
    "eximbank": ("https://oapi.koreaexim.go.kr", 1800.0),
    "ecos": ("https://ecos.bok.or.kr", 1800.0),
    "frankfurter": ("https://api.frankfurter.dev", 1800.0),
}
# sources that answer only with a key
KEYED_SOURCES = ("eximbank", "ecos")


def _rate_source(name: str) -> str:
    found = name.strip().lower()
    if found not in RATE_SOURCES:
        raise ValueError(f"expected some of {', '.join(RATE_SOURCES)}, was {name!r:.60}")
    return found


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected http:// or https://, a host, and no query")
    return text.rstrip("/")


_Source = Annotated[str, AfterValidator(_rate_source)]


class RatesSettings(Section):
    """USD/KRW for the premium against USD: which sources `fx-collector` asks."""

    sources: list[_Source] = ["frankfurter"]
    """in order of trust: dunamu, naver, yahoo, eximbank, ecos, frankfurter; empty = none"""
    urls: Annotated[dict[_Source, Annotated[str, AfterValidator(_address)]], Names(str.lower)] = {}
    """source -> another address"""
    keys: Annotated[dict[_Source, SecretStr], Names(str.lower)] = {}
    """source -> its key (eximbank, ecos); better in COINSPACE_RATES__KEYS"""
    poll_s: Annotated[
        dict[_Source, Annotated[float, Field(ge=1, le=86_400)]], Names(str.lower)
    ] = {}
    """source -> seconds between two requests"""
    holidays: list[str] = []
    """days without a session in Seoul, YYYY-MM-DD, besides weekends and fixed dates"""
    record: bool = True
    """archive the answers below data/archive; about 1 MB a day without yahoo"""

    @field_validator("sources")
    @classmethod
    def _once(cls, sources: list[str]) -> list[str]:
        return list(dict.fromkeys(sources))

    @field_validator("holidays")
    @classmethod
    def _days(cls, days: list[str]) -> list[str]:
        for one in days:
            try:
                date.fromisoformat(one)
            except ValueError:
                raise ValueError(f"expected days as YYYY-MM-DD, was {one!r:.40}") from None
        return days

    def url(self, source: str) -> str:
        """Return the address of a source."""
        return self.urls.get(source) or RATE_SOURCES[source][0]

    def interval_s(self, source: str) -> float:
        """Return the seconds between two requests."""
        return self.poll_s.get(source) or RATE_SOURCES[source][1]

    def key(self, source: str) -> str:
        """Return the key of a source, "" without one."""
        return self.keys[source].get_secret_value() if source in self.keys else ""


class IndexParameters(Section):
    """The method's parameters of one index: every number of the methodology, hashed together."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    mode: Literal["integral", "grid"] = "integral"
    spacing: Annotated[float, Field(gt=0)] = 1.0
    """grid step in base"""
    max_spread: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """D, as a fraction"""
    depth: Literal["coverage", "full"] = "coverage"
    """coverage: no deeper than every venue shows"""
    decay: Annotated[float, Field(gt=0)] = 0.3
    """lambda = 1 / (decay * utilised depth)"""
    decimals: Annotated[int | None, Field(ge=0, le=12)] = None
    """of the published value; unset: 8 significant digits"""
    min_venues: Annotated[int, Field(ge=1)] = 2
    regions: Literal["default", "off"] = "default"
    max_deviation: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """P, as a fraction"""
    reentry: Annotated[float, Field(gt=0, le=1)] = 0.5
    """share of P for re-entry"""
    lag_ms: Annotated[float, Field(gt=0)] = 10_000
    """age at which a book is delayed"""
    frozen_s: Annotated[float, Field(gt=0)] = 60
    """a frozen book is unchanged for this long"""
    frozen_move: Annotated[float, Field(gt=0)] = 0.002
    """while the others move more"""
    cap_band: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """sample of the size cap"""
    cap_min_per_side: Annotated[int, Field(ge=1)] = 50
    cap_trim: Annotated[float, Field(ge=0, le=0.49)] = 0.01
    cap_sigmas: Annotated[float, Field(ge=0)] = 5.0
    clamp: Annotated[float, Field(gt=0)] = 0.005
    """of venue mids in median_capped"""
    alarm: Annotated[float, Field(gt=0)] = 0.001
    """median_capped against regional value"""
    twap_s: Annotated[float, Field(gt=0)] = 60
    twap_coverage: Annotated[float, Field(gt=0, le=1)] = 0.9
    failed_s: Annotated[float, Field(gt=0)] = 60
    """nulls before the index has failed"""
    fx_max_spread: Annotated[float, Field(gt=0, lt=1)] = 0.01
    fx_max_deviation: Annotated[float, Field(gt=0, lt=1)] = 0.01
    fx_hold_s: Annotated[float, Field(ge=0)] = 10
    fx_jump: Annotated[float, Field(gt=0)] = 0.05
    """against the window's median"""
    fx_window_s: Annotated[float, Field(gt=0)] = 300
    fx_confirm: Annotated[float, Field(gt=0)] = 0.01
    """both books agree within"""
    fx_confirm_s: Annotated[float, Field(ge=0)] = 2
    sizes: list[float] = [
        1.0,
        10.0,
    ]
    """of liquidity-weighted prices, in base"""
    taker_fees: Annotated[dict[str, Annotated[float, Field(ge=0, lt=1)]], Names(str.lower)] = {}
    """exchange -> fraction, for executable prices"""
    usd_krw: Annotated[float | None, Field(gt=0)] = None
    """constant USD/KRW for premium a and c, used while [rates] gives none"""


def default_overrides() -> dict[str, dict[str, Any]]:
    """Return the parameters in which assets differ when nothing is set."""
    return {
        "BTC": {"max_spread": 0.005, "decimals": 2},
        "ETH": {"decimals": 2},
        "SOL": {"decimals": 3},
        "XRP": {"decimals": 5},
    }


def _asset(text: str) -> str:
    name = as_named(text.strip())
    try:
        Market.parse(f"{name}/{RATED_QUOTES[0]}")
    except MarketError:
        raise ValueError(f"expected the name of an asset such as 'BTC', was {name!r}") from None
    return name


def _is_asset(text: str) -> bool:
    try:
        return _asset(text) == text
    except ValueError:
        return False


def _asset_or_pattern(text: str) -> str:
    name = as_named(text.strip())
    if "*" in name:
        # a name results when each * stands for a letter
        _asset(name.replace("*", "X"))
        return name
    return _asset(name)


def _changes(changes: dict[str, Any]) -> dict[str, Any]:
    # converted to the parameters' types: an environment variable has only text
    try:
        found = index_parameters(changes, "parameter")
    except ConfigError as error:
        texts = [line.partition(": ")[2] for line in str(error).splitlines()]
        raise ValueError("; ".join(texts)) from None
    return {name: getattr(found, name) for name in changes}


_Changes = Annotated[dict[str, Any], Names(like=IndexParameters), AfterValidator(_changes)]


# an index takes about 200 KB over all processes; no exchange lists more coins
MOST_ASSETS = 5000


class IndexSettings(Section):
    """The index; see the methodology for the meaning of each parameter."""

    assets: list[str] = list(ASSETS)
    """names, and patterns such as '*' for assets with venues in each region"""
    minimum_venues: Annotated[int, Field(ge=1)] = 2
    """venues that an asset of a pattern needs"""
    constituents: list[str] = list(CONSTITUENTS)
    """which collected markets count: exchange:BASE/QUOTE, * for any"""
    interval_ms: Annotated[int, Field(ge=0, le=60_000)] = 200
    """0 = a tick at each update; waiting updates share one"""
    pattern_interval_ms: Annotated[int, Field(ge=1, le=60_000)] = 1000
    """of assets that a pattern brings in; a multiple of interval_ms"""
    grace_ms: Annotated[int, Field(ge=0, le=10_000)] = 50
    parameters: IndexParameters = IndexParameters()
    overrides: Annotated[
        dict[Annotated[str, AfterValidator(_asset)], _Changes], Names(as_named)
    ] = Field(default_factory=default_overrides)
    """asset -> parameters that differ"""
    next: _Changes = {}
    """parameters of a candidate that runs beside the live one, {} = none"""
    excluded: Annotated[dict[str, str], Names(_venue)] = {}
    """excluded venue -> the operator's name and reason"""
    _patterns: tuple[str, ...] = PrivateAttr(default=())
    # assets that a pattern brought in
    _shared: frozenset[str] = PrivateAttr(default=frozenset())

    @field_validator("assets")
    @classmethod
    def _assets(cls, assets: list[str]) -> list[str]:
        return list(dict.fromkeys(_asset_or_pattern(one) for one in assets))

    @field_validator("constituents")
    @classmethod
    def _constituents(cls, patterns: list[str]) -> list[str]:
        return [_constituent(one) for one in patterns]

    @model_validator(mode="after")
    def _common_facts(self) -> IndexSettings:
        # one rate and one set of venue facts serve all assets, live and candidate
        for asset, changes in self.overrides.items():
            _refuse(changes, ("fx_",), f"overrides.{asset}", "one rate serves all assets")
        _refuse(
            self.next, ("fx_", "lag_ms"), "next", "the live index and the candidate share books"
        )
        return self

    def model_post_init(self, context: Any, /) -> None:
        self._patterns = tuple(one for one in self.assets if "*" in one)

    def share(self, venues: Mapping[str, int]) -> None:
        """Replace the patterns in `assets` by the assets that they mean.

        Args: venues: asset -> number of its venues, the most important assets first.
        """
        named = self.named
        found = [
            asset
            for asset, n_venues in venues.items()
            if n_venues >= self.minimum_venues
            and asset not in named
            and any(fnmatchcase(asset, pattern) for pattern in self._patterns)
        ]
        self.assets = named + found
        self._shared = frozenset(found)

    def admit(self, asset: str) -> bool:
        """Give an asset of a pattern an index from now on; return whether it is new.

        The list of assets stays the same object, so that everything that has it knows the asset.
        """
        # asked for each record: without patterns there is nothing to look for
        if not self._patterns or asset in self.assets:
            return False
        if not (self.may_have(asset) and _is_asset(asset)) or len(self.assets) >= MOST_ASSETS:
            return False
        self.assets.append(asset)
        self._shared |= {asset}
        return True

    def is_shared(self, asset: str) -> bool:
        """Return whether a pattern brought an asset in."""
        return asset in self._shared

    def may_have(self, asset: str) -> bool:
        """Return whether an asset has an index, or may have one by a pattern."""
        return asset in self.assets or any(fnmatchcase(asset, one) for one in self._patterns)

    @property
    def named(self) -> list[str]:
        """The assets that no pattern has brought in."""
        return [one for one in self.assets if "*" not in one and one not in self._shared]

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns that `assets` was given with."""
        return self._patterns

    def interval_ms_of(self, asset: str) -> int:
        """Return the interval of an asset's ticks in ms, 0 = a tick at each update."""
        if self.interval_ms and asset in self._shared:
            return self.pattern_interval_ms
        return self.interval_ms

    def parameters_of(self, asset: str, *, candidate: bool = False) -> IndexParameters:
        """Return the parameters of an asset's index.

        Args: candidate: the set announced as `next` instead of the live one.
        Raises: ConfigError naming an unknown key or a value out of range.
        """
        changes = dict(self.overrides.get(asset, {}))
        if candidate:
            changes |= self.next
        return index_parameters({**self.parameters.model_dump(), **changes}, f"index of {asset}")


def _constituent(text: str) -> str:
    pattern = _venue(text.strip())
    exchange, _, market = pattern.partition(":")
    base, _, quote = market.partition("/")
    if not base or not quote or not any(fnmatchcase(one, exchange) for one in EXCHANGES):
        raise ValueError(
            f"expected EXCHANGE:BASE/QUOTE such as 'upbit:*/KRW' of {', '.join(EXCHANGES)},"
            f" was {text!r}"
        )
    if not any(fnmatchcase(one, quote) for one in RATED_QUOTES):
        raise ValueError(
            f"expected a quote that has a rate, {' or '.join(RATED_QUOTES)}, was {text!r}"
        )
    return pattern


def _refuse(changes: dict[str, Any], heads: tuple[str, ...], where: str, why: str) -> None:
    for key in changes:
        if key.startswith(heads):
            raise ValueError(f"{where}.{key}: expected only in index.parameters, since {why}")


def index_parameters(values: dict[str, Any], where: str) -> IndexParameters:
    """Check the parameters of an index. Raises: ConfigError."""
    for key in values:
        if key not in IndexParameters.model_fields:
            raise ConfigError(
                f"{where}: {_unknown('parameter', key, list(IndexParameters.model_fields))}"
            )
    try:
        return IndexParameters(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from None


def public_fees() -> dict[str, float]:
    """Return the taker fee that each exchange publishes, where it is known."""
    fees = ((one.NAME, getattr(one, "TAKER_FEE", None)) for one in every())
    return {name: fee for name, fee in fees if fee is not None}


class EndpointSettings(Section):
    """The HTTP API; rates are written as in "100/second", empty = no limit."""

    host: str = "127.0.0.1"
    """any address but loopback needs API keys"""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    hosts: list[str] = []
    """names in Host besides loopback and own address; '*' = any, needs keys"""
    require_keys: bool = False
    """require a key on loopback too"""
    keys: str = ""
    """file of hashed keys; data/keys.json when empty"""
    rate_per_address: str = "50/second"
    """requests without a key"""
    rate_per_key: str = "200/second"
    """requests with one key"""
    limit_loopback: bool = False
    """rate limits for this machine too"""
    trusted_proxies: list[str] = []
    """addresses or networks whose X-Forwarded-For is trusted"""
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """open connections at most"""
    connections_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """open connections per address or IPv6 /64 network"""
    cors_origins: list[str] = []
    """origins that browsers may call from"""
    max_streams: Annotated[int, Field(ge=1, le=100_000)] = 5000
    """open streams at most"""
    stream_stall_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """a stream that reads nothing for this long is dropped"""
    heartbeat_s: Annotated[float, Field(gt=0, le=300)] = 5.0
    """seconds between heartbeats"""
    resume_s: Annotated[float, Field(ge=0, le=600)] = 30.0
    """how far back streams resume"""
    stale_ms: Annotated[int, Field(ge=100)] = 3000
    """a value older than this is stale"""
    query_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    connections: Annotated[int, Field(ge=1, le=32)] = 4
    """database connections"""
    taker_fees: Annotated[dict[str, Annotated[float, Field(ge=0, lt=1)]], Names(str.lower)] = Field(
        default_factory=public_fees
    )
    """exchange -> fraction; one that is left out has its public fee"""
    trade_sizes: Annotated[list[Annotated[float, Field(gt=0, le=1e15)]], Field(max_length=8)] = [
        1e6,
        1e7,
        1e8,
        1e9,
    ]
    """KRW, for what trades leave of a premium"""
    downloads: Annotated[int, Field(ge=1, le=1000)] = 4
    """downloads of whole ranges at the same time"""
    download_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """time limit of a download"""

    @field_validator("taker_fees")
    @classmethod
    def _fees(cls, fees: dict[str, float]) -> dict[str, float]:
        return public_fees() | fees

    @field_validator("host")
    @classmethod
    def _host(cls, host: str) -> str:
        # as in an address: [::1]
        return host.removeprefix("[").removesuffix("]") if host.startswith("[") else host

    @property
    def url(self) -> str:
        """Where this machine reaches the endpoint."""
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


class TuningSettings(Section):
    """What to give up for latency; all off by default. Patterns match process names."""

    cpus: Annotated[dict[str, list[int]], Names(_process)] = {}
    """pattern -> processors, as {'orderbook-collector-*' = [2]}"""
    spin: list[str] = []
    """patterns of processes that never sleep; each uses a whole processor"""
    nice: Annotated[int, Field(ge=-20, le=19)] = 0
    """added to every process; below 0 needs permission"""
    gc: Literal["on", "frozen", "off"] = "frozen"
    """frozen: objects of the start-up are not scanned; off: no cycle is freed"""
    receive_buffer: Annotated[int, Field(ge=0, le=1 << 30)] = 0
    """bytes per exchange socket; 0 = the system's"""
    busy_poll_us: Annotated[int, Field(ge=0, le=1000)] = 0
    """SO_BUSY_POLL of exchange sockets; 0 = off"""


class MetricsSettings(Section):
    """Where each process serves its own metrics, at /metrics and without a key."""

    enabled: bool = True
    host: Annotated[
        str, Field(description="an address that others reach needs a firewall before it")
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Field(
            ge=0,
            le=65_535 - len(PROCESSES),
            description="of the first process, the others follow; 0 = free ports, which"
            " data/run/targets names for Prometheus",
        ),
    ] = 0

    def port_of(self, process: str) -> int:
        """Return the port of a process, 0 = any free one."""
        return self.port + PROCESSES.index(process) if self.port and process in PROCESSES else 0


class SupervisorSettings(Section):
    hang_s: Annotated[float, Field(ge=5, le=3600)] = 20.0
    """a process that is silent for this long is restarted"""
    standby: bool = False
    """run a standby of the aggregator and of the calculator"""


class Settings(Section):
    data: UserPath = Path(".coinspace")
    """folder of everything stored locally"""
    host: str = ""
    """this machine's name in `hosts`; empty = the host that has an address of this machine"""
    hosts: Annotated[dict[str, HostSettings], Names(str.lower)] = {}
    """name -> address and roles of each of several hosts; empty = all on this machine"""
    exchanges: Annotated[dict[str, ExchangeSettings], Names(str.lower)] = Field(
        default_factory=default_exchanges
    )
    bus: BusSettings = Field(default_factory=BusSettings)
    journal: JournalSettings = Field(default_factory=JournalSettings)
    streams: StreamSettings = Field(default_factory=StreamSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    index: IndexSettings = Field(default_factory=IndexSettings)
    rates: RatesSettings = Field(default_factory=RatesSettings)
    endpoint: EndpointSettings = Field(default_factory=EndpointSettings)
    tuning: TuningSettings = Field(default_factory=TuningSettings)
    supervisor: SupervisorSettings = Field(default_factory=SupervisorSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    _host_of: dict[str, str] = PrivateAttr(default_factory=dict)
    _own_host: str | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any, /) -> None:
        self.bus._sockets = Path(self.bus.directory) if self.bus.directory else self.data / "run"
        self.bus._key_file = self.data / "curve.json"
        self._host_of = several.assigned(self.hosts, PROCESSES)
        self.bus._runs = {name: self.hosts[host] for name, host in self._host_of.items()}

    @property
    def collected(self) -> list[str]:
        """The exchanges of which markets are collected."""
        return [name for name, section in self.exchanges.items() if section.markets]

    @property
    def depths(self) -> dict[str, float]:
        """Published levels per side of each exchange that is collected, or would be by default.

        With price groups also how far they reach, and the groups of single markets.
        """
        found: dict[str, float] = {}
        for name, section in self.exchanges.items():
            if section.markets or exchange_named(name).BY_DEFAULT:
                found[name] = section.depth
                if section.group_reach:
                    found[f"{name} groups"] = section.group_reach
                for market, level in section.group_levels.items():
                    found[f"{name} groups {market}"] = level
        return found

    def processes(self) -> list[tuple[str, list[str]]]:
        """Return (process name, command arguments) of every process, in flow order.

        With several hosts, processes that no host runs are left out.
        """
        found = [
            *((f"{kind}-{name}", [kind, name]) for kind in COLLECTORS for name in self.collected),
            *((name, [name]) for name in (RATE_COLLECTOR,) if self.rates.sources),
            *((name, [name]) for name in WORKERS),
            *(
                (storage_worker(kind, number), [kind, "--number", str(number)])
                for number in range(2, self.storage.workers + 1)
                for kind in WORKERS[:2]
            ),
            *((name, [name]) for name in (ALERTER,) if self.alerts.rules),
        ]
        return [one for one in found if not self.hosts or one[0] in self._host_of]

    @property
    def has_rates(self) -> bool:
        """Whether some host collects USD/KRW."""
        return bool(self.rates.sources) and (not self.hosts or RATE_COLLECTOR in self._host_of)

    @property
    def own_host(self) -> str:
        """Name of this machine in `hosts`; "" when there is none, or when it is not known."""
        if self._own_host is None:
            self._own_host = several.own(self.hosts, self.host.lower())
        return self._own_host

    def host_of(self, process: str) -> str:
        """Return the name of the host that runs a process, "" on a single host."""
        return self._host_of.get(process, "")

    def here(self, process: str) -> bool:
        """Return whether a process runs on this machine."""
        return not self.hosts or self.host_of(process) == self.own_host != ""

    @property
    def hosts_digest(self) -> str:
        """A short text that is equal on two hosts when their tables `hosts` are."""
        facts = {name: [one.address, sorted(one.roles)] for name, one in self.hosts.items()}
        text = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(text, digest_size=8).hexdigest()

    @property
    def private_server(self) -> bool:
        """Whether this machine runs the private QuestDB server."""
        return not self.storage.ilp and self.here("questdb")

    @property
    def shared_server(self) -> str:
        """Address of the private server that processes of other hosts use, "" = loopback only."""
        host = self.host_of("questdb")
        if self.storage.ilp or all(self.host_of(one) in ("", host) for one in DATABASE_USERS):
            return ""
        return self.hosts[host].address if host else ""


# environment variables that are not settings
NOT_SETTINGS = {
    "COINSPACE_CONFIG",
    "COINSPACE_DEBUG",
    "COINSPACE_FEEDS",
    "COINSPACE_KEY",
    "COINSPACE_BUILD",
    "COINSPACE_MARCH",
    "COINSPACE_ANNOTATE",
    "COINSPACE_CACHE",
    "COINSPACE_PARENT",
    "COINSPACE_STANDBY",
    "COINSPACE_QUESTDB_JAR",
}


def load(path: Path | str | None = None) -> Settings:
    """Read the settings.

    Args: path: the file; by default $COINSPACE_CONFIG or ./coinspace.toml where it exists.
    Raises: ConfigError naming the key, what was expected and the nearest valid key.
    """
    asked = path or os.environ.get("COINSPACE_CONFIG")
    chosen = Path(asked or "coinspace.toml")
    values = read_file(chosen)
    if values is None and asked:
        raise ConfigError(
            f"configuration file {chosen}: expected a file, found none;"
            " `coinspace config init` writes one"
        )
    where = "settings" if values is None else str(chosen)
    environment = read_environment(Settings, _variables())
    given = merged(spelled(Settings, values or {}), environment.values)
    settings = _settings(merged(_defaults(), given), where, environment)
    if settings.index.patterns:
        settings.index.share(read_venues(settings.data))
    return settings


def venues_path(data: Path) -> Path:
    """Return the file that has the number of venues of each asset."""
    return data / "assets.json"


def read_venues(data: Path) -> dict[str, int]:
    """Return asset -> number of its venues, {} = not known yet. Raises: ConfigError."""
    path = venues_path(data)
    try:
        found = orjson.loads(path.read_bytes())
        return {str(asset): int(number) for asset, number in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: expected the numbers of venues of assets: {error};"
            " `coinspace assets --update` writes the file"
        ) from None


def keep_venues(data: Path, venues: Mapping[str, int]) -> None:
    """Write the file that `read_venues` reads. Raises: ConfigError."""
    path = venues_path(data)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, orjson.dumps(venues, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise ConfigError(f"{path}: expected a place to write, {error.strerror}") from None


def _variables() -> dict[str, str]:
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    found = {}
    for variable, text in os.environ.items():
        name = variable.upper()
        if not name.startswith(PREFIX) or name in NOT_SETTINGS:
            continue
        if name.split("__")[0] not in known:
            raise ConfigError(_unknown("environment variable", variable, sorted(known)))
        found[variable] = text
    return found


def _defaults() -> dict[str, Any]:
    # tables whose entries are merged one by one
    exchanges = {name: one.model_dump() for name, one in default_exchanges().items()}
    return {"exchanges": exchanges, "index": {"overrides": default_overrides()}}


def _settings(values: dict[str, Any], where: str, environment: Environment) -> Settings:
    exchanges = values.get("exchanges")
    for name in exchanges if isinstance(exchanges, dict) else ():
        if name not in EXCHANGES:
            source = environment.origin(("exchanges", name)) or where
            problem = UNUSABLE.get(name) or _unknown("exchange", name, list(EXCHANGES))
            raise ConfigError(f"{source}: {problem}")
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, where, environment)) from None
    for place, problem in _contradictions(settings):
        source = environment.origin(tuple(place.split("."))) or where
        raise ConfigError(f"{source}: {place}: {problem}")
    return settings


def _hosts(settings: Settings) -> Iterator[tuple[str, str]]:
    for host, problem in several.problems(settings.hosts, PROCESSES):
        yield f"hosts.{host}", problem
    if settings.host and settings.host.lower() not in settings.hosts:
        yield "host", _unknown("host", settings.host, list(settings.hosts) or ["no host"])
    if not settings.hosts:
        return
    if not settings.host_of("questdb") and not settings.storage.ilp:
        yield "hosts", "expected a host with the role questdb, or storage.ilp and storage.sql"
    if settings.shared_server and not settings.storage.password.get_secret_value():
        yield (
            "storage.password",
            "expected a password, as QuestDB serves other hosts; set COINSPACE_STORAGE__PASSWORD"
            " to the same on all hosts",
        )


def _contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    # checks that need several sections: (place, problem)
    yield from _hosts(settings)
    if settings.streams.enabled and not settings.bus.url:
        yield "streams.enabled", "expected bus.url, as streams are kept by NATS servers"
    if settings.streams.enabled and not settings.journal.enabled:
        yield "streams.enabled", "expected journal.enabled, as streams are filled from the journals"
    if settings.storage.workers > 1 and not settings.streams.enabled:
        yield "storage.workers", "expected 1 without streams.enabled, as workers share the streams"
    for source in settings.rates.sources:
        if source in KEYED_SOURCES and not settings.rates.key(source):
            yield f"rates.keys.{source}", f"expected a key, as rates.sources names {source}"
    for name, exchange in settings.exchanges.items():
        module = exchange_named(name)
        if exchange.format == "sbe" and not hasattr(module, "uses_sbe"):
            yield f"exchanges.{name}.format", f"expected a JSON format, as {name} has no SBE"
        if exchange.correct_touch and not module.UPDATES:
            yield f"exchanges.{name}.correct_touch", "expected false: its books come whole"
        if module.SNAPSHOTS_IN_STREAM and (exchange.links > 1 or exchange.correct_touch):
            key = "links" if exchange.links > 1 else "correct_touch"
            problem = "expected the default: its updates have no ids to put them in order by"
            yield f"exchanges.{name}.{key}", problem
        yield from _groups(settings, name)
    for key in ("endpoints", "replay_endpoints"):
        for process in getattr(settings.bus, key):
            if process not in PROCESSES:
                yield f"bus.{key}", _unknown("process", process, list(PROCESSES))
    index = settings.index
    if index.patterns and index.interval_ms and index.pattern_interval_ms % index.interval_ms:
        yield (
            "index.pattern_interval_ms",
            f"expected a multiple of index.interval_ms, {index.interval_ms},"
            f" was {index.pattern_interval_ms}",
        )
    fees = {"parameters": index.parameters.taker_fees, "next": index.next.get("taker_fees", {})}
    fees |= {f"overrides.{one}": own.get("taker_fees", {}) for one, own in index.overrides.items()}
    tables = {f"index.{where}": table for where, table in fees.items()}
    for where, table in (tables | {"endpoint": settings.endpoint.taker_fees}).items():
        for name in table:
            if name not in EXCHANGES:
                yield f"{where}.taker_fees", _unknown("exchange", name, list(EXCHANGES))
    for venue in index.excluded:
        name, _, market = venue.partition(":")
        if name not in EXCHANGES:
            yield "index.excluded", _unknown("exchange", name, list(EXCHANGES))
        elif not collects(settings, name, market):
            yield "index.excluded", _not_collected(settings, name, market)
    for pattern in index.constituents:
        name, _, market = pattern.partition(":")
        exchanges = [one for one in EXCHANGES if fnmatchcase(one, name)]
        if pattern not in CONSTITUENTS and not any(
            collects(settings, one, market) for one in exchanges
        ):
            yield "index.constituents", _not_collected(settings, exchanges[0], market)


def _groups(settings: Settings, name: str) -> Iterator[tuple[str, str]]:
    section, module = settings.exchanges[name], exchange_named(name)
    if module.GROUPING is None:
        for key in ("group_levels", "group_reach"):
            if getattr(section, key):
                offer = ", ".join(one for one in EXCHANGES if exchange_named(one).GROUPING)
                problem = (
                    f"expected none, as the stream of {name} has no price groups; {offer} have"
                )
                yield f"exchanges.{name}.{key}", problem
        return
    for market in section.group_levels:
        if not collects(settings, name, market):
            yield f"exchanges.{name}.group_levels", _not_collected(settings, name, market)
        elif market.rpartition("/")[2] not in module.QUOTES:
            quotes = " or ".join(module.QUOTES)
            problem = f"expected markets in {quotes}, as only they have groups, was {market!r}"
            yield f"exchanges.{name}.group_levels", problem


def collects(settings: Settings, exchange: str, market: str) -> bool:
    """Return whether the settings can make an exchange's collector collect a market.

    Args: market: a name or a pattern.
    """
    listed = settings.exchanges[exchange].markets
    if "*" in market:
        # two patterns cannot be compared before the exchange has listed its markets
        return any("*" in one or fnmatchcase(one, market) for one in listed)
    return any(fnmatchcase(market, one) for one in listed)


def _not_collected(settings: Settings, exchange: str, market: str) -> str:
    listed = settings.exchanges[exchange].markets
    near = difflib.get_close_matches(market, listed, n=1, cutoff=0.8)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(listed) or 'none'}"
    return f"expected a market of exchanges.{exchange}.markets, was {market!r}: {hint}"


def _unknown(kind: str, name: str, valid: list[str]) -> str:
    return f"unknown {kind} {name!r}: {nearest(name, valid)}"


def nearest(name: str, valid: list[str]) -> str:
    """Return the valid name that may have been meant, or all of them."""
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(valid)}"


def _explain(error: ValidationError, where: str, environment: Environment | None = None) -> str:
    lines = []
    for one in error.errors():
        place = ".".join(str(part) for part in one["loc"])
        source = (environment.origin(one["loc"]) if environment else None) or where
        if one["type"] == "extra_forbidden":
            lines.append(f"{source}: {_unknown('key', place, list(_keys(Settings)))}")
            continue
        text = one["msg"].removeprefix("Value error, ")
        shown = "" if one["type"] == "value_error" else _shown(one["loc"], one.get("input"))
        lines.append(f"{source}: {place}: {text}{shown}")
    return "\n".join(lines)


# sections and keys whose values may contain a password or a key
_SECRET_PLACES = {
    *("bus", "storage", "keys", "api_key", "websocket", "sbe_websocket", "rest", "targets"),
}
# a longer text may be a secret in the wrong place
_SHOWN_LENGTH = 20


def _shown(place: tuple[Any, ...], value: Any) -> str:
    # what the user wrote, unless it may contain a secret
    kind = {dict: "a table", list: "a list", bool: "a boolean", str: "a text"}.get(type(value))
    hidden = kind or "another value"
    if isinstance(value, (int, float)) or value is None:
        secret = any(re.search(SECRET_NAME, str(part), re.IGNORECASE) for part in place)
        return f", was {hidden if secret else repr(value)}"
    if not isinstance(value, str) or len(value) > _SHOWN_LENGTH:
        return f", was {hidden}"
    places = {str(part).lower() for part in place}
    secret = bool(places & _SECRET_PLACES) or bool(re.search("://|[=@]", value))
    return f", was {hidden if secret else repr(value)}"


# a name that contains one of these words names a secret
SECRET_NAME = r"password|passwd|pwd|secret|token|credential|private|curve|keys?$"


def _keys(section: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield f"{before}{name}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{before}{name}.")
    if section is Settings:
        for exchange in EXCHANGES:
            yield from _keys(ExchangeSettings, f"exchanges.{exchange}.")
        yield from _keys(AlertRule, "alerts.rules.NAME.")
        yield from _keys(AlertTarget, "alerts.targets.NAME.")
