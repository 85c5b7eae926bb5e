"""Order of start and stop, refusals before anything starts."""

import os
import socket
from pathlib import Path

import pytest

from coinspace.child import LOG_BYTES, LogFile
from coinspace.config import EndpointSettings, Settings, load
from coinspace.errors import ConfigError
from coinspace.supervisor import check_port, claim, start_groups, stop_groups


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load()


def test_every_process_starts_and_stops_once(settings: Settings) -> None:
    names = ["questdb", *(name for name, _ in settings.processes())]
    started = [name for group in start_groups(names) for name in group]
    assert sorted(started) == sorted(names)
    stopped = [name for group in stop_groups(["simulate", *names]) for name in group]
    assert sorted(stopped) == sorted(["simulate", *names])


def test_readers_start_before_writers_and_stop_after_them(settings: Settings) -> None:
    names = ["questdb", *(name for name, _ in settings.processes())]
    order = [name for group in start_groups(names) for name in group]
    collector = order.index("orderbook-collector-upbit")
    assert order[0] == "questdb"
    assert order.index("orderbook-storage-worker") < collector
    assert order.index("index-calculator") < order.index("orderbook-aggregator") < collector
    reverse = [name for group in stop_groups(names) for name in group]
    assert reverse[-1] == "questdb"
    assert reverse.index("orderbook-collector-upbit") < reverse.index("orderbook-storage-worker")


def test_port_in_use_is_one_clear_error(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings.endpoint.port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=r"expected a free port.*set endpoint.port"):
            check_port(settings)


def test_an_ipv6_port_is_checked_like_any_other(settings: Settings) -> None:
    settings.endpoint.host = "::1"
    try:
        other = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with other:
        settings.endpoint.port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=r"endpoint port \[::1\]:\d+: expected a free port"):
            check_port(settings)
    check_port(settings)


def test_a_host_of_another_machine_is_one_clear_error(settings: Settings) -> None:
    settings.endpoint.host = "no such host"
    with pytest.raises(ConfigError, match=r"endpoint\.host: expected an address of this machine"):
        check_port(settings)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("localhost", "http://localhost:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:8080"),
        ("[::1]", "http://[::1]:8080"),
        ("::", "http://[::1]:8080"),
    ],
)
def test_the_endpoint_is_reached_where_it_listens(host: str, url: str) -> None:
    assert EndpointSettings(host=host).url == url


def test_second_supervisor_on_a_folder_is_refused(settings: Settings) -> None:
    lock = claim(settings)
    with pytest.raises(ConfigError, match=f"supervisor: .* found process {os.getpid()}"):
        claim(settings)
    os.close(lock)
    os.close(claim(settings))


def test_unwritable_data_folder_is_one_clear_error(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings.data = tmp_path / "file"
    with pytest.raises(ConfigError, match="expected a writable folder"):
        claim(settings)


def test_claim_forgets_states_of_an_earlier_run(settings: Settings) -> None:
    stale = settings.data / "run" / "index-endpoint.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    os.close(claim(settings))
    assert not stale.exists()


def test_logs_are_bounded(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log")
    line = b"x" * (1 << 20)
    for _ in range(25):
        log.write(line)
    log.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert all(size <= LOG_BYTES + 2 * len(line) for size in sizes)
