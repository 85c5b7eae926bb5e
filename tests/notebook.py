"""Executes the notebook of the documents.

`python -m tests.notebook` runs it and saves it with its outputs; `python -m tests.notebook FILE`
saves the result to another file.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "notebook.ipynb"
TIMEOUT_S = 240


def execute(folder: Path) -> Any:
    """Return the notebook with new outputs, run in a folder by the interpreter of the caller."""
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    # the commands of this environment, and no settings of the user
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["IPYTHONDIR"] = str(folder / "ipython")
    for name in [name for name in os.environ if name.startswith("COINSPACE_")]:
        del os.environ[name]
    # matplotlib lists the fonts of a new machine once, and reports it where it is imported
    os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")
    importlib.import_module("matplotlib.font_manager")
    found: Any = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    for number, cell in enumerate(found.cells):
        cell.id = f"cell-{number}"
    NotebookClient(
        found,
        timeout=TIMEOUT_S,
        startup_timeout=TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        # sockets in the file system: no port of this machine is used
        config=Config({"KernelManager": {"transport": "ipc", "ip": str(folder / "kernel")}}),
    ).execute()
    # without the versions of this machine
    found.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return found


def texts(notebook: dict[str, Any]) -> list[str]:
    """Return the text of each cell's output; a picture is only named."""
    found = []
    for cell in notebook["cells"]:
        text = ""
        for one in cell.get("outputs", ()):
            data = one.get("data", {})
            shown = one.get("text") or ("picture" if "image/png" in data else data["text/plain"])
            text += "".join(shown)
        found.append(text)
    return found


def main() -> None:
    """Execute the notebook and save it, to its place or to the file of the first argument."""
    with tempfile.TemporaryDirectory() as folder:
        found = execute(Path(folder))
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK
    target.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
