"""Settings: `coinspace.toml` and `COINSPACE_*` environment variables, typed and validated.

Order: environment over file over defaults. A key that does not exist is an error that names
the nearest valid one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import click
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from coinspace.errors import ConfigError, MarketError
from coinspace.market import Market

EXCHANGES = ("upbit", "bithumb", "binance")
COLLECTORS = ("orderbook-collector", "ticker-collector")
WORKERS = (
    "orderbook-storage-worker",
    "ticker-storage-worker",
    "orderbook-aggregator",
    "index-calculator",
    "index-endpoint",
)
ASSETS = ("BTC", "ETH", "XRP", "SOL")
# sockaddr_un.sun_path holds 108 bytes with its closing zero
IPC_PATH_LIMIT = 107
# 32 bytes written in Z85
CURVE_KEY_SIZE = 40


class Section(BaseModel):
    """Base of all sections: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class ExchangeSettings(Section):
    """One exchange: where it is and what to collect."""

    websocket: str
    rest: str
    markets: list[str]
    depth: Annotated[int, Field(ge=1, le=5000, description="published levels per side")] = 30
    snapshot_depth: Annotated[
        int, Field(ge=100, le=5000, description="levels of a REST snapshot (exchanges of diffs)")
    ] = 5000
    record: Annotated[bool, Field(description="archive raw frames below data/archive")] = False
    format: Annotated[
        Literal["SIMPLE", "DEFAULT", "SIMPLE_LIST", "JSON_LIST"],
        Field(description="spelling of Upbit's and Bithumb's frames; lists only Upbit's"),
    ] = "SIMPLE"
    microseconds: Annotated[bool, Field(description="ask Binance for times in µs")] = True
    group_levels: Annotated[
        dict[str, int],
        Field(description="market -> price grouping of a second Upbit book that extends the depth"),
    ] = {}
    stale_after_s: Annotated[
        float, Field(gt=4, le=3600, description="silence after which a book counts as stale")
    ] = 20.0
    compare_interval_s: Annotated[
        float, Field(ge=5, le=86_400, description="seconds between REST comparisons of all books")
    ] = 60.0
    ca_file: Annotated[
        Path | None, Field(description="PEM file of the only certificate authorities to trust")
    ] = None

    @field_validator("markets")
    @classmethod
    def _markets(cls, markets: list[str]) -> list[str]:
        for market in markets:
            if "*" not in market:
                Market.parse(market)
        return markets


def _korean(websocket: str, rest: str) -> ExchangeSettings:
    markets = [f"{base}/KRW" for base in (*ASSETS, "USDT")]
    return ExchangeSettings(websocket=websocket, rest=rest, markets=markets)


def _default_exchanges() -> dict[str, ExchangeSettings]:
    return {
        "upbit": _korean("wss://api.upbit.com/websocket/v1", "https://api.upbit.com"),
        "bithumb": _korean("wss://ws-api.bithumb.com/websocket/v1", "https://api.bithumb.com"),
        "binance": ExchangeSettings(
            websocket="wss://stream.binance.com:9443",
            rest="https://api.binance.com",
            markets=[f"{base}/USDT" for base in ASSETS],
            depth=1000,
        ),
    }


