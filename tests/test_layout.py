"""Imports go one way, each fact has one place, stubs match sources, nothing built is tracked."""

import ast
import functools
import re
import subprocess
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "coinspace"

BASE = {
    "__version__",
    "_ext",
    "errors",
    "exporter",
    "files",
    "metrics",
    "backoff",
    "clock",
    "market",
    "config",
    "config_alerts",
    "connector",
    "constituents",
    "plain_options",
    "exchanges",
    "health_file",
    "instant",
    "listing",
    "options",
    "process",
    "text",
    "tuning",
    "tasks",
    "lock",
    "log",
    "notify",
    "window",
}
# folders that the configuration itself needs
BELOW = {"_ext", "config_sources", "errors", "market", "text"}
MIDDLE = {"method", "bus", "recording"}
# what each folder may import besides BASE and itself
ALLOWED = {
    "method": set(),
    "bus": set(),
    "recording": set(),
    "simulator": {"recording"},
    "collector": MIDDLE | {"rates"},
    "rates": MIDDLE,
    "storage": MIDDLE,
    "aggregator": MIDDLE,
    "index": MIDDLE | {"storage", "aggregator"},
    "endpoint": MIDDLE | {"storage", "observe"},
    "client": set(),
    "alerts": MIDDLE | {"storage", "observe"},
    "observe": MIDDLE | {"storage"},
    # tools on top of the stages: nothing imports them
    "recompute": MIDDLE | {"collector", "rates", "aggregator", "index", "storage"},
    "bench": MIDDLE | {"collector", "aggregator", "index", "storage", "simulator"},
}
# what only these folders may import
ROOMS = {
    "zmq": "bus",
    "nats": "bus/nats",
    "psycopg": "storage",
    "psycopg_pool": "storage",
    "questdb": "storage",
}
# the implementations behind bus/transport.py; nothing else knows which one runs
TRANSPORTS = ("coinspace.bus.sockets", "coinspace.bus.nats")
SQL = re.compile(
    r"\bselect\b.*\bfrom\b|\bselect \d|\binsert into\b|\b(create|alter|drop|truncate) table\b"
    r"|\bsample by\b|\blatest on\b",
    re.IGNORECASE | re.DOTALL,
)
# these get the time only from their input: a recording gives the same as the live bus
WITHOUT_CLOCK = (
    "alerts/outbox.py",
    "alerts/rules.py",
    "alerts/venues.py",
    "method",
    "exchanges",
    "aggregator/consolidate.py",
    "aggregator/stage.py",
    "aggregator/venue.py",
    "collector/compare.py",
    "collector/facts.py",
    "collector/orderbook.py",
    "collector/stage.py",
    "collector/ticker.py",
    "rates/replay.py",
    "rates/sources.py",
    "rates/stage.py",
    "index/backlog.py",
    "index/calculator.py",
    "index/chain.py",
    "index/memory.py",
    "index/outage.py",
    "index/published.py",
    "storage/records.py",
    "recompute/feeds.py",
    "recompute/offline.py",
    "recompute/snapshots.py",
    "recompute/verify.py",
    "storage/ledger.py",
    "storage/read/history.py",
    "storage/read/memory.py",
    "storage/read/records.py",
    "storage/rows.py",
)
CLOCKS = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "datetime.now",
    "datetime.utcnow",
    "date.today",
    "now_ns",
    "monotonic_ns",
}
# the wall clock has one name, so that a test can set it
WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}


