"""Access control: hosts, keys, rates per key and per address."""

from __future__ import annotations

import hmac
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coinspace.config import EndpointSettings
from coinspace.endpoint.http import gate as gate_module
from coinspace.endpoint.http.addresses import Proxies, group, is_loopback
from coinspace.endpoint.http.connection import Receive, Scope, Send
from coinspace.endpoint.http.gate import WRONG_KEYS, Gate
from coinspace.endpoint.http.hosts import Hosts
from coinspace.endpoint.http.keys import Keys
from coinspace.endpoint.http.limiter import CLIENTS, Limiter, Rate, parse_rate
from coinspace.endpoint.http.problem import Problem
from coinspace.errors import EndpointError

SERVER = ("192.0.2.1", 8080)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def gate(folder: Path, **settings: Any) -> Gate:
    chosen = EndpointSettings(**settings)
    return Gate(app, chosen, Keys(folder / "keys.json"), {}, lambda _: True, lambda _: None)


async def ask(
    at: Gate, client: str = "198.51.100.1", key: str = "", path: str = "/v1/venues", **headers: str
) -> int:
    """Return the status of a request from an address."""
    given = [(b"host", b"localhost")]
    given += [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    if key:
        given.append((b"x-api-key", key.encode()))
    scope = {
        "type": "http",
        "method": "GET",
        "http_version": "1.1",
        "path": path,
        "query_string": b"",
        "headers": given,
        "client": (client, 40_000),
        "server": SERVER,
    }
    statuses: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    await at(scope, receive, send)
    [status] = statuses
    return status


# addresses


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1%eth0", "2001:db8:1:2::2", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("nonsense", "nonsense", True),
    ],
)
def test_a_network_of_ipv6_counts_as_one_client(one: str, other: str, same: bool) -> None:
    assert (group(one) == group(other)) == same


def test_loopback_in_all_its_forms() -> None:
    for name in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost"):
        assert is_loopback(name)
    for name in ("192.0.2.1", "::2", "", "x", "::ffff:192.0.2.1"):
        assert not is_loopback(name)


def test_forwarded_addresses_are_accepted_from_proxies_only() -> None:
    nobody, proxies = Proxies([]), Proxies(["127.0.0.1", "10.0.0.0/8"])
    forged = [b"203.0.113.9", b"198.51.100.7, 10.0.0.2"]
    assert nobody.client("127.0.0.1", forged) == "127.0.0.1"
    assert proxies.client("198.51.100.1", forged) == "198.51.100.1"
    # the last address that is not a proxy: earlier addresses, which the client wrote, do not count
    assert proxies.client("127.0.0.1", forged) == "198.51.100.7"
    assert proxies.client("::ffff:127.0.0.1", forged) == "198.51.100.7"
    assert proxies.client("127.0.0.1", []) == "127.0.0.1"
    assert proxies.client("127.0.0.1", [b"10.0.0.3"]) == "10.0.0.3"
    assert len(proxies.client("127.0.0.1", [b"x" * 5000])) == 64
    with pytest.raises(EndpointError, match=r"endpoint\.trusted_proxies"):
        Proxies(["proxy.example"])


# rates


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/second", Rate(100, 1)),
        ("5 per minute", Rate(5, 60)),
        ("5/2 hours", Rate(5, 7200)),
        ("1/day", Rate(1, 86_400)),
    ],
)
def test_rates_are_read(text: str, rate: Rate) -> None:
    assert parse_rate("x", text) == rate


@pytest.mark.parametrize("text", ["0/second", "x/second", "5", "5/week", "-1/second", "5/0 days"])
def test_an_invalid_rate_names_the_setting(text: str) -> None:
    with pytest.raises(EndpointError, match=r"endpoint\.rate_per_key: expected a rate such as"):
        parse_rate("endpoint.rate_per_key", text)


