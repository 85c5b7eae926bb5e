"""Settings: order of sources, clear refusals, the written default file."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.config import Settings, load
from coinspace.config_file import default_toml
from coinspace.errors import ConfigError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COINSPACE_CONFIG", raising=False)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_defaults_collect_the_documented_markets() -> None:
    settings = load()
    korean = ["BTC/KRW", "ETH/KRW", "XRP/KRW", "SOL/KRW", "USDT/KRW"]
    assert settings.exchanges["upbit"].markets == korean
    assert settings.exchanges["bithumb"].markets == korean
    assert settings.exchanges["binance"].markets == [f"{a}/USDT" for a in settings.index.assets]
    assert settings.endpoint.host == "127.0.0.1"


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


def test_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: expected a file"):
        load("nowhere.toml")


def test_long_socket_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path / ("x" * 120)))
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        load().bus.endpoint("orderbook-collector-upbit")


def test_written_default_file_holds_the_defaults(empty_folder: Path) -> None:
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
    assert "me:***@" in output


def test_init_does_not_overwrite(empty_folder: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(coinspace, ["config", "init"]).exit_code == 0
    assert (empty_folder / "coinspace.toml").exists()
    second = runner.invoke(coinspace, ["config", "init"])
    assert isinstance(second.exception, ConfigError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[index.overrides.BTC]\nfx_hold_s = 5\n",
            "overrides.BTC.fx_hold_s: expected in index.par",
        ),
        ("[index.next]\nfx_jump = 0.1\n", "next.fx_jump: expected in index.parameters alone"),
        ("[index.next]\nlag_ms = 5000\n", "next.lag_ms: expected in index.parameters alone"),
        ("[index.parameters]\ncap_trim = 0.5\n", "cap_trim"),
    ],
)
def test_what_would_have_no_effect_is_refused(empty_folder: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(write(empty_folder, text))
