"""Settings: order of sources, clear refusals, the written default file."""

import time
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.config import IndexSettings, Settings, load
from coinspace.config_file import default_toml, masked
from coinspace.config_sources import spelled
from coinspace.errors import ConfigError
from coinspace.preflight import check_start
from coinspace.recompute.commands import read_parameters
from coinspace.storage.questdb.address import configured


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COINSPACE_CONFIG", raising=False)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_environment_wins_over_file(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(empty_folder, '[endpoint]\nport = 1\n[exchanges.upbit]\nrest = "http://a"\n')
    monkeypatch.setenv("COINSPACE_ENDPOINT__PORT", "2")
    monkeypatch.setenv("COINSPACE_EXCHANGES__UPBIT__WEBSOCKET", "ws://b")
    settings = load(path)
    assert settings.endpoint.port == 2
    assert settings.exchanges["upbit"].rest == "http://a"
    assert settings.exchanges["upbit"].websocket == "ws://b"
    assert settings.exchanges["binance"].depth == 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[storages]\n", "unknown key 'storages': did you mean 'storage'"),
        ("[endpoint]\nprot = 1\n", "unknown key 'endpoint.prot': did you mean 'endpoint.port'"),
        ("[exchanges.upbitt]\n", "unknown exchange 'upbitt': did you mean 'upbit'"),
        ("[exchanges.upbit]\nrst = 1\n", "did you mean 'exchanges.upbit.rest'"),
        ("[endpoint]\nport = 'x'\n", "endpoint.port: .* was 'x'"),
        ("[endpoint]\nport = 70000\n", "endpoint.port: .* was 70000"),
        ("[exchanges.upbit]\nmarkets = ['KRW-BTC']\n", "expected BASE/QUOTE .* was 'KRW-BTC'"),
        ("[exchanges.upbit", "expected TOML"),
        ("[endpoint]\nport = " + "9" * 5000, "expected TOML"),
        ("x = " + "[" * 5000, "expected TOML, nested too deep"),
    ],
)
def test_bad_files_are_refused_with_the_nearest_name(
    empty_folder: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(write(empty_folder, text))


def test_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_STORGE__TTL", "off")
    with pytest.raises(ConfigError, match="did you mean 'COINSPACE_STORAGE'"):
        load()


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000, "{a=" * 5000, "a=" + "9" * 5000])
def test_a_variable_of_any_size_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("COINSPACE_STORAGE__SERVER_OPTIONS", value)
    with pytest.raises(ConfigError, match="COINSPACE_STORAGE__SERVER_OPTIONS"):
        load()


@pytest.mark.parametrize("text", ["x = " + "9" * 5000, "x = " + "[" * 5000, '{"x":' * 5000])
def test_parameters_of_any_size_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "parameters"
    path.write_text(text)
    with pytest.raises(ConfigError, match="expected parameters as TOML or JSON"):
        read_parameters(path)


def test_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: expected a file"):
        load("nowhere.toml")


def test_long_socket_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path / ("x" * 120)))
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        load().bus.endpoint("orderbook-collector-upbit")