def test_a_limiter_counts_per_window() -> None:
    limiter = Limiter(Rate(2, 10))
    assert [limiter.hit("a", 100.0).left for _ in range(3)] == [1, 0, 0]
    refused = limiter.hit("a", 103.5)
    assert (refused.allowed, refused.wait) == (False, 7)
    assert limiter.hit("b", 109.9).allowed
    assert limiter.hit("a", 110.0).allowed


def test_a_limiter_has_a_bound_that_many_addresses_do_not_evade() -> None:
    limiter = Limiter(Rate(2, 10), clients=100)
    for number in range(100):
        assert limiter.hit(f"early-{number}", 0.0).allowed
    late = [limiter.hit(f"late-{number}", 0.0).allowed for number in range(1000)]
    assert late.count(True) == 2
    assert len(limiter) <= 101
    # an address that was counted before keeps its own count
    assert limiter.hit("early-5", 0.0).allowed
    assert limiter.hit("late-5", 10.0).allowed
    assert CLIENTS < 100_000


async def test_addresses_of_one_network_share_a_rate(tmp_path: Path) -> None:
    at = gate(tmp_path, rate_per_address="3/day")
    found = [await ask(at, f"2001:db8::{number:x}") for number in range(1, 6)]
    assert found == [200, 200, 200, 429, 429]
    assert await ask(at, "2001:db8:0:1::1") == 200


async def test_a_header_does_not_change_the_address(tmp_path: Path) -> None:
    at = gate(tmp_path, rate_per_address="2/day")
    found = [await ask(at, x_forwarded_for=f"203.0.113.{number}") for number in range(4)]
    assert found == [200, 200, 429, 429]
    # behind a proxy each client has a rate of its own, and no more than that
    behind = gate(tmp_path, rate_per_address="2/day", trusted_proxies=["127.0.0.1"])
    for client in ("203.0.113.1", "203.0.113.2"):
        forged = [f"{client}{number}, {client}" for number in range(3)]
        found = [await ask(behind, "127.0.0.1", x_forwarded_for=one) for one in forged]
        assert found == [200, 200, 429]


async def test_a_key_has_one_rate_wherever_it_is_used(tmp_path: Path) -> None:
    key = Keys(tmp_path / "keys.json").new("one", "reader")
    at = gate(tmp_path, rate_per_key="3/day", rate_per_address="1/day")
    found = [await ask(at, f"198.51.100.{number}", key) for number in range(5)]
    assert found == [200, 200, 200, 429, 429]


