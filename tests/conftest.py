"""Fixtures that more than one folder of tests uses."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog
import uvloop

from coinspace.bus.nats.server import Cluster
from coinspace.config import Settings, StorageSettings
from coinspace.storage.questdb.server import ManagedServer
from tests.waiting import free_port

ROOT = Path(__file__).resolve().parent.parent
# no test asks a source of USD/KRW outside of this machine
os.environ.setdefault("COINSPACE_RATES__SOURCES", "")

# every run tries the same examples, and on a busy machine a slow one does not show slow code;
# --hypothesis-profile explore tries others
_BUSY = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], database=None
)
hypothesis.settings.register_profile("explore", _BUSY)
hypothesis.settings.register_profile("same", _BUSY, derandomize=True)
hypothesis.settings.load_profile("same")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run asynchronous tests on the event loop that every process of the product runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def feeds() -> Path:
    """The folder of recordings: $COINSPACE_FEEDS, or shared/feeds beside the repository."""
    folder = Path(os.environ.get("COINSPACE_FEEDS", ROOT.parent / "shared" / "feeds"))
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}: set COINSPACE_FEEDS to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A NATS server for all tests; each test takes a `bus.platform` of its own."""
    server = Cluster(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server.url
    server.close()


@pytest.fixture
def closing() -> Iterator[Callable[[Any], Any]]:
    """Returns a function that has something closed at the end of the test."""
    kept: list[Any] = []

    def keep(one: Any) -> Any:
        kept.append(one)
        return one

    yield keep
    for one in reversed(kept):
        one.close()


@pytest.fixture(scope="session")
def questdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a data folder whose private QuestDB runs, one server for all tests.

    Tests share it: use markets, tables or times of your own, or truncate what you read.
    `settings.model_copy(update={"data": …})` with `storage.ilp` and `storage.sql` of
    `address(questdb)` gives a data folder of your own on the same server.
    """
    storage = StorageSettings(
        ttl="off",
        # a nearly full disk of this machine fails no test
        disk_low_mb=1,
        ilp_port=free_port(),
        # lets a test suspend a table
        server_options={"QDB_DEV_MODE_ENABLED": "true"},
    )
    settings = Settings(data=tmp_path_factory.mktemp("questdb"), storage=storage)
    server = ManagedServer(settings)
    server.spawn()
    server.wait_ready()
    yield settings
    logs = sorted((server.root / "log").glob("questdb-*.log*"))
    last = logs[-1].read_text(errors="replace").splitlines()[-5:] if logs else []
    assert server.poll() is None, f"QuestDB died during the tests: {last}"
    assert server.stop() == 0


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of the test with a short name: paths of ipc sockets end at 107 bytes."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(autouse=True)
def fresh_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let loggers follow the configuration of each test: commands configure them, tests capture."""
    configure = structlog.configure
    monkeypatch.setattr(
        structlog,
        "configure",
        lambda **options: configure(**{**options, "cache_logger_on_first_use": False}),
    )
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Leave no setting to the next test: `up` hands its choices to children by the environment."""
    before = {name: value for name, value in os.environ.items() if name.startswith("COINSPACE_")}
    yield
    for name in [name for name in os.environ if name.startswith("COINSPACE_")]:
        if name not in before:
            del os.environ[name]
    os.environ.update(before)