def test_the_written_default_file_has_the_defaults(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COINSPACE_RATES__SOURCES")
    # every key is commented out; with the marks removed it must read back as the defaults
    text = default_toml()
    assert tomllib.loads(text).keys() >= {"exchanges", "storage"}
    lines = [
        line[1:] if line.startswith("#") and " = " in line else line for line in text.split("\n")
    ]
    settings = load(write(empty_folder, "\n".join(lines)))
    assert settings.model_dump() == Settings().model_dump()


def test_show_masks_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_STORAGE__SQL", "postgresql://me:hush@127.0.0.1:1/qdb")
    monkeypatch.setenv("COINSPACE_STORAGE__ILP", "http::addr=h:1;username=u;password=quiet;")
    output = CliRunner().invoke(coinspace, ["config", "show"]).output
    assert "hush" not in output
    assert "quiet" not in output
    assert "postgresql://***@127.0.0.1:1/qdb" in output


def test_init_does_not_overwrite(empty_folder: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(coinspace, ["config", "init"]).exit_code == 0
    assert (empty_folder / "coinspace.toml").exists()
    second = runner.invoke(coinspace, ["config", "init"])
    assert isinstance(second.exception, ConfigError)


def test_init_names_a_place_that_cannot_be_written(empty_folder: Path) -> None:
    for output in (".", "nowhere/coinspace.toml"):
        result = CliRunner().invoke(coinspace, ["config", "init", "--force", "--output", output])
        assert isinstance(result.exception, ConfigError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[index.overrides.BTC]\nfx_hold_s = 5\n",
            "overrides.BTC.fx_hold_s: expected only in index.par",
        ),
        ("[index.next]\nfx_jump = 0.1\n", "next.fx_jump: expected only in index.parameters"),
        ("[index.next]\nlag_ms = 5000\n", "next.lag_ms: expected only in index.parameters"),
        ("[index.parameters]\ncap_trim = 0.5\n", "cap_trim"),
    ],
)
def test_a_setting_without_effect_is_refused(empty_folder: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(write(empty_folder, text))


# --- one key changes itself ------------------------------------------------------------------


@pytest.mark.parametrize(
    "variable",
    [
        "COINSPACE_INDEX__OVERRIDES__PEPE__DECIMALS",
        "COINSPACE_INDEX__OVERRIDES__pepe__decimals",
        "coinspace_index__Overrides__Pepe__Decimals",
    ],
)
def test_an_override_by_variable_changes_that_parameter_alone(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    before = load().index
    monkeypatch.setenv(variable, "9")
    index = load().index
    assert index.parameters_of("PEPE").decimals == 9
    assert index.overrides == {**before.overrides, "PEPE": {"decimals": 9}}


def test_a_path_may_begin_with_the_home_folder(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = "data = '~/coins'\n[exchanges.upbit]\nca_file = '~/ca.pem'\n"
    settings = load(write(empty_folder, text))
    assert settings.data == Path("/home/me/coins")
    assert settings.exchanges["upbit"].ca_file == Path("/home/me/ca.pem")
    assert settings.bus.endpoint("index-calculator").startswith("ipc:///home/me/coins/run/")
    for wrong in ("", " ", "~no-such-user/coins"):
        monkeypatch.setenv("COINSPACE_DATA", wrong)
        with pytest.raises(ConfigError, match="COINSPACE_DATA: data: expected a path"):
            load()


@pytest.mark.parametrize("text", ["BTC", "btc", "Btc"])
def test_an_override_in_the_file_keeps_the_others(empty_folder: Path, text: str) -> None:
    path = write(empty_folder, f"[index.overrides.{text}]\nDecimals = 3\n")
    before, index = load().index, load(path).index
    assert index.overrides["BTC"] == {"max_spread": 0.005, "decimals": 3}
    assert {k: v for k, v in index.overrides.items() if k != "BTC"} == {
        k: v for k, v in before.overrides.items() if k != "BTC"
    }


def test_layers_are_merged_key_by_key(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        empty_folder,
        "[storage.server_options]\nqdb_a = '1'\nQDB_B = '2'\n"
        "[index.overrides.eth]\ndecay = 0.4\ntaker_fees = {upbit = 0.1}\n",
    )
    monkeypatch.setenv("COINSPACE_STORAGE__SERVER_OPTIONS__QDB_B", "3")
    monkeypatch.setenv("COINSPACE_STORAGE__SERVER_OPTIONS__qdb_c__d", "4")
    monkeypatch.setenv("COINSPACE_INDEX__OVERRIDES", '{"Eth": {"taker_fees": {"BINANCE": 0.2}}}')
    settings = load(path)
    assert settings.storage.server_options == {"QDB_A": "1", "QDB_B": "3", "QDB_C__D": "4"}
    assert settings.index.overrides["ETH"] == {
        "decimals": 2,
        "decay": 0.4,
        "taker_fees": {"upbit": 0.1, "binance": 0.2},
    }


@pytest.mark.parametrize(
    ("variable", "text", "where", "expected"),
    [
        ("BUS__ENDPOINTS__ORDERBOOK_AGGREGATOR", "tcp://h:1", "bus.endpoints", "tcp://h:1"),
        ("BUS__ENDPOINTS", "Orderbook-Aggregator=tcp://h:1", "bus.endpoints", "tcp://h:1"),
        ("TUNING__CPUS__orderbook-*", "0", "tuning.cpus", [0]),
        ("TUNING__CPUS", "{'orderbook-*' = [0, 1]}", "tuning.cpus", [0, 1]),
        ("TUNING__CPUS", '{"ORDERBOOK-*": [0, 1]}', "tuning.cpus", [0, 1]),
        ("TUNING__CPUS", "orderbook-*=1", "tuning.cpus", [1]),
        ("EXCHANGES__UPBIT__GROUP_LEVELS__btc/krw", "10", "exchanges.upbit.group_levels", 10),
        ("INDEX__EXCLUDED__UPBIT:btc/KRW", "kim: why", "index.excluded", "kim: why"),
        ("INDEX__PARAMETERS__TAKER_FEES__UPBIT", "0.1", "index.parameters.taker_fees", 0.1),
        ("INDEX__PARAMETERS__TAKER_FEES", "Upbit=0.1,", "index.parameters.taker_fees", 0.1),
    ],
)
def test_free_tables_are_spelled_as_the_platform_spells_them(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, where: str, expected: object
) -> None:
    monkeypatch.setenv(f"COINSPACE_{variable}", text)
    found = load().model_dump()
    for name in where.split("."):
        found = found[name]
    assert list(found.values()) == [expected]
    assert list(found) == [
        name
        for name in ("orderbook-aggregator", "orderbook-*", "BTC/KRW", "upbit:BTC/KRW", "upbit")
        if name in found
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[index.overrides.BTC]\ndecimal = 3\n", "BTC: unknown .* 'decimal': did you mean 'deci"),
        ("[index.overrides.DOGE]\nnonsense = 3\n", "DOGE: unknown parameter 'nonsense'"),
        ("[index.overrides.DOGE]\ndecimals = 99\n", "DOGE: decimals: .* 12, was 99"),
        ("[index.overrides.'B/T']\ndecimals = 9\n", "expected the name of an asset"),
        ("[index.overrides]\nBTC = 3\n", "index.overrides.BTC: .* dictionary, was 3"),
        ("[index.next]\ndecimal = 3\n", "index.next: .* did you mean 'decimals'"),
        ("[index.parameters.taker_fees]\nupbitt = 0.1\n", "taker_fees: .* did you mean 'upbit'"),
        ("[index.parameters.taker_fees]\nupbit = 7\n", "taker_fees.upbit: .* less than 1, was 7"),
        ("[index.overrides.BTC.taker_fees]\nx = 0.1\n", "index.overrides.BTC.taker_fees: unkn"),
        ("[index.excluded]\n'upbit:BTC/KWR' = 'me'\n", "did you mean 'BTC/KRW'"),
        ("[index.excluded]\n'upbt:BTC/KRW' = 'me'\n", "did you mean 'upbit'"),
        ("[index]\nassets = ['BTC/KRW']\n", "index.assets: expected the name of an asset"),
        ("[index]\nconstituents = ['binance:*/USDC']\n", "a quote that has a rate, USDT or KRW"),
        ("[index]\nconstituents = ['*/USDT']\n", "expected EXCHANGE:BASE/QUOTE"),
        ("[index]\nconstituents = ['upbit:DOGE/KRW']\n", "upbit.markets, was 'DOGE/KRW'"),
        ("[index]\nconstituents = ['upbit:*/USDT']\n", r"upbit.markets, was '\*/USDT'"),
        ("[bus.endpoints]\norderbook-agregator = 'x'\n", "did you mean 'orderbook-aggregator'"),
        ("[bus.curve_server_keys]\n'tcp://h:1' = 'short'\n", "CURVE key of 40"),
        ("[storage.server_options]\nCAIRO = '1'\n", "expected names of QuestDB's variables"),
        ("[exchanges.upbit.group_levels]\n'DOGE/KRW' = 1\n", "markets, was 'DOGE/KRW'"),
        ("[exchanges.upbit.group_levels]\n'DOGE' = 1\n", "expected BASE/QUOTE"),
        ("exchanges = 3\n", "exchanges: .* dictionary, was 3"),
        ("[exchanges]\nupbit = 3\n", "exchanges.upbit: .* was 3"),
        ("index = 'x'\n", "index: "),
        ("x = " + 2000 * "[" + 2000 * "]", "nested too deep"),
    ],
)
def test_free_tables_are_checked_like_any_other(empty_folder: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load(write(empty_folder, text))
    assert "\n" not in str(caught.value)


def test_constituents_that_patterns_can_bring_in_are_accepted(empty_folder: Path) -> None:
    path = write(
        empty_folder,
        "[exchanges.upbit]\nmarkets = ['*/KRW', 'btc/usdt']\n[exchanges.bithumb]\nmarkets = []\n"
        "[index]\nconstituents = ['UPBIT:doge/krw', 'upbit:*/USDT', 'binance:*/USDT']\n",
    )
    settings = load(path)
    assert settings.index.constituents[0] == "upbit:DOGE/KRW"
    assert settings.exchanges["upbit"].markets == ["*/KRW", "BTC/USDT"]


# --- lists and lines -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '["BTC/KRW", "ETH/KRW"]',
        "['BTC/KRW', 'ETH/KRW']",
        "[BTC/KRW,ETH/KRW]",
        "BTC/KRW,ETH/KRW",
        " BTC/KRW , eth/krw, ",
        "BTC/KRW ETH/KRW",
        "BTC/KRW;ETH/KRW",
        "'BTC/KRW','ETH/KRW'",
    ],
)
def test_a_list_by_variable_is_read_as_people_write_it(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("COINSPACE_EXCHANGES__UPBIT__MARKETS", text)
    monkeypatch.setenv("COINSPACE_INDEX__PARAMETERS__SIZES", "1, 5,10")
    settings = load()
    assert settings.exchanges["upbit"].markets == ["BTC/KRW", "ETH/KRW"]
    assert settings.index.parameters.sizes == [1.0, 5.0, 10.0]


def test_one_value_and_an_empty_one_are_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_EXCHANGES__UPBIT__MARKETS", "*/KRW")
    monkeypatch.setenv("COINSPACE_EXCHANGES__BITHUMB__MARKETS", "")
    monkeypatch.setenv("COINSPACE_INDEX__PARAMETERS__USD_KRW", "")
    settings = load()
    assert settings.exchanges["upbit"].markets == ["*/KRW"]
    assert settings.exchanges["bithumb"].markets == []
    assert settings.index.parameters.usd_krw is None


def test_blanks_around_a_value_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("PORT", " 8081 "), ("REQUIRE_KEYS", " true\n"), ("KEYS", "a b")):
        monkeypatch.setenv(f"COINSPACE_ENDPOINT__{name}", text)
    monkeypatch.setenv("COINSPACE_STORAGE__TTL", " off")
    settings = load()
    assert (settings.endpoint.port, settings.endpoint.require_keys) == (8081, True)
    assert (settings.endpoint.keys, settings.storage.ttl) == ("a b", "off")


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("EXCHANGES__UPBIT__MARKETS", '["BTC/KRW"', "MARKETS: expected a list as JSON"),
        ("EXCHANGES__UPBIT__MARKETS", "BTC-KRW", "MARKETS: .* expected BASE/QUOTE"),
        ("EXCHANGES__UPBIT__MARKET", "BTC/KRW", "did you mean 'exchanges.upbit.markets'"),
        ("EXCHANGES__UPBITT__MARKETS", "BTC/KRW", "UPBITT__MARKETS: unknown exchange 'upbitt'"),
        ("ENDPOINT__PORT", "808x", "COINSPACE_ENDPOINT__PORT: .* was '808x'"),
        ("ENDPOINT__PORT__X", "1", "PORT__X: endpoint.port: "),
        ("ENDPOINT__PROT", "1", "COINSPACE_ENDPOINT__PROT: .* did you mean 'endpoint.port'"),
        ("ENDPOINT", "8080", "COINSPACE_ENDPOINT: expected a table as JSON"),
        ("ENDPOINT", '{"port": 1', "COINSPACE_ENDPOINT: expected a table as JSON"),
        ("INDEX__OVERRIDES__BTC__DECIMAL", "1", "DECIMAL: .* did you mean 'decimals'"),
        ("INDEX__ASSETS", "B/C", "COINSPACE_INDEX__ASSETS: index.assets: expected the name"),
    ],
)
def test_a_bad_variable_gives_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, words: str
) -> None:
    monkeypatch.setenv(f"COINSPACE_{variable}", text)
    with pytest.raises(ConfigError, match=words) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_gives_one_line(empty_folder: Path) -> None:
    latin = empty_folder / "latin.toml"
    latin.write_bytes("data = 'gar\xe7on'".encode("latin-1"))
    (empty_folder / "loop").symlink_to("loop")
    for path, words in (
        (empty_folder, "expected a readable file, Is a directory"),
        (latin / "below.toml", "expected a file, found none"),
        (empty_folder / "loop" / "x.toml", "symbolic links"),
        (Path("nul\0.toml"), "expected a readable file"),
        (latin, "expected TOML in UTF-8"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_accepted(empty_folder: Path) -> None:
    path = empty_folder / "bom.toml"
    path.write_bytes(b"\xef\xbb\xbf[endpoint]\nport = 5\n")
    assert load(path).endpoint.port == 5


# --- secrets ---------------------------------------------------------------------------------

SECRET = "my-very-secret-key-0123456789-abcdefghij"


@pytest.mark.parametrize(
    "text",
    [
        f'[bus]\ncurve_secret_key = "{SECRET}"\n',
        f'[bus]\ncurve_secret_key = ["{SECRET}"]\n',
        f'[bus]\ncurve_secret_key = {{a = "{SECRET}"}}\n',
        "[bus]\ncurve_secret_key = 123456789\n",
        f'[bus]\ncurve_public_key = "{SECRET}x"\n',
        f'[bus]\nhigh_water_mark = "{SECRET}"\n',
        f'[bus]\ncurve_allowed = "{SECRET}"\n',
        f'bus = "{SECRET}"\n',
        f'[endpoint]\ncurve_secret_key = "{SECRET}"\n',
        f'curve_secret_key = "{SECRET}"\n',
        f'[endpoint]\nport = "{SECRET}"\n',
        '[endpoint]\nport = "pg://me:hush@h"\n',
        f'[endpoint]\nkeys = ["{SECRET}"]\n',
        '[storage]\nsql = ["postgresql://me:hush@127.0.0.1/qdb"]\n',
        '[storage]\nhttp_port = "hush"\n',
        '[storage]\nilp = {password = "hush"}\n',
        '[storage]\nserver_options = "QDB_PG_PASSWORD=hush"\n',
        '[storage]\nserver_options = {QDB_PG_PASSWORD = ["hush"]}\n',
        '[storage]\nsqll = "postgresql://me:hush@127.0.0.1/qdb"\n',
        '[exchanges.upbit]\ndepth = "http://me:hush@h"\n',
        f'[index.overrides.BTC]\ndecimals = "{SECRET}"\n',
        f'[bus]\ncurve_secret_key = "{SECRET}"\n[bus]\n',
        f"[bus]\ncurve_secret_key = {SECRET}\n",
    ],
)
def test_no_error_shows_a_secret(empty_folder: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(empty_folder, text))
    assert SECRET[:12] not in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "123456789" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("BUS__CURVE_SECRET_KEY", SECRET),
        ("BUS", SECRET),
        ("BUS", f'{{"curve_secret_key": "{SECRET}"'),
        ("BUS__CURVE_SECRET_KEYS", SECRET),
        ("ENDPOINT__PORT", SECRET),
        ("CURVE_SECRET_KEY", SECRET),
        ("STORAGE__SERVER_OPTIONS", SECRET),
        ("INDEX__OVERRIDES__BTC", SECRET),
    ],
)
def test_no_error_about_a_variable_shows_a_secret(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(f"COINSPACE_{variable}", text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert SECRET[:12] not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("keys", "keys.json", "keys.json"),
        ("curve_public_key", "public", "public"),
        ("curve_server_keys", {"tcp://h:1": "a@b=c?d"}, {"tcp://h:1": "a@b=c?d"}),
        ("curve_secret_key", "secret", "***"),
        ("cors_origins", ["http://a:3000"], ["http://a:3000"]),
        ("server_options", {"QDB_PG_PASSWORD": "hush"}, {"QDB_PG_PASSWORD": "***"}),
        ("data", "/srv/coins@1/a=b", "/srv/coins@1/a=b"),
        ("sql", "postgresql://me:hush@h:8812/qdb", "postgresql://***@h:8812/qdb"),
    ],
)
def test_show_masks_passwords_and_nothing_else(name: str, value: object, expected: object) -> None:
    assert masked(value, name) == expected