@pytest.mark.parametrize("client", ["198.51.100.1", "127.0.0.1", "2001:db8::1"])
async def test_wrong_keys_are_limited_and_right_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    # no window ends meanwhile
    monkeypatch.setattr(gate_module, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    key = Keys(tmp_path / "keys.json").new("one", "reader")
    at = gate(tmp_path, require_keys=True, rate_per_address="")
    wrong = [f"cs_{'0' * 12}_{number:043}" for number in range(WRONG_KEYS.amount + 5)]
    found = [await ask(at, client, one) for one in wrong]
    assert found == [401] * WRONG_KEYS.amount + [429] * 5
    assert await ask(at, client, key) == 200


async def test_asking_without_a_key_counts(tmp_path: Path) -> None:
    at = gate(tmp_path, require_keys=True, rate_per_address="2/day")
    assert [await ask(at) for _ in range(3)] == [401, 401, 429]


# keys


def test_keys_are_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known and unknown ids cost one comparison of digests of one length."""
    keys = Keys(tmp_path / "keys.json")
    key = keys.new("one", "reader")
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counted(a: str, b: str) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    assert keys.find(key) is not None
    assert keys.find(f"cs_{'0' * 12}_{'a' * 43}") is None
    assert keys.find(key[:-43] + "a" * 43) is None
    assert compared == [(64, 64)] * 3


@pytest.mark.parametrize("text", ["", "cs_", "x" * 100_000, "\xff" * 60, "cs_é", "\x00"])
def test_an_invalid_key_is_refused(tmp_path: Path, text: str) -> None:
    keys = Keys(tmp_path / "keys.json")
    keys.new("one", "reader")
    assert keys.find(text) is None


@pytest.mark.parametrize("text", ["{}", "[1]", "[", '[{"id":1}]', "\udcff"])
def test_a_broken_file_of_keys_keeps_the_keys_in_force(tmp_path: Path, text: str) -> None:
    """A damaged file neither opens the server to everyone nor fails requests."""
    keys = Keys(tmp_path / "keys.json")
    key = keys.new("one", "reader")
    keys.file.write_text(text, errors="surrogateescape")
    keys._checked = time.monotonic() - 10
    assert keys.find(key) is not None
    assert keys.find("x") is None


def test_a_digest_that_is_not_one_refuses_its_key(tmp_path: Path) -> None:
    """A comparison of texts that are not ASCII would fail the request."""
    keys = Keys(tmp_path / "keys.json")
    key = keys.new("one", "reader")
    (known,) = keys.all()
    keys.file.write_text(keys.file.read_text().replace(known.digest, "é" * 64))
    assert Keys(keys.file).find(key) is None


@pytest.mark.parametrize("kind", ["pipe", "folder", "large"])
def test_keys_come_from_a_file_of_a_plausible_size(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keys.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    with pytest.raises(EndpointError, match="expected a list of keys, was another kind of file"):
        Keys(path)


# hosts


def request(host: str) -> Scope:
    headers = [(b"host", host.encode())]
    return {"headers": headers, "http_version": "1.1", "server": ("::ffff:192.0.2.7", 80)}


def test_hosts_of_the_settings_are_known() -> None:
    hosts = Hosts(["Prices.Example.", "192.0.2.9", "2001:db8::9"], "0.0.0.0", any_name=True)
    for name in ("prices.example", "PRICES.example:8443", "192.0.2.9:1", "[2001:db8::9]", "[::1]"):
        assert hosts.check(request(name)) == name.lower()
    # the address that the client has connected to
    assert hosts.check(request("192.0.2.7:8080"))
    for name in ("example", "evil.prices.example", "192.0.2.8"):
        with pytest.raises(Problem) as refused:
            hosts.check(request(name))
        assert refused.value.status == 421
        assert "endpoint.hosts" in refused.value.detail


def test_any_host_needs_keys() -> None:
    assert Hosts(["*"], "127.0.0.1", any_name=True).check(request("evil.example"))
    with pytest.raises(EndpointError, match=r"endpoint\.require_keys"):
        Hosts(["*"], "127.0.0.1", any_name=False)


@pytest.mark.parametrize("name", ["", "a b", "http://a", "a:80", "a/b", "[::1]:80", "*.a"])
def test_an_invalid_host_names_the_setting(name: str) -> None:
    with pytest.raises(EndpointError, match=r"endpoint\.hosts: expected names"):
        Hosts([name], "127.0.0.1", any_name=True)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", b"\xff", b'[{"a":' * 5000, b'[{"a":' + b"[" * 5000, b"[" * 5000],
)
def test_a_file_without_keys_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys.json"
    key = Keys(path).new("one", "reader")
    known = Keys(path)
    path.write_bytes(content)
    with pytest.raises(EndpointError, match="expected a list of keys"):
        Keys(path)
    # a gate that has read keys before continues with them
    known._checked = -1e9
    assert known.find(key) is not None


@pytest.mark.parametrize(
    ("written", "counted"),
    [
        (b"203.0.113.9:51001", "203.0.113.9"),
        (b"[2001:db8::1]:4000", "2001:db8::/64"),
        (b"[2001:db8::2]", "2001:db8::/64"),
        (b"1.2.3.4, 203.0.113.9:1", "203.0.113.9"),
        (b"[]:1", ""),
    ],
)
def test_a_client_is_counted_without_the_port_that_its_proxy_writes(
    written: bytes, counted: str
) -> None:
    assert group(Proxies(["127.0.0.1"]).client("127.0.0.1", [written])) == counted
