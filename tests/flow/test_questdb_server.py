"""The private server: its addresses, its users, its end and its restart."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from coinspace.config import Settings, StorageSettings
from coinspace.errors import ConfigError, StorageError
from coinspace.health_file import read_health
from coinspace.storage.questdb import runtime
from coinspace.storage.questdb.address import address, configured
from coinspace.storage.questdb.server import ManagedServer, exec_status, is_private_server
from coinspace.storage.read import statement
from tests.flow.platform import alive
from tests.waiting import wait_for


def listening(pid: int) -> set[tuple[str, ...]]:
    """Return the hexadecimal addresses and ports where a process listens, from /proc."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(link))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(tuple(fields[1].split(":")))
    return found


def test_listens_on_loopback_only(questdb: Settings) -> None:
    assert {host for host, _ in listening(address(questdb).pid)} == {"0100007F"}


def test_credentials_are_private_random_and_asked_for(questdb: Settings) -> None:
    found = address(questdb)
    for name in ("credentials.json", "address.json"):
        mode = stat.S_IMODE((questdb.data / "questdb" / name).stat().st_mode)
        assert mode == 0o600, name
    assert len(found.password) >= 24
    assert found.password not in repr(found)
    assert exec_status(found, "select%201", login=False) == 401
    assert is_private_server(found)
    stranger = replace(found, password="quest")
    assert not is_private_server(stranger)
    command = Path(f"/proc/{found.pid}/cmdline").read_bytes()
    assert found.password.encode() not in command


def test_readonly_user_cannot_write(questdb: Settings) -> None:
    found = address(questdb)
    with psycopg.connect(found.readonly_sql, autocommit=True) as reader:
        assert reader.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.Error, match=r"(?i)permission|denied|read"):
            reader.execute("create table forbidden (x int)")


def test_the_check_of_statements_knows_what_the_server_calls_by_name_alone(
    questdb: Settings,
) -> None:
    with psycopg.connect(address(questdb).readonly_sql, autocommit=True) as reader:
        names = {name for (name,) in reader.execute("select name from functions()")}
        called = set()
        for name in filter(str.isidentifier, names):
            for text in (f"select {name}", f"select * from {name}"):
                with contextlib.suppress(StorageError, psycopg.Error):
                    reader.execute(statement.check(text).encode())
                    called.add(name)
    assert len(names) > 200
    # values that need no arguments
    assert {name for name in called - statement.CALLED if not name.startswith("rnd_")} <= {
        *("build", "false", "null", "true"),
    }


def test_a_long_query_is_bounded_and_delays_no_write(questdb: Settings) -> None:
    """A query with endless groups reaches the server's limit; writes and reads are answered."""
    found = address(questdb)
    refusals = []

    def ask() -> None:
        with psycopg.connect(found.readonly_sql, autocommit=True) as reader:
            try:
                reader.execute(
                    "select count() from (select distinct x from long_sequence(1000000000))"
                )
            except psycopg.Error as error:
                refusals.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with psycopg.connect(found.sql, autocommit=True) as other:
            busy = "select count() from query_activity() where query like '%distinct x%'"
            while other.execute(busy).fetchone() == (1,):
                # the first one is this query itself
                assert asking.is_alive()
            for _ in range(3):
                # ILP over HTTP is served by the same threads
                assert exec_status(found, "select%201") == 200
                assert other.execute("select 1").fetchone() == (1,)
        assert asking.is_alive(), "expected a query that lasts"
    finally:
        asking.join()
    assert len(refusals) == 1
    assert "limit" in refusals[0] or "timeout" in refusals[0]


