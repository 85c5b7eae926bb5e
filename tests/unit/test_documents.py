"""The documents: links have a target, named things exist, examples print what they show."""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from coinspace.client import Client
from coinspace.config import Settings, load
from coinspace.config_alerts import AlertRule, AlertTarget
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.preflight import check_start
from tests import documents
from tests.documents import ROOT, Block, Document

DOCUMENTS = [documents.read(path) for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])]
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one.path.name)
SECTIONS = "|".join(Settings.model_fields)
ROUTE = re.compile(
    r"(?<![\w./-])(/(?:v1|docs|livez|readyz|metrics|openapi\.json|asyncapi\.json)(?:/[\w{}/:.*-]*)?)"
)


def report(document: Document, found: list[tuple[int, str]]) -> None:
    name = document.path.name
    assert not found, "\n".join(f"{name}:{line}: {text}" for line, text in found)


@each_document
def test_links_have_a_target(document: Document) -> None:
    wrong = []
    for line, target in document.links():
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.path.parent / name).resolve() if name else document.path
        if not path.exists():
            wrong.append((line, f"{target}: there is no such file"))
        elif anchor and anchor not in documents.read(path).anchors:
            wrong.append((line, f"{target}: there is no such heading"))
    report(document, wrong)


@each_document
def test_named_paths_exist(document: Document) -> None:
    # NAME stands for an exchange
    found = ((line, path, path.rstrip("/").replace("NAME", "*")) for line, path in document.paths())
    report(document, [(line, path) for line, path, glob in found if not any(ROOT.glob(glob))])


@each_document
def test_commands_exist_with_their_options(document: Document) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wrong = []
    for line, words in document.commands():
        if words[0] == "coinspace":
            unknown = documents.wrong_words(words)
        else:
            named = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            unknown = [w for w in named if w not in targets and not documents.placeholder(w)]
        if unknown:
            wrong.append((line, f"{' '.join(words)}: unknown {', '.join(unknown)}"))
    for line, text in document.spans():
        option = re.match(r"--[a-z-]+", text)
        if option and option[0] not in documents.options():
            wrong.append((line, f"{text}: no command has this option"))
    report(document, wrong)


@each_document
def test_named_settings_exist(document: Document) -> None:
    wrong = []
    for line, text in document.spans():
        if re.fullmatch(rf"({SECTIONS})(\.[\w*-]+)+", text) and not is_setting(text.split(".")):
            wrong.append((line, text))
    for line, text in enumerate(document.path.read_text().splitlines(), 1):
        wrong += [
            (line, name)
            for name in re.findall(r"COINSPACE_\w*[A-Z]", text)
            if not is_variable(name)
        ]
    report(document, wrong)


def is_setting(names: list[str]) -> bool:
    """Return whether a dotted name is a key of coinspace.toml; NAME stands for an exchange."""
    if names[0] == "exchanges":
        return len(names) < 3 or names[2] in ExchangeSettings.model_fields
    for table, section in (("rules", AlertRule), ("targets", AlertTarget)):
        if names[:2] == ["alerts", table]:
            return len(names) < 4 or names[3] in section.model_fields
    model: type[BaseModel] = Settings
    for name in names:
        if name not in model.model_fields:
            return False
        kind = model.model_fields[name].annotation
        kinds = [one for one in (kind, *get_args(kind)) if isinstance(one, type)]
        below = next((one for one in kinds if issubclass(one, BaseModel)), None)
        if below is None:
            return True
        model = below
    return True


def is_variable(name: str) -> bool:
    """Return whether an environment variable is a setting, or is read in the code."""
    key = name.removeprefix("COINSPACE_").lower()
    if "__" in key:
        return is_setting(key.split("__"))
    return key in Settings.model_fields or name in sources()


@functools.cache
def sources() -> str:
    """Return the text of every file that could read an environment variable."""
    files = [ROOT / "Makefile", ROOT / "setup.py"]
    files += [*(ROOT / "coinspace").rglob("*.py"), *(ROOT / "tests").glob("**/*.py")]
    return "\n".join(
        path.read_text()
        for path in files
        if "node_modules" not in path.parts and path != Path(__file__)
    )


@each_document
def test_named_routes_exist(document: Document) -> None:
    known = routes()
    wrong = []
    for line, text in enumerate(document.path.read_text().splitlines(), 1):
        for found in ROUTE.findall(text):
            # the values of a path: names in braces, or an example of one
            parts = found.rstrip("/.").split("/")
            if not any(fits(parts, route) for route in known):
                wrong.append((line, found))
    report(document, wrong)


def fits(parts: list[str], route: list[str]) -> bool:
    if len(parts) > len(route):
        return False
    pairs = zip(parts, route, strict=False)
    return all(a == b or b.startswith("{") or a == "*" for a, b in pairs)


