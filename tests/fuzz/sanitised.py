"""Compiled code with gcc's address and undefined-behaviour sanitisers, beside the normal build.

The normal build stays as it is: sources are copied to build/asan, compiled there, and run in a
child process with the sanitiser's runtime preloaded. `build` compiles the parsers for the fuzzer,
`build_all` every module for the tests of them, with the number reader of other processors.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "asan"
WHOLE = ROOT / "build" / "asan-all"
EDGES = "edges.so"
# only modules that the parsers need, so that the build takes seconds
MODULES = (
    "number",
    "scan",
    "parser",
    "upbit",
    "bithumb",
    "binance",
    "binance_sbe",
    "coinone",
    "coinbase",
)
BUILD_TIMEOUT_S = 300.0


def runtime() -> str | None:
    """Return the path of gcc's sanitiser runtime, None if it is missing."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return None
    asked = [compiler, "-print-file-name=libasan.so"]
    path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return str(Path(path).resolve()) if Path(path).is_absolute() else None


def _copy(source: Path, target: Path) -> None:
    # an unchanged file keeps its time, so that only what changed is compiled again
    if not target.exists() or target.read_bytes() != source.read_bytes():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _drop_old(folder: Path) -> None:
    """Remove copies of sources that have moved or are gone: a module would have two sources."""
    for part in ("coinspace", "ext"):
        for path in (folder / part).rglob("*.*"):
            copied = path.suffix in (".py", ".pyx", ".pxd", ".h")
            if copied and not (ROOT / path.relative_to(folder)).exists():
                path.unlink()


def build() -> None:
    """Compile the parsers with the sanitisers; quick when nothing changed.

    Raises: RuntimeError with the compiler's output.
    """
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        _copy(ROOT / name, FOLDER / name)
    for name in ("__init__.py", "errors.py", "_ext/__init__.py"):
        _copy(ROOT / "coinspace" / name, FOLDER / "coinspace" / name)
    for path in (ROOT / "ext").rglob("*.*"):
        if path.stem in MODULES or path.suffix == ".h":
            _copy(path, FOLDER / path.relative_to(ROOT))
    _drop_old(FOLDER)
    _compile(FOLDER, "asan")
    source = str(Path(__file__).with_name("edges.c"))
    edges = str(FOLDER / EDGES)
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", edges, source], check=True)


def build_all() -> None:
    """Compile every module with the sanitisers into WHOLE, with all of the package beside them."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        _copy(ROOT / name, WHOLE / name)
    for part in ("coinspace", "ext"):
        for path in (ROOT / part).rglob("*"):
            kept = path.suffix in (".py", ".json", ".toml", ".pyx", ".pxd", ".h")
            if kept and "node_modules" not in path.parts:
                _copy(path, WHOLE / path.relative_to(ROOT))
    _drop_old(WHOLE)
    # the compiler's default processor has no vector path
    _compile(WHOLE, "checked", march="")


def _compile(folder: Path, mode: str, march: str | None = None) -> None:
    environment = {**os.environ, "COINSPACE_BUILD": mode}
    if march is not None:
        environment["COINSPACE_MARCH"] = march
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"sanitised build failed:\n{done.stdout}\n{done.stderr}")


def run(
    *arguments: str, timeout_s: float, folder: Path = FOLDER, module: str = "tests.fuzz.child"
) -> subprocess.CompletedProcess[str]:
    """Run `python -m tests.fuzz.child`, or another module, on the sanitised build in a folder."""
    preload = runtime()
    if preload is None:
        raise RuntimeError("no libasan.so: install gcc with its sanitisers")
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{preload} {folder / EDGES}" if (folder / EDGES).exists() else preload,
        # pymalloc's pools would hide reads beyond an object
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:exitcode=99",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1:exitcode=99",
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
    }
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