def test_survives_a_kill_and_refuses_a_second_start(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    server = ManagedServer(settings)
    server.spawn()
    first = server.wait_ready()
    try:
        # ILP over TCP, which has no password, is off by default
        assert len(listening(first.pid)) == 3
        with psycopg.connect(first.sql, autocommit=True) as writer:
            writer.execute("create table kept (x long)")
            writer.execute("insert into kept values (42)")
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
            ManagedServer(settings).spawn()
        server.kill()
        assert server.poll() == -signal.SIGKILL
        assert not is_private_server(first)
        server.spawn()
        again = server.wait_ready()
        assert (again.http, again.sql) == (first.http, first.sql), "found where it was"
        with psycopg.connect(again.sql, autocommit=True) as reader:
            assert reader.execute("select x from kept").fetchall() == [(42,)]
        assert server.stop() == 0
        with pytest.raises(StorageError, match="coinspace questdb start"):
            address(settings)
    finally:
        server.kill()


def test_command_restarts_a_dead_server_and_leaves_no_orphan(tmp_path: Path) -> None:
    environment = {**os.environ, "COINSPACE_DATA": str(tmp_path)}
    settings = Settings(data=tmp_path)

    def questdb(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "coinspace", "questdb", *args]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    assert questdb("status").returncode == 2
    started = questdb("start")
    keeper = 0
    try:
        assert started.returncode == 0, started.stderr
        assert started.stdout.startswith("http://127.0.0.1:")
        before = address(settings).pid
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: _pid(settings) not in (0, before), "another server", limit_s=120)
        assert questdb("status").returncode == 0
        console = questdb("console")
        assert console.stdout.endswith("/index.html\n")
        assert address(settings).password not in console.stdout + console.stderr
        health = read_health(settings, "questdb")
        assert health is not None
        keeper = health["pid"]
        server = address(settings).pid
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: not alive(server), "no orphan")
    finally:
        if not keeper:
            questdb("stop")


def _pid(settings: Settings) -> int:
    health = read_health(settings, "questdb")
    if not health or health["state"] != "ready" or health["counters"]["restarts"] == 0:
        return 0
    return address(settings).pid


def test_port_in_use_is_one_clear_line(tmp_path: Path, questdb: Settings) -> None:
    port = int(address(questdb).http.rpartition(":")[2])
    settings = Settings(data=tmp_path, storage=StorageSettings(http_port=port))
    with pytest.raises(ConfigError, match=f"storage.http_port.*{port} is in use"):
        ManagedServer(settings).spawn()


def test_the_error_for_a_missing_jar_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSPACE_QUESTDB_JAR", str(tmp_path / "none.jar"))
    with pytest.raises(ConfigError, match="expected a readable jar file"):
        runtime.jar()
    monkeypatch.delenv("COINSPACE_QUESTDB_JAR")
    monkeypatch.setenv("COINSPACE_CACHE", str(tmp_path))
    # an unreachable proxy stands for a missing network
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="COINSPACE_QUESTDB_JAR") as caught:
        runtime.jar()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.jar"))


def test_damaged_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(folder: Path) -> Path:
        path = folder / "fetched.jar"
        path.write_bytes(b"cut short")
        return path

    monkeypatch.setenv("COINSPACE_CACHE", str(tmp_path))
    monkeypatch.delenv("COINSPACE_QUESTDB_JAR", raising=False)
    monkeypatch.setattr(runtime, "_fetch", fetch)
    with pytest.raises(ConfigError, match="expected SHA-256"):
        runtime.jar()
    assert not list(tmp_path.glob("*.jar"))


@pytest.mark.parametrize(
    ("ilp", "sql", "expected"),
    [
        ("http::addr=h:9000;", "", "both or neither"),
        ("ws::addr=h:9000;", "postgresql://h/qdb", "scheme 'ws'"),
        ("http::username=x;", "postgresql://h/qdb", "addr=host:port"),
        ("http::addr=h:9000;", "mysql://h/qdb", "postgresql://"),
    ],
)
def test_malformed_addresses_are_refused(ilp: str, sql: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        configured(ilp, sql)


def test_configured_server_keeps_its_login() -> None:
    found = configured("http::addr=h:9000;username=u;password=p", "postgresql://u:p@h:8812/qdb")
    assert (found.http, found.user, found.password) == ("http://h:9000", "u", "p")
    assert found.readonly_sql == found.sql
    assert configured("tcp::addr=h:9009;", "postgresql://h/qdb").http == ""
