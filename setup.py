"""Build ext/STAGE/*.pyx into coinspace._ext.

COINSPACE_BUILD = release (default), debug, trace, asan, checked.
"""

import os
import platform
import shutil
from pathlib import Path

import Cython.Compiler.Options as cython_options
from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)
BUILD = Path("build")
HEADERS = sorted(Path("ext").rglob("*.h"))
MODE = os.environ.get("COINSPACE_BUILD", "release")
SANITISERS = "-fsanitize=address,undefined"
FLAGS = {
    "release": "-O3 -g0 -DCYTHON_WITHOUT_ASSERTIONS",
    "debug": "-O0 -g",
    "trace": "-O0 -g -DCYTHON_TRACE=1 -DCYTHON_TRACE_NOGIL=1 -DCYTHON_USE_SYS_MONITORING=0",
    # the fuzzer follows the edges that a frame takes: tests/fuzz/edges.c
    "asan": f"-O1 -g {SANITISERS} -fsanitize-coverage=trace-pc -fno-omit-frame-pointer",
    # every module for tests/fuzz/whole.py: compiled in a third of the time, and without edges
    "checked": f"-O0 -g1 {SANITISERS}",
}
if MODE not in FLAGS:
    raise SystemExit(f"COINSPACE_BUILD: expected one of {', '.join(FLAGS)}, was {MODE!r}")


def baseline() -> list[str]:
    """Compiler flags for the oldest processor that a build must run on.

    x86-64-v2 has the SSE4.1 that the number scanner uses; elsewhere its portable path is compiled.
    COINSPACE_MARCH overrides; "" = the compiler's default, which also selects the portable path.
    """
    default = "x86-64-v2" if platform.machine() in ("x86_64", "AMD64") else ""
    march = os.environ.get("COINSPACE_MARCH", default)
    return [f"-march={march}"] if march else []


def cimport_root() -> str:
    """Make `cimport coinspace._ext.X` find ext/STAGE/X.pxd: Cython wants the whole dotted name."""
    package = BUILD / "cimport" / "coinspace" / "_ext"
    shutil.rmtree(BUILD / "cimport", ignore_errors=True)
    package.mkdir(parents=True)
    for source in Path("ext").rglob("*.p[xy][dx]"):
        (package / source.name).symlink_to(source.resolve())
    return str(BUILD / "cimport")


MODE_STAMP = BUILD / "mode"
MODE_NOW = f"{MODE} {os.environ.get('COINSPACE_MARCH', '')}"


def mode_changed() -> bool:
    """Return whether the last build used other flags: its objects must be replaced."""
    return not MODE_STAMP.exists() or MODE_STAMP.read_text() != MODE_NOW


def extensions() -> list[Extension]:
    # no fused multiply-add, so that every processor rounds alike
    flags = [*FLAGS[MODE].split(), "-ffp-contract=off", *baseline()]
    link = [SANITISERS] if MODE in ("asan", "checked") else []
    return [
        Extension(
            f"coinspace._ext.{source.stem}",
            [str(source)],
            include_dirs=sorted({str(header.parent) for header in HEADERS}),
            extra_compile_args=flags,
            extra_link_args=link,
            depends=[str(header) for header in HEADERS],
        )
        for source in sorted(Path("ext").rglob("*.pyx"))
    ]


cython_options.warning_errors = True
include = cimport_root()
annotate = bool(os.environ.get("COINSPACE_ANNOTATE"))
force = mode_changed() or annotate
if force:
    # a build that fails half-way leaves objects of both modes, which the next build must not use
    MODE_STAMP.unlink(missing_ok=True)
checked = MODE != "release"
SHARED = "coinspace._ext._cyutility"
modules = cythonize(
    [*extensions(), Extension(SHARED, [str(BUILD / "cython" / "_cyutility.c")])],
    include_path=[include],
    # Cython's coverage plugin looks for the .c file beside its .pyx
    build_dir=None if MODE == "trace" else str(BUILD / "cython"),
    annotate=annotate,
    force=force,
    shared_utility_qualified_name=SHARED,
    compiler_directives={
        "language_level": 3,
        "wraparound": False,
        "cdivision": True,
        "boundscheck": checked,
        "initializedcheck": checked,
        "nonecheck": checked,
        "linetrace": MODE == "trace",
        "embedsignature": False,
    },
)
distribution = setup(
    ext_modules=modules,
    options={"build_ext": {"force": force, "parallel": os.cpu_count()}},
)
if distribution.have_run.get("build_ext"):
    MODE_STAMP.write_text(MODE_NOW)