@pytest.mark.parametrize("key", ["websocket", "rest"])
@pytest.mark.parametrize(
    "rest",
    [
        *("", "h", ":hush", "me:123/hush@h", "me:hush/1@h", "me:1?hush@h", "h:0", "h/#hush"),
        *("h:hush", "h/ \u202e", "h:99999"),
    ],
)
def test_an_address_that_a_library_would_show_in_an_error_is_refused(
    empty_folder: Path, key: str, rest: str
) -> None:
    scheme = "" if rest in ("", "h") else "wss://" if key == "websocket" else "https://"
    path = write(empty_folder, f'[exchanges.upbit]\n{key} = "{scheme}{rest}"\n')
    with pytest.raises(
        ConfigError, match=f"exchanges.upbit.{key}: expected (ws|http)://"
    ) as caught:
        load(path)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"sql": "postgresql://me:123/hush@h:8812/qdb"},
        {"sql": "postgresql://me:hush/1@h:8812/qdb"},
        {"sql": "postgresql://h/qdb?hush=1"},
        {"sql": "postgresql://me:%hush@h/qdb"},
        {"readonly_sql": "postgresql://me:hush/1@h/qdb"},
        {"readonly_sql": "mysql://me:hush@h/qdb"},
        {"ilp": "http::addr=me:hush@h:9000;"},
        {"ilp": "http::addr=h:hush;"},
    ],
)
def test_an_address_of_the_database_is_checked_without_showing_it(values: dict[str, str]) -> None:
    known = {"ilp": "http::addr=h:9000;", "sql": "postgresql://me:x@h:8812/qdb"}
    assert configured(**known).sql == known["sql"]
    (key,) = values
    with pytest.raises(ConfigError, match=rf"storage\.{key}: expected ") as caught:
        configured(**{**known, **values})
    assert "hush" not in str(caught.value)


