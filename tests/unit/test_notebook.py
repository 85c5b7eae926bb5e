"""The notebook of the documents runs, and shows what it gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.notebook import NOTEBOOK, texts


def test_the_notebook_gives_what_it_shows(tmp_path: Path) -> None:
    file = tmp_path / "now.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "tests.notebook", str(file)],
        cwd=NOTEBOOK.parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    now, written = (json.loads(path.read_text()) for path in (file, NOTEBOOK))
    # `python -m tests.notebook` writes the notebook anew
    assert texts(now) == texts(written)
    assert "picture" in texts(now)
    numbers = [one["execution_count"] for one in written["cells"] if one["cell_type"] == "code"]
    assert numbers == list(range(1, len(numbers) + 1))
