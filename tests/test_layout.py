"""Imports go one way, stubs match sources, nothing built is tracked."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "coinspace"

BASE = {
    "_ext",
    "errors",
    "clock",
    "market",
    "config",
    "process",
    "text",
    "tuning",
    "tasks",
    "log",
    "notify",
}
MIDDLE = {"method", "bus", "exchanges", "feed"}
# what each folder may import besides BASE and itself
ALLOWED = {
    "method": set(),
    "bus": set(),
    "exchanges": set(),
    "feed": {"exchanges"},
    "collector": MIDDLE,
    "storage": MIDDLE,
    "aggregator": MIDDLE,
    "index": MIDDLE | {"storage", "aggregator"},
    "endpoint": MIDDLE | {"storage", "observe"},
    "client": set(),
    "observe": MIDDLE | {"storage"},
}

# parts of commands that are imported only when they run
TOOLS = {"index/feeds.py", "index/audit.py", "observe/runs.py"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.split(".")[1] for name in found if name.startswith("coinspace.")}


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_imports_go_one_way(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        # tools that put stages together, not stages
        tool = path.name == "commands.py" or path.relative_to(PACKAGE).as_posix() in TOOLS
        extra = {"collector", "storage", "aggregator", "index", "client"} if tool else set()
        beyond = imports(path) - BASE - ALLOWED[folder] - extra - {folder}
        assert not beyond, f"{path.relative_to(ROOT)} imports {beyond}"


def test_every_module_has_a_stub() -> None:
    sources = {path.stem for path in (ROOT / "ext").glob("*.pyx")}
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
