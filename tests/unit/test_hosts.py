"""Several hosts: who runs what, where it listens, and what is known of other hosts' processes."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from coinspace.bus.beats import Beats, RemoteHealth
from coinspace.bus.keys import public_key
from coinspace.clock import SECOND_NS, monotonic_ns, now_ns
from coinspace.config import ALERTER, PROCESSES, HostSettings, Settings, load
from coinspace.errors import BusError, ConfigError
from coinspace.hosts import assigned, is_here
from coinspace.observe import health as observed
from coinspace.observe.doctor import _hosts
from coinspace.observe.health import all_health
from coinspace.storage.questdb.address import address
from coinspace.supervisor import check_host, chosen
from tests.waiting import free_port, until

# an address of no machine: documentation only (RFC 5737)
NOWHERE = "192.0.2.1"
PASSWORD = "a-password-of-a-test"
# without rules of alerts
# of the storage workers that share streams only the first runs by default
RUNNING = [name for name in PROCESSES if name != ALERTER and not name[-1].isdigit()]
TWO = {
    "store": {"address": "127.0.0.1", "roles": ["storage", "index"]},
    "front": {"address": "127.0.0.1", "roles": ["collectors", "endpoint"]},
}


def write(folder: Path, text: str) -> None:
    (folder / "coinspace.toml").write_text(text)


def two(folder: Path, host: str, port: int = 9400) -> Settings:
    hosts = {name: HostSettings(**one) for name, one in TWO.items()}  # type: ignore[arg-type]
    settings = Settings(data=folder, host=host, hosts=hosts)
    settings.bus.port = port
    return settings


def health(state: str = "ready", **more: object) -> bytes:
    facts = {"state": state, "counters": {"published": 7}, "started_ns": 1, "updated_ns": now_ns()}
    return orjson.dumps(facts | {"pid": 1, "beat_ns": 1, "reason": None} | more)


def test_roles_are_groups_processes_and_patterns() -> None:
    roles = {"a": ["storage"], "b": ["ticker-collector-*", "index-endpoint"]}
    hosts = {name: HostSettings(address=NOWHERE, roles=one) for name, one in roles.items()}
    found = assigned(hosts, PROCESSES)
    assert {name for name, host in found.items() if host == "a"} == {
        "questdb",
        "orderbook-storage-worker",
        "ticker-storage-worker",
    }
    assert found["ticker-collector-binance"] == found["index-endpoint"] == "b"
    assert "index-calculator" not in found


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('[hosts.a]\naddress="127.0.0.1"\nroles=["storage", "nonsense"]', "was 'nonsense'"),
        (
            '[hosts.a]\naddress="h"\nroles=["storage", "index"]\n'
            '[hosts.b]\naddress="i"\nroles=["index-*"]',
            "index-calculator already runs on hosts.a",
        ),
        ('[hosts.a]\naddress=" "\nroles=["storage"]', "expected a name or an IP address"),
        ('[hosts.a]\naddress="h"\nroles=["index"]', "expected a host with the role questdb"),
        (
            '[hosts.a]\naddress="h"\nroles=["storage"]\n[hosts.b]\naddress="i"\nroles=["index"]',
            "storage.password: expected a password",
        ),
        (
            f'[hosts.a]\naddress="h"\nroles=["storage"]\npublic_key="{"k" * 40}"\n'
            '[hosts.b]\naddress="i"\nroles=["collectors"]',
            "hosts.b: public_key: expected a key as hosts.a has one",
        ),
        ('host = "b"\n[hosts.a]\naddress="h"\nroles=["storage"]', "unknown host 'b'"),
        ('[storage]\npassword = "short"', "expected at least 16 letters"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, table)
    with pytest.raises(ConfigError, match=r"coinspace\.toml") as caught:
        load()
    assert words in str(caught.value)
    assert "short" not in str(caught.value)


def test_each_process_has_its_own_ports(tmp_path: Path) -> None:
    bus = two(tmp_path, "front").bus
    found = [
        endpoint
        for name in RUNNING
        for endpoint in (bus.endpoint(name), bus.replay_endpoint(name), bus.beat_endpoint(name))
    ]
    assert len(set(found)) == 3 * len(RUNNING)
    assert all(one.startswith("tcp://127.0.0.1:94") for one in found)
    assert not Settings(data=tmp_path).bus.beat_endpoint("questdb")


def test_a_host_runs_its_roles_only(tmp_path: Path) -> None:
    front, store = two(tmp_path, "front"), two(tmp_path, "store")
    assert chosen(front, []).keys() & chosen(store, []).keys() == set()
    assert "questdb" in chosen(store, [])
    # exchanges without markets have no collectors
    running = {name for name, _ in Settings(data=tmp_path).processes()} | {"questdb"}
    assert chosen(front, []).keys() | chosen(store, []).keys() == running
    assert set(chosen(store, ["index"])) == {"orderbook-aggregator", "index-calculator"}
    with pytest.raises(ConfigError, match="role 'endpoint': expected one of"):
        chosen(store, ["endpoint"])


def test_a_machine_that_is_not_known_is_refused(tmp_path: Path) -> None:
    # both hosts of this test have the same address
    with pytest.raises(ConfigError, match="name it with --host"):
        chosen(two(tmp_path, ""), [])


def test_another_machine_with_the_same_role_is_refused(tmp_path: Path) -> None:
    hosts = {"a": HostSettings(address=NOWHERE, roles=["storage"])}
    settings = Settings(data=tmp_path, host="a", hosts=hosts)
    with pytest.raises(ConfigError, match="another machine has its roles"):
        check_host(settings)
    with pytest.raises(BusError, match="another host has this role"):
        Beats(settings, "questdb", 1)


def test_two_processes_of_one_role_are_refused(tmp_path: Path) -> None:
    settings = two(tmp_path, "store", free_port())
    first = Beats(settings, "index-calculator", 1)
    with pytest.raises(BusError, match="is another process there"):
        Beats(settings, "index-calculator", 2)
    first.close()


def test_the_key_of_a_host_must_be_its_own(tmp_path: Path) -> None:
    settings = two(tmp_path, "store")
    for one in settings.hosts.values():
        one.public_key = "k" * 40
    with pytest.raises(ConfigError, match="coinspace keys curve"):
        check_host(settings)
    key = public_key(settings.bus)
    assert settings.bus.key_file.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="public_key: expected"):
        check_host(settings)
    settings.hosts["store"].public_key = key
    check_host(settings)


def test_keys_curve_prints_the_same_key_until_a_new_one_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coinspace.cli import coinspace

    monkeypatch.chdir(tmp_path)

    def printed(*more: str) -> str:
        done = CliRunner().invoke(coinspace, ["keys", "curve", *more])
        assert done.exit_code == 0, done.output
        return done.output

    first = printed()
    assert first.startswith('public_key = "')
    assert printed() == first
    assert printed("--new") != first


def test_the_database_of_other_hosts_has_one_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSPACE_STORAGE__PASSWORD", PASSWORD)
    settings = two(tmp_path, "front")
    settings.storage = Settings(storage=load().storage).storage
    assert settings.shared_server == "127.0.0.1"
    found = address(settings)
    assert found.http == "http://127.0.0.1:9000"
    assert found.sql == f"postgresql://coinspace:{PASSWORD}@127.0.0.1:8812/qdb"
    assert PASSWORD not in found.readonly_sql
    assert PASSWORD not in repr(found)


def test_an_address_is_this_machines_or_not() -> None:
    assert is_here("127.0.0.1")
    assert not is_here(NOWHERE)
    assert not is_here("no such host")


async def test_the_health_of_a_process_reaches_other_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    front, store = two(tmp_path / "front", "front", port), two(tmp_path / "store", "store", port)
    remote = RemoteHealth(front, on_loop=True)
    beats = Beats(store, "index-calculator", now_ns())

    def one() -> observed.Health:
        return next(o for o in all_health(front, remote) if o.process == "index-calculator")

    assert (one().state, one().reason) == ("starting", "no heartbeat yet from host store")

    def arrives() -> bool:
        beats.publish(health())
        return one().ok

    await until(arrives)
    assert one().total("published") == 7
    # the process of this number on this host is another one
    assert one().pid is None
    beats.publish(health("degraded", reason="why"))
    await until(lambda: one().state == "degraded")
    assert one().reason == "why"
    late_ns = monotonic_ns() + 60 * SECOND_NS
    monkeypatch.setattr(observed, "monotonic_ns", lambda: late_ns)
    assert one().state == "down"
    assert "no heartbeat from host store for 60 s" in str(one().reason)
    monkeypatch.undo()
    beats.publish(health("stopped"))
    await until(lambda: one().stopped)
    beats.close()
    remote.close()


async def test_hosts_with_different_tables_are_reported(tmp_path: Path) -> None:
    port = free_port()
    front, store = two(tmp_path / "front", "front", port), two(tmp_path / "store", "store", port)
    store.hosts["front"].roles = ["collectors"]
    remote, beats = RemoteHealth(front, on_loop=True), Beats(store, "questdb", now_ns())

    def differs() -> bool:
        beats.publish(health())
        return "[hosts] differ" in str(remote.read()["questdb"]["reason"])

    await until(differs)
    beats.close()
    remote.close()


@pytest.mark.parametrize(
    "damage", [b"[]", b"{}", b'{"state":1}', b'{"state":"ready","counters":[],"updated_ns":1}']
)
async def test_a_heartbeat_without_health_changes_nothing(tmp_path: Path, damage: bytes) -> None:
    port = free_port()
    remote = RemoteHealth(two(tmp_path / "front", "front", port), on_loop=True)
    beats = Beats(two(tmp_path / "store", "store", port), "questdb", now_ns())
    other = Beats(two(tmp_path / "store", "store", port), "index-calculator", now_ns())

    def arrives() -> bool:
        beats.publish(damage)
        other.publish(health())
        return bool(remote.read()["index-calculator"]["counters"])

    await until(arrives)
    assert remote.read()["questdb"]["reason"] == "no heartbeat yet from host store"
    beats.close()
    other.close()
    remote.close()


def test_doctor_names_what_no_host_runs_and_a_bus_without_keys(tmp_path: Path) -> None:
    settings = two(tmp_path, "store")
    assert [one.text for one in _hosts(settings)] == [
        "not encrypted: `coinspace keys curve` on each host gives it a key"
    ]
    hosts = {"a": HostSettings(address=NOWHERE, roles=["storage", "index", "collectors"])}
    hosts["a"].public_key = "k" * 40
    settings = Settings(data=tmp_path, hosts=hosts)
    assert [one.text for one in _hosts(settings)] == ["no host runs index-endpoint"]
    assert not list(_hosts(Settings(data=tmp_path)))


async def test_a_host_that_never_pauses_does_not_keep_the_reader(tmp_path: Path) -> None:
    remote = RemoteHealth(two(tmp_path / "front", "front", free_port()), on_loop=True)
    subscriber = remote._subscriber
    assert subscriber is not None
    assert int(subscriber._socket.maxmsgsize) <= 1 << 20

    class Endless:
        received = 0

        def drain(self, limit: int) -> bool:
            self.received += limit
            assert self.received < 10_000
            return True

    receiver = subscriber._receiver
    subscriber._receiver = Endless()  # type: ignore[assignment]
    try:
        assert remote.read()["questdb"]["state"] == "starting"
    finally:
        subscriber._receiver = receiver
        remote.close()
