"""An exchange is one module: a new file is configured, collected, replayed and shown."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coinspace.exchanges import EXCHANGES, every

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "coinspace"
# a crisis of certain exchanges, the load of certain exchanges, and examples of the API's documents
STORIES = {
    "simulator/markets/scenario.py",
    "simulator/markets/whole.py",
    "endpoint/meanings.py",
}
# each simulated protocol by the key that modules declare
SIMULATED = {
    "simulator/markets/engine.py": "MARKETS",
    "simulator/markets/looped.py": "LOOPED",
    "simulator/session.py": "SESSIONS",
    "simulator/rest.py": "REST",
}


# one of whole books and one of updates
@pytest.fixture(params=("upbit", "binance"))
def extended(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """An environment with one more exchange, `fourth`, that speaks as another one does."""
    source = (PACKAGE / "exchanges" / f"{request.param}.py").read_text()
    folder = tmp_path / "more" / "coinspace_exchanges"
    folder.mkdir(parents=True)
    renamed = source.replace(f'NAME = "{request.param}"', 'NAME = "fourth"')
    assert renamed != source
    (folder / "fourth.py").write_text(
        re.sub(r"COLOURS = .*", 'COLOURS = ("#123456", "#654321")', renamed)
    )
    return {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "more"),
        "COINSPACE_DATA": str(tmp_path / "data"),
    }


def command(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "coinspace", *arguments],
        cwd=environment["COINSPACE_DATA"].removesuffix("/data"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def recorded(environment: dict[str, str], feed: Path) -> Path:
    asked = ("--exchange", "fourth", "--market", "fourth:BTC/KRW", "--duration", "4")
    command(environment, "simulate", "--record", str(feed), *asked)
    return feed


def test_a_new_module_is_configured_collected_and_replayed(
    extended: dict[str, str], tmp_path: Path
) -> None:
    configuration = json.loads(command(extended, "config", "show"))
    assert "fourth" in configuration["exchanges"]
    feed = recorded(extended, tmp_path / "fourth.feed.zst")
    messages = command(extended, "decode", "fourth", str(feed)).splitlines()
    assert {json.loads(line)["kind"] for line in messages} >= {"orderbook", "trade"}
    books = [json.loads(line) for line in command(extended, "books", str(feed)).splitlines()]
    assert {line["exchange"] for line in books} == {"fourth"}
    done = subprocess.run(
        [sys.executable, "-c", REPLAYED, str(feed)],
        env=extended,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "{'fourth'}"


REPLAYED = """
import asyncio, sys
from coinspace._ext.sink import ListSink
from coinspace.collector.collection import Collection
from coinspace.exchanges import exchange
from coinspace.simulator.playback import Playback
from coinspace.simulator.server import ExchangeServer

class Health:
    stopping = asyncio.Event()
    def failed(self, name, error): raise error
    def ready(self): pass
    def degraded(self, reason, kind=None): pass

async def main():
    sink = ListSink()
    async with ExchangeServer(Playback([sys.argv[1]], speed=20.0)) as server:
        settings = exchange("fourth").SETTINGS.model_copy(
            update={"markets": ["BTC/KRW"], **server.urls["fourth"]})
        collection = Collection(settings, "fourth", "orderbook", sink, Health())
        await collection.start()
        while collection.stage.counters()["books_published"] < 3:
            await asyncio.sleep(0.02)
        await collection.stop()
    print({str(message.exchange) for message in sink.messages})

asyncio.run(asyncio.wait_for(main(), 60))
"""


SHOWN = """
from coinspace.cli import main
from coinspace.config import PROCESSES, load
from coinspace.constituents import constituents_of
from coinspace.endpoint.dashboard.build import exchange_colours
from coinspace.endpoint.records import constituents
from coinspace.exchanges import exchange
from coinspace.method.parameters import REGIONS
from coinspace.method.record import VenueRecord