class BusSettings(Section):
    """The ZMQ bus: one PUB socket per publishing process, and a side socket for its journal."""

    endpoints: Annotated[
        dict[str, str],
        Field(description="process name -> tcp://host:port; ipc below data/run by default"),
    ] = {}
    replay_endpoints: Annotated[
        dict[str, str], Field(description="process name -> tcp://host:port of its journal")
    ] = {}
    high_water_mark: Annotated[
        int, Field(ge=1, le=1_000_000, description="messages queued per peer before drops")
    ] = 20_000
    directory: Annotated[str, Field(description="folder of ipc sockets; empty = data/run")] = ""
    curve_public_key: Annotated[
        str,
        Field(description="Z85 key of this host; with the secret key: CURVE on all tcp"),
    ] = ""
    curve_secret_key: Annotated[
        SecretStr, Field(description="better in COINSPACE_BUS__CURVE_SECRET_KEY than in a file")
    ] = SecretStr("")
    curve_server_key: Annotated[str, Field(description="Z85 public key of the publishers")] = ""
    curve_server_keys: Annotated[
        dict[str, str], Field(description="tcp endpoint -> public key where it is another one")
    ] = {}
    curve_allowed: Annotated[
        list[str], Field(description="Z85 public keys that may connect to this host's publishers")
    ] = []
    _sockets: Path = PrivateAttr(default=Path("run"))

    @field_validator("curve_public_key", "curve_server_key")
    @classmethod
    def _curve_key(cls, key: str) -> str:
        if key and (len(key) != CURVE_KEY_SIZE or not key.isascii()):
            raise ValueError(f"expected a CURVE key of {CURVE_KEY_SIZE} Z85 characters")
        return key

    @field_validator("curve_allowed")
    @classmethod
    def _curve_keys(cls, keys: list[str]) -> list[str]:
        return [cls._curve_key(key) for key in keys]

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

    def endpoint(self, process: str) -> str:
        """Return the PUB endpoint of a process."""
        return self.endpoints.get(process) or self._ipc(process)

    def replay_endpoint(self, process: str) -> str:
        """Return the endpoint where a process answers journal requests."""
        return self.replay_endpoints.get(process) or self._ipc(f"{process}.journal")


class JournalSettings(Section):
    """The journal behind each publisher."""

    enabled: bool = True
    max_bytes: Annotated[int, Field(ge=1 << 20, description="bytes kept per publisher")] = 2 << 30
    max_age_s: Annotated[int, Field(ge=1, description="seconds kept")] = 86_400
    segment_bytes: Annotated[
        int, Field(ge=1 << 16, le=1 << 30, description="reserved at once, two per publisher")
    ] = 1 << 24
    min_free_bytes: Annotated[
        int, Field(ge=0, description="left free on the disk: below it journalling stops")
    ] = 1 << 29

    @model_validator(mode="after")
    def _segments_fit(self) -> JournalSettings:
        if self.max_bytes < 4 * self.segment_bytes:
            raise ValueError(
                f"expected max_bytes of at least four segments, {4 * self.segment_bytes},"
                f" was {self.max_bytes}"
            )
        return self


class StorageSettings(Section):
    """QuestDB: empty addresses mean the private server that CoinSpace starts itself."""

    ilp: Annotated[
        str,
        Field(description="ILP, 'http::addr=host:9000;', or 'tcp::addr=…;', which is lossy"),
    ] = ""
    sql: Annotated[str, Field(description="postgresql://user:password@host:8812/qdb")] = ""
    readonly_sql: Annotated[
        str, Field(description="the same for a user that may only read; empty = as sql")
    ] = ""
    http_port: Annotated[
        int, Field(ge=0, le=65_535, description="of the private server, 0 = any free one")
    ] = 0
    pg_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    ilp_port: Annotated[
        int,
        Field(ge=0, le=65_535, description="for ILP over TCP, which knows no password; 0 = off"),
    ] = 0
    health_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    java_heap_mb: Annotated[int, Field(ge=128, le=65_536)] = 512
    server_workers: Annotated[
        int, Field(ge=1, le=64, description="threads in each of the private server's pools")
    ] = 1
    server_options: Annotated[
        dict[str, str], Field(description="more settings of the private server, QDB_NAME = value")
    ] = {}
    batch_rows: Annotated[int, Field(ge=1, le=100_000)] = 1000
    batch_ms: Annotated[
        int,
        Field(
            ge=1,
            le=60_000,
            description="a batch leaves at this age; the server's load is by commit, not by row",
        ),
    ] = 1000
    request_timeout_ms: Annotated[int, Field(ge=100, le=60_000)] = 5000
    memory_mb: Annotated[
        int, Field(ge=1, le=65_536, description="rows kept while the database does not answer")
    ] = 64
    disk_low_mb: Annotated[
        int, Field(ge=0, description="free space on the data disk below which to complain")
    ] = 2048
    depth: Annotated[int, Field(ge=1, le=5000, description="stored levels per side")] = 30
    ttl: Annotated[
        Literal["on", "off"], Field(description="off for replayed history, which TTL would evict")
    ] = "on"