def sources(folder: str = "") -> Iterator[Path]:
    path = PACKAGE / folder
    found = [path] if path.suffix else sorted(path.rglob("*.py"))
    assert found, f"{folder}: expected source files, found none"
    return (one for one in found if "node_modules" not in one.parts)


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imports(path: Path) -> set[str]:
    """Return every module and every name of a module that a file imports, in full."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def folders(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("coinspace.")}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every string except docstrings; a formatted one is one text."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    left_out = {
        id(node.body[0].value)
        for node in ast.walk(tree(path))
        if isinstance(node, kinds) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.JoinedStr):
            parts = [one.value if isinstance(one, ast.Constant) else "…" for one in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in left_out:
            yield node.lineno, str(node.value)


def clocks(path: Path, wanted: set[str]) -> list[str]:
    """Return the clocks that a file names, with their lines."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{one.name}" for one in node.names}
            names |= {one.name for one in node.names}
        elif isinstance(node, ast.Attribute):
            names = {ast.unparse(node)}
        else:
            continue
        found += [f"{named(path)}:{node.lineno} {one}" for one in names & wanted]
    return found


def test_every_folder_has_its_allowed_imports() -> None:
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there == ALLOWED.keys() | {"_ext", "exchanges"}


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_imports_go_one_way(folder: str) -> None:
    for path in sources(folder):
        beyond = folders(path) - BASE - ALLOWED[folder] - {folder}
        assert not beyond, f"{named(path)} imports {beyond}"


@pytest.mark.parametrize("library", ROOMS)
def test_a_library_is_imported_in_one_folder(library: str) -> None:
    elsewhere = [
        named(path)
        for path in sources()
        if library in {name.split(".")[0] for name in imports(path)}
        and not named(path).startswith(f"{ROOMS[library]}/")
    ]
    assert not elsewhere, f"only {ROOMS[library]}/ may import {library}"


def test_one_module_chooses_the_transport() -> None:
    users = {
        named(path)
        for path in sources()
        if not named(path).startswith("bus/nats/")
        and any(name.startswith(TRANSPORTS) for name in imports(path))
    }
    assert users == {"bus/transport.py"}


def test_sql_is_written_in_storage() -> None:
    found = [
        f"{named(path)}:{line} {text[:60]!r}"
        for path in sources()
        if not named(path).startswith("storage/")
        for line, text in texts(path)
        if SQL.search(text)
    ]
    assert not found


def test_the_wall_clock_has_one_name() -> None:
    assert not [
        one for path in sources() if named(path) != "clock.py" for one in clocks(path, WALL_CLOCKS)
    ]


@pytest.mark.parametrize("place", WITHOUT_CLOCK)
def test_reproducible_code_reads_no_clock(place: str) -> None:
    assert not [one for path in sources(place) for one in clocks(path, CLOCKS)]


@pytest.mark.parametrize(
    "text",
    [
        "rows = connection.execute('SELECT a FROM b')",
        'rows = connection.execute("select "\n    "a from b")',
        'rows = connection.execute(f"SELECT {a} FROM {b}")',
        "sql = 'ALTER TABLE a DROP PARTITION b'",
    ],
)
def test_sql_is_found(text: str, tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text(f'"""Select this from that."""\n{text}\n')
    assert any(SQL.search(found) for _, found in texts(path))


def test_exchanges_stand_below_the_configuration() -> None:
    for path in (PACKAGE / "exchanges").rglob("*.py"):
        beyond = folders(path) - BELOW - {"exchanges", "clock"}
        assert not beyond, f"{path.relative_to(ROOT)} imports {beyond}"


def test_no_import_cycle() -> None:
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for part in ("coinspace", "tests", "benchmarks")
        for path in (ROOT / part).rglob("*.py")
        if "node_modules" not in path.parts
    }
    graph = {
        name: {one for one in imports(path) if one in modules and one != name}
        # a package is imported with each of its modules, which is not a dependency
        - {name.rpartition(".")[0]}
        for name, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_module_has_a_stub() -> None:
    sources = {path.stem for path in (ROOT / "ext").rglob("*.pyx")}
    stubs = {path.stem for path in (PACKAGE / "_ext").glob("*.pyi")}
    assert sources == stubs


def test_nothing_built_is_tracked() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so nothing can be tracked")
    built = [
        name
        for name in listed.stdout.split()
        if name.endswith((".so", ".pyc", ".jar", ".zst"))
        or (name.startswith("ext/") and name.endswith(".c"))
        or "node_modules" in name
    ]
    assert built == []