one = exchange("fourth")
assert {"orderbook-collector-fourth", "ticker-collector-fourth"} <= set(PROCESSES)
assert f"fourth:BTC/{one.QUOTES[0]}" in constituents_of(load(None), "BTC")
assert "--venue-fourth: #123456" in exchange_colours()
assert "--venue-fourth: #654321" in exchange_colours()
assert REGIONS["fourth"] == one.REGION
(shown,) = constituents({"fourth:BTC/KRW": VenueRecord(used=True)})
assert (shown.exchange, shown.region) == ("fourth", one.REGION)
"""


def test_a_new_module_counts_and_is_shown(extended: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOWN], env=extended, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


BROKEN = {
    "raises": ("raise RuntimeError('no\\x1b[31m key\\nof mine')", "no\\x1b[31m key\\x0aof mine"),
    "syntax": ("def", "SyntaxError"),
    "exits": ("raise SystemExit(3)", "SystemExit"),
    "imports": ("import a_library_that_is_missing", "a_library_that_is_missing"),
    "empty": ("NAME = 'empty'", "ORDER: expected int, was None"),
    "Upper": ("NAME = 'Upper'", "NAME: expected letters a-z and digits, was 'Upper'"),
    "typed": ("{source}ORDER = '1'", "ORDER: expected int, was '1'"),
    "quoteless": ("{source}QUOTES = ()", "QUOTES: expected at least one currency"),
    "unset": ("{source}SETTINGS = None", "SETTINGS: expected ExchangeSettings, was None"),
    "lacking": ("{source}del symbol_of", "symbol_of: expected a function"),
}


@pytest.mark.parametrize("extended", ["upbit"], indirect=True)
@pytest.mark.parametrize("name", BROKEN)
def test_a_module_that_cannot_be_used_is_named_and_left_out(
    extended: dict[str, str], tmp_path: Path, name: str
) -> None:
    text, problem = BROKEN[name]
    path = tmp_path / "more" / "coinspace_exchanges" / f"{name}.py"
    source = path.with_name("fourth.py").read_text().replace('"fourth"', f'"{name}"')
    path.write_text(text.replace("{source}", source))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "coinspace", *arguments],
            env=extended,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        line = done.stderr.splitlines()[0]
        assert line.startswith(f"coinspace: exchange not usable: {path.with_suffix('')}: ")
        assert problem in line
        return done

    shown = run("config", "show")
    assert shown.returncode == 0
    assert json.loads(shown.stdout)["exchanges"].keys() == {*EXCHANGES, "fourth"}
    # a start would leave out what the user wants to collect
    assert run("config", "check").returncode == 1
    extended["COINSPACE_EXCHANGES"] = json.dumps({name.lower(): {"markets": ["BTC/KRW"]}})
    asked = run("config", "show")
    assert asked.returncode == 1
    assert name == "Upper" or problem in asked.stderr.splitlines()[1]


def named(path: Path) -> list[str]:
    """Return the lines of a file that name an exchange in code, not in prose or an example."""
    tree = ast.parse(path.read_text())
    relative = path.relative_to(PACKAGE).as_posix()
    ignored = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "examples":
            ignored |= {id(one) for one in ast.walk(node)}
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == SIMULATED.get(relative)
        ):
            ignored |= {id(one) for one in ast.walk(node)}
    names = {one.NAME for one in every()}
    return [
        f"{relative}:{node.lineno}: {node.value}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and id(node) not in ignored
        and isinstance(node.value, str)
        and node.value.partition(":")[0] in names
    ]


def test_only_its_module_names_an_exchange() -> None:
    found = [
        line
        for path in sorted(PACKAGE.rglob("*.py"))
        if "node_modules" not in path.parts
        and path.parent != PACKAGE / "exchanges"
        and path.relative_to(PACKAGE).as_posix() not in STORIES
        for line in named(path)
    ]
    assert found == []


def test_no_page_names_an_exchange() -> None:
    page = PACKAGE / "endpoint" / "dashboard"
    pattern = re.compile("|".join(EXCHANGES), re.IGNORECASE)
    named = [
        path.name
        for path in page.iterdir()
        if path.suffix in (".js", ".css", ".html") and pattern.search(path.read_text())
    ]
    assert named == []
