"""C and Cython that only benchmarks need, compiled at their first use."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

FOLDER = Path("build/bench/native")
SOURCES = Path(__file__).parent


def compiled(source: str, compiler: str, *flags: str) -> Path:
    """Compile a file of this folder into a shared library, unless it is there; returns its path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = SOURCES / source
    library = FOLDER / f"{path.stem}.so"
    if not library.exists() or library.stat().st_mtime < path.stat().st_mtime:
        # another process may compile it, too: the finished library is renamed into place
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            made = Path(folder) / library.name
            command = [compiler, "-shared", "-fPIC", "-o", str(made), str(path), *flags]
            subprocess.run(command, check=True)
            made.replace(library)
    return library.resolve()


def limits() -> ModuleType:
    """Compile limits.pyx against the installed ext/ and import it."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    FOLDER.mkdir(parents=True, exist_ok=True)
    source = FOLDER / "limits.pyx"
    if not source.exists() or source.read_bytes() != (SOURCES / "limits.pyx").read_bytes():
        shutil.copyfile(SOURCES / "limits.pyx", source)
    modules = cythonize(  # type: ignore[no-untyped-call]
        [
            Extension(
                "limits", [str(source)], include_dirs=["ext/parse"], extra_compile_args=["-O3"]
            )
        ],
        include_path=["build/cimport"],
        compiler_directives={"language_level": 3, "wraparound": False, "boundscheck": False},
        quiet=True,
    )
    distribution = Distribution({"ext_modules": modules})
    command = build_ext(distribution)
    command.build_lib = command.build_temp = str(FOLDER)
    command.finalize_options()
    command.run()
    [library] = FOLDER.glob("limits.*.so")
    spec = importlib.util.spec_from_file_location("limits", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["limits"] = module
    spec.loader.exec_module(module)
    return module
