"""Fixtures that more than one folder of tests uses."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def feeds() -> Path:
    """The folder of recordings: $COINSPACE_FEEDS, or shared/feeds beside the repository."""
    folder = Path(os.environ.get("COINSPACE_FEEDS", ROOT.parent / "shared" / "feeds"))
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}: set COINSPACE_FEEDS to the folder that holds them")
    return folder
