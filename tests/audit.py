"""`make audit`: compare the locked packages with the advisories that the package index lists.

Exit code 0 = all were compared and none is known to be vulnerable, 1 = some are, 2 = no database
answered for some or all of them, which says nothing about their safety.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "requirements"
FOUND, UNKNOWN = 1, 2


def verdict(dependencies: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Return the exit code and lines about the findings. Args: as pip-audit writes them."""
    lines, unknown = [], []
    for one in dependencies:
        if "skip_reason" in one:
            unknown.append(one["name"])
        for advisory in one.get("vulns", ()):
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            lines.append(f"{one['name']} {one['version']}: {advisory['id']}, fixed in {fixed}")
    found = bool(lines)
    if unknown or not dependencies:
        some = "all" if len(unknown) == len(dependencies) else f"{len(unknown)}"
        lines.append(
            f"NOT CHECKED: no database of advisories answered for {some} of"
            f" {len(dependencies)} packages; run it where pypi.org can be reached"
        )
        return (FOUND if found else UNKNOWN), lines
    if not found:
        lines.append(f"{len(dependencies)} packages checked, no advisory")
    return FOUND if found else 0, lines


def main() -> int:
    """Run pip-audit, the first argument, over the lock files."""
    codes = set()
    for path in sorted(FOLDER.glob("*.txt")):
        command = [sys.argv[1], "--disable-pip", "--require-hashes", "--format", "json"]
        command += ["--progress-spinner", "off", "--requirement", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            dependencies = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            # pip-audit ends with a traceback when it reaches no server
            print(done.stderr.strip().rpartition("\n")[2][:300])
            dependencies = []
        code, lines = verdict(dependencies)
        codes.add(code)
        print(*(f"requirements/{path.name}: {line}" for line in lines), sep="\n")
    return FOUND if FOUND in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())