def test_sources_without_end_are_refused(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="expected a readable file, of at most 1048576 bytes"):
        load("/dev/zero")
    monkeypatch.setenv("COINSPACE_INDEX" + "__A" * 50_000, "1")
    with pytest.raises(ConfigError, match="unknown key"):
        load()


# --- what only a start needs -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tuning]\ncpus = {'orderbook-*' = [4095]}\n", "tuning.cpus: expected processors 0 to"),
        ("[tuning]\ncpus = {'orderbook-*' = [-1]}\n", "tuning.cpus: expected processors 0 to"),
        ("[tuning]\ncpus = {'orderbok-collector-upbit' = [0]}\n", "mean 'orderbook-collector-up"),
        ("[tuning]\nspin = ['foo-*']\n", "tuning.spin: no process is called 'foo-\\*'"),
        ("[index.overrides.DOGE]\ndecimals = 3\n", "expected one of BTC, ETH, XRP, SOL"),
        ("[index.overrides.BTCC]\ndecimals = 3\n", "did you mean 'BTC'"),
        ("[storage]\nilp = 'http::addr=db:9000;'\n", "expected both or neither, was ilp alone"),
        ("[storage]\nilp = 'httpx::addr=db;'\nsql = 'postgresql://db/'\n", "scheme 'httpx'"),
        ("[storage]\nilp = 'tcp::addr=db;'\nsql = 'db:8812'\n", "storage.sql: expected postgresql"),
        ("[storage]\nilp = 'tcp::addr=db;'\nsql = '//['\n", "storage.sql: expected postgresql"),
    ],
)
def test_settings_that_cannot_work_on_this_host_are_refused_before_the_start(
    empty_folder: Path, text: str, words: str
) -> None:
    path = write(empty_folder, text)
    settings = load(path)
    with pytest.raises(ConfigError, match=words):
        check_start(settings)
    for command in (["config", "check"], ["up", "--simulate"]):
        result = CliRunner().invoke(coinspace, [*command, "--config", str(path)])
        assert isinstance(result.exception, ConfigError)
    assert not (empty_folder / ".coinspace").exists()


def test_defaults_can_start_with_other_assets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_INDEX__ASSETS", "doge")
    monkeypatch.setenv("COINSPACE_INDEX__OVERRIDES__doge__decimals", "5")
    check_start(load())
    result = CliRunner().invoke(coinspace, ["config", "check"])
    assert result.output == "ok\n"


def test_many_names_cost_no_more_than_their_number() -> None:
    """A copy of the table for each name would cost the square of their number."""

    def reading_s(names: int, times: int) -> float:
        table = {"overrides": {f"A{number}": {"decimals": 2} for number in range(names)}}
        started = time.thread_time()
        for _ in range(times):
            assert len(spelled(IndexSettings, table)["overrides"]) == names
        return time.thread_time() - started

    assert reading_s(20_000, 1) < 20 * reading_s(200, 100)
