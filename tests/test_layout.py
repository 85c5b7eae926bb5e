"""Imports go one way, stubs match sources, nothing built is tracked."""

import ast
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "coinspace"

BASE = {
    "__version__",
    "_ext",
    "errors",
    "clock",
    "market",
    "config",
    "options",
    "process",
    "text",
    "tuning",
    "tasks",
    "log",
    "notify",
}
MIDDLE = {"method", "bus", "exchanges", "recording"}
# what each folder may import besides BASE and itself
ALLOWED = {
    "method": set(),
    "bus": set(),
    "exchanges": set(),
    "recording": {"exchanges"},
    "simulator": {"exchanges", "recording"},
    "collector": MIDDLE,
    "storage": MIDDLE,
    "aggregator": MIDDLE,
    "index": MIDDLE | {"storage", "aggregator"},
    "endpoint": MIDDLE | {"storage", "observe"},
    "client": set(),
    "observe": MIDDLE | {"storage"},
}

# parts of commands that are imported only when they run
TOOLS = {
    "index/recompute/feeds.py",
    "index/recompute/audit.py",
    "observe/runs.py",
    "observe/wire.py",
}


def imports(path: Path) -> set[str]:
    """Return every module and every name of a module that a file imports, in full."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def folders(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("coinspace.")}


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_imports_go_one_way(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        # tools that put stages together, not stages
        tool = path.name == "commands.py" or path.relative_to(PACKAGE).as_posix() in TOOLS
        extra = (
            {"aggregator", "client", "collector", "index", "simulator", "storage"}
            if tool
            else set()
        )
        beyond = folders(path) - BASE - ALLOWED[folder] - extra - {folder}
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
        # a package is imported with each of its modules, which says nothing of an order
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