@functools.cache
def routes() -> list[list[str]]:
    """Return the paths that the endpoint's routes name."""
    texts = {
        node.value
        for path in (ROOT / "coinspace" / "endpoint" / "routes").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return [text.split("/") for text in texts if re.fullmatch(r"/[\w/{}.-]+", text)]


@each_document
def test_configurations_are_valid(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("COINSPACE_")]:
        monkeypatch.delenv(name)
    # secrets of an example stand in the environment
    monkeypatch.setenv("COINSPACE_STORAGE__PASSWORD", "of-a-test-only-0")
    monkeypatch.setenv("COINSPACE_ALERTS__TARGETS__OPS__URL", "https://hooks.example/of-a-test")
    # an example may pin processors that this machine does not have
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for block in document.blocks:
        if block.language == "toml":
            path = tmp_path / f"{block.line}.toml"
            path.write_text(block.text)
            check_start(load(str(path)))


@each_document
def test_python_examples_use_what_exists(document: Document) -> None:
    wrong = []
    for block in document.blocks:
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            line = block.line + getattr(node, "lineno", 1) - 1
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coinspace"):
                module: Any = importlib.import_module(node.module or "")
                wrong += [(line, one.name) for one in node.names if not hasattr(module, one.name)]
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "client":
                wrong += [] if hasattr(Client, node.attr) else [(line, f"client.{node.attr}")]
    report(document, wrong)


@each_document
def test_figures_are_those_of_the_report(document: Document) -> None:
    """A table whose head links to the report has only numbers of the report."""
    figures = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    wrong = []
    linked = inside = False
    for line, text in document.prose:
        if text.startswith("|") and not inside:
            linked = "RESULTS.md#" in text
        elif text.startswith("|") and linked:
            # the first cell names the work, and may have other numbers
            numbers = re.findall(r"\d[\d,]*(?:\.\d+)?", text.strip("| ").partition("|")[2])
            wrong += [
                (line, f"{number} is not in benchmarks/RESULTS.md")
                for number in numbers
                if not re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d,]|\.\d)", figures)
            ]
        inside = text.startswith("|")
    report(document, wrong)


EXAMPLES = [
    pytest.param(block, id=f"{document.path.name}:{block.line}")
    for document in DOCUMENTS
    for block in document.blocks
    if block.run
]


@pytest.mark.parametrize("block", EXAMPLES)
def test_examples_print_what_they_show(block: Block, tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    if block.language == "python":
        execute([sys.executable, "-c", block.text], tmp_path)
        return
    for command, shown in steps(block.text):
        output = execute(["bash", "-euc", command], tmp_path)
        if shown:
            pattern = re.escape(shown).replace("…", ".*?")
            assert re.fullmatch(pattern, output.strip(), re.DOTALL), f"{command}\n{output}"


def steps(text: str) -> list[tuple[str, str]]:
    """Return each command of a console block with the output that is shown, "" = none."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    found = []
    for part in parts:
        lines = part.splitlines()
        n = next(i for i, line in enumerate(lines) if not line.endswith("\\")) + 1
        found.append(("\n".join(lines[:n]), "\n".join(lines[n:]).strip()))
    return found


def execute(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("COINSPACE_")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**kept, "PATH": path},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (test_links_have_a_target, "[one](none.md)"),
        (test_links_have_a_target, "# Here\n[one](#there)"),
        (test_named_paths_exist, "`coinspace/none.py`"),
        (test_named_paths_exist, "```\nls tests/none\n```"),
        (test_commands_exist_with_their_options, "`coinspace statsu`"),
        (test_commands_exist_with_their_options, "`coinspace feed infos FEED`"),
        (test_commands_exist_with_their_options, "```\ncoinspace markets upbit --jsn\n```"),
        (test_commands_exist_with_their_options, "```\ncoinspace query olhc BTC  candles\n```"),
        (test_commands_exist_with_their_options, "```\ncat a | coinspace decode kraken\n```"),
        (test_commands_exist_with_their_options, "```\nA=1 coinspace profile parse --fed F\n```"),
        (test_commands_exist_with_their_options, "`coinspace keys new NAME --role boss`"),
        (test_commands_exist_with_their_options, "`coinspace reconcile today`"),
        (test_commands_exist_with_their_options, "`make none`"),
        (test_commands_exist_with_their_options, "`--none`"),
        (test_named_settings_exist, "`index.interval`"),
        (test_named_settings_exist, "`exchanges.NAME.market`"),
        (test_named_settings_exist, "COINSPACE_ENDPOINT__PROT=1"),
        (test_named_settings_exist, "COINSPACE_NOTHING_READS=1"),
        (test_named_routes_exist, "`/v1/indexes/BTC`"),
        (test_python_examples_use_what_exists, "```python\nclient.none()\n```"),
        (test_python_examples_use_what_exists, "```python\nfrom coinspace.client import A\n```"),
        (
            test_figures_are_those_of_the_report,
            "| [ns](RESULTS.md#every-figure) | ours |\n|---|---|\n| index | 1,234,567.5 |",
        ),
    ],
)
def test_a_mistake_is_found(check: Callable[[Document], None], text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(text + "\n")
    with pytest.raises(AssertionError, match=r"^a\.md:\d+: "):
        check(documents.read(path))