class IndexParameters(Section):
    """The method's parameters of one index: every number of the methodology, hashed together."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    mode: Literal["integral", "grid"] = "integral"
    spacing: Annotated[float, Field(gt=0, description="grid step in base")] = 1.0
    max_spread: Annotated[float, Field(gt=0, lt=1, description="D, as a fraction")] = 0.01
    depth: Annotated[
        Literal["coverage", "full"], Field(description="coverage: no deeper than every venue shows")
    ] = "coverage"
    decay: Annotated[float, Field(gt=0, description="lambda = 1 / (decay * utilised depth)")] = 0.3
    decimals: Annotated[int, Field(ge=0, le=12, description="of the published value")] = 4
    min_venues: Annotated[int, Field(ge=1)] = 2
    regions: Literal["default", "off"] = "default"
    max_deviation: Annotated[float, Field(gt=0, lt=1, description="P, as a fraction")] = 0.05
    reentry: Annotated[float, Field(gt=0, le=1, description="share of P to come back")] = 0.5
    lag_ms: Annotated[float, Field(gt=0, description="age at which a book is delayed")] = 10_000
    frozen_s: Annotated[float, Field(gt=0, description="unchanged for so long")] = 60
    frozen_move: Annotated[float, Field(gt=0, description="while the others moved more")] = 0.002
    cap_band: Annotated[float, Field(ge=0, lt=1, description="sample of the size cap")] = 0.05
    cap_min_per_side: Annotated[int, Field(ge=1)] = 50
    cap_trim: Annotated[float, Field(ge=0, le=0.49)] = 0.01
    cap_sigmas: Annotated[float, Field(ge=0)] = 5.0
    clamp: Annotated[float, Field(gt=0, description="of venue mids in median_capped")] = 0.005
    alarm: Annotated[float, Field(gt=0, description="median_capped against regional value")] = 0.001
    twap_s: Annotated[float, Field(gt=0)] = 60
    twap_coverage: Annotated[float, Field(gt=0, le=1)] = 0.9
    failed_s: Annotated[float, Field(gt=0, description="nulls before the index has failed")] = 60
    fx_max_spread: Annotated[float, Field(gt=0, lt=1)] = 0.01
    fx_max_deviation: Annotated[float, Field(gt=0, lt=1)] = 0.01
    fx_hold_s: Annotated[float, Field(ge=0)] = 10
    fx_jump: Annotated[float, Field(gt=0, description="against the window's median")] = 0.05
    fx_window_s: Annotated[float, Field(gt=0)] = 300
    fx_confirm: Annotated[float, Field(gt=0, description="both books agree within")] = 0.01
    fx_confirm_s: Annotated[float, Field(ge=0)] = 2
    sizes: Annotated[list[float], Field(description="of liquidity-weighted prices, in base")] = [
        1.0,
        10.0,
    ]
    taker_fees: Annotated[
        dict[str, float], Field(description="exchange -> fraction, for executable prices")
    ] = {}
    usd_krw: Annotated[
        float | None, Field(gt=0, description="reference rate for premium a and c")
    ] = None


def _default_overrides() -> dict[str, dict[str, Any]]:
    return {
        "BTC": {"max_spread": 0.005, "decimals": 2},
        "ETH": {"decimals": 2},
        "SOL": {"decimals": 3},
        "XRP": {"decimals": 5},
    }


class IndexSettings(Section):
    """The index; see the methodology for the meaning of each parameter."""

    assets: list[str] = list(ASSETS)
    interval_ms: Annotated[
        int,
        Field(ge=0, le=60_000, description="0 = at each update, one tick for all that wait"),
    ] = 200
    grace_ms: Annotated[int, Field(ge=0, le=10_000)] = 50
    parameters: IndexParameters = IndexParameters()
    overrides: Annotated[
        dict[str, dict[str, Any]], Field(description="asset -> parameters that differ")
    ] = Field(default_factory=_default_overrides)
    next: Annotated[
        dict[str, Any], Field(description="parameters of a candidate that runs beside, {} = none")
    ] = {}
    excluded: Annotated[
        dict[str, str], Field(description="venue -> name and reason of an operator's exclusion")
    ] = {}

    @model_validator(mode="after")
    def _common_facts(self) -> IndexSettings:
        # one rate and one set of venue facts serve all assets, live and candidate
        for asset, changes in self.overrides.items():
            _refuse(changes, ("fx_",), f"overrides.{asset}", "one rate serves all assets")
        _refuse(self.next, ("fx_", "lag_ms"), "next", "the candidate shares the live one's books")
        return self

    def parameters_of(self, asset: str, *, candidate: bool = False) -> IndexParameters:
        """Return the parameters of an asset's index.

        Args: candidate: the set announced as `next` instead of the live one.
        Raises: ConfigError naming an unknown key or a value out of range.
        """
        changes = dict(self.overrides.get(asset, {}))
        if candidate:
            changes |= self.next
        return index_parameters({**self.parameters.model_dump(), **changes}, f"index of {asset}")


def _refuse(changes: dict[str, Any], heads: tuple[str, ...], where: str, why: str) -> None:
    for key in changes:
        if key.startswith(heads):
            raise ValueError(f"{where}.{key}: expected in index.parameters alone, since {why}")


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


class EndpointSettings(Section):
    """The HTTP API; rates are written as in "100/second", empty = no limit."""

    host: Annotated[str, Field(description="any address but loopback needs API keys")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    require_keys: Annotated[bool, Field(description="ask for a key on loopback too")] = False
    keys: Annotated[str, Field(description="file of hashed keys; data/keys.json when empty")] = ""
    rate_per_address: Annotated[str, Field(description="requests without a key")] = "50/second"
    rate_per_key: Annotated[str, Field(description="requests with one key")] = "200/second"
    limit_loopback: Annotated[bool, Field(description="rate limits for this machine too")] = False
    cors_origins: Annotated[
        list[str], Field(description="origins that browsers may call from")
    ] = []
    max_streams: Annotated[int, Field(ge=1, le=100_000, description="open streams at most")] = 5000
    stream_stall_s: Annotated[
        float,
        Field(gt=0, le=3600, description="a stream that reads nothing for so long is dropped"),
    ] = 30.0
    heartbeat_s: Annotated[float, Field(gt=0, le=300, description="streams' proof of life")] = 5.0
    resume_s: Annotated[float, Field(ge=0, le=600, description="how far back streams resume")] = (
        30.0
    )
    stale_ms: Annotated[int, Field(ge=100, description="a value older than this is stale")] = 3000
    query_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    connections: Annotated[int, Field(ge=1, le=32, description="database connections")] = 4


class TuningSettings(Section):
    """What to give up for latency; all off by default. Patterns match process names."""

    cpus: Annotated[
        dict[str, list[int]],
        Field(description="pattern -> processors, as {'orderbook-collector-*' = [2]}"),
    ] = {}
    spin: Annotated[
        list[str],
        Field(description="patterns of processes that use a whole processor, asleep never"),
    ] = []
    nice: Annotated[
        int, Field(ge=-20, le=19, description="added to every process; below 0 needs permission")
    ] = 0
    gc: Annotated[
        Literal["on", "frozen", "off"],
        Field(
            description="frozen: start-up's objects are not looked at again; off: no cycle is freed"
        ),
    ] = "frozen"
    receive_buffer: Annotated[
        int, Field(ge=0, le=1 << 30, description="bytes per exchange socket; 0 = the system's")
    ] = 0
    busy_poll_us: Annotated[
        int, Field(ge=0, le=1000, description="SO_BUSY_POLL of exchange sockets; 0 = off")
    ] = 0


class Settings(BaseSettings):
    """Everything that can be configured."""

    model_config = SettingsConfigDict(
        env_prefix="COINSPACE_", env_nested_delimiter="__", extra="forbid", validate_assignment=True
    )

    data: Annotated[Path, Field(description="folder of everything stored locally")] = Path(
        ".coinspace"
    )
    exchanges: dict[str, ExchangeSettings] = Field(default_factory=_default_exchanges)
    bus: BusSettings = Field(default_factory=BusSettings)
    journal: JournalSettings = Field(default_factory=JournalSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    index: IndexSettings = Field(default_factory=IndexSettings)
    endpoint: EndpointSettings = Field(default_factory=EndpointSettings)
    tuning: TuningSettings = Field(default_factory=TuningSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # the environment wins over what `load` read from the file
        return env_settings, init_settings

    def model_post_init(self, context: Any, /) -> None:
        self.bus._sockets = Path(self.bus.directory) if self.bus.directory else self.data / "run"

    def processes(self) -> list[tuple[str, list[str]]]:
        """Return (process name, command arguments) of every process, in flow order."""
        collected = [name for name, exchange in self.exchanges.items() if exchange.markets]
        return [
            *((f"{kind}-{name}", [kind, name]) for kind in COLLECTORS for name in collected),
            *((name, [name]) for name in WORKERS),
        ]


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
    "COINSPACE_QUESTDB_JAR",
}


def load(path: Path | str | None = None) -> Settings:
    """Read the settings.

    Args: path: the file; by default $COINSPACE_CONFIG or ./coinspace.toml where it exists.
    Raises: ConfigError naming the key, what was expected and the nearest valid key.
    """
    chosen = Path(path or os.environ.get("COINSPACE_CONFIG") or "coinspace.toml")
    values: dict[str, Any] = {}
    if chosen.exists():
        try:
            values = tomllib.loads(chosen.read_text())
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{chosen}: expected TOML, {error}") from None
    elif path or os.environ.get("COINSPACE_CONFIG"):
        raise ConfigError(
            f"configuration file {chosen}: expected a file, found none;"
            " `coinspace config init` writes one"
        )
    _fill_exchanges(values)
    known = {f"COINSPACE_{name.upper()}" for name in Settings.model_fields}
    for variable in os.environ:
        head = variable.split("__")[0]
        if variable.startswith("COINSPACE_") and variable not in NOT_SETTINGS and head not in known:
            raise ConfigError(_unknown("environment variable", variable, sorted(known)))
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, str(chosen) if chosen.exists() else "settings")) from None
    except MarketError as error:
        raise ConfigError(str(error)) from None


def _fill_exchanges(values: dict[str, Any]) -> None:
    # a file or variable that sets one key of an exchange keeps the defaults of the others
    defaults = {name: s.model_dump() for name, s in _default_exchanges().items()}
    given = values.get("exchanges", {})
    for name in given:
        if name not in defaults:
            raise ConfigError(_unknown("exchange", name, list(defaults)))
    values["exchanges"] = {
        name: {**default, **given.get(name, {})} for name, default in defaults.items()
    }


def _unknown(kind: str, name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(valid)}"
    return f"unknown {kind} {name!r}: {hint}"


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for one in error.errors():
        place = ".".join(str(part) for part in one["loc"])
        if one["type"] == "extra_forbidden":
            lines.append(f"{where}: {_unknown('key', place, _keys())}")
        else:
            lines.append(f"{where}: {place}: {one['msg']}, was {one.get('input')!r}")
    return "\n".join(lines)


def _keys() -> list[str]:
    keys: list[str] = []
    for name, field in Settings.model_fields.items():
        keys.append(name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            keys += [f"{name}.{key}" for key in kind.model_fields]
    for exchange in EXCHANGES:
        keys += [f"exchanges.{exchange}.{key}" for key in ExchangeSettings.model_fields]
    return keys


config_option = click.option(
    "--config", "config_path", type=click.Path(), default=None, help="coinspace.toml to read"
)
