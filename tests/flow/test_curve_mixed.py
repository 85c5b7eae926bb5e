"""CURVE on tcp beside plain ipc on one socket: every publisher is heard, in any order."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import zmq
from pydantic import SecretStr

from coinspace.bus.publisher import Publisher
from coinspace.config import BusSettings, Settings
from tests.flow.bus_stage import Listener, next_epoch, settings_in
from tests.waiting import free_port, until


def keys() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


OURS, FIRST, SECOND = keys(), keys(), keys()
NAMES = ("local", "first", "second")


def bus(folder: Path, own: tuple[str, str], **more: object) -> BusSettings:
    settings: Settings = settings_in(
        folder,
        curve_public_key=own[0],
        curve_secret_key=SecretStr(own[1]),
        curve_allowed=[OURS[0]],
        **more,
    )
    return settings.bus


def publisher(name: str, folder: Path, own: tuple[str, str], endpoint: str) -> Publisher:
    return Publisher(name, bus(folder, own), next_epoch(), endpoint=endpoint)


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)), ids="-".join)
async def test_every_publisher_is_heard_in_any_order(
    order: tuple[str, ...], tmp_path: Path
) -> None:
    own = bus(tmp_path, OURS)
    local = own.endpoint("local")
    made = {
        "local": publisher("local", tmp_path, OURS, local),
        "first": publisher("first", tmp_path, FIRST, f"tcp://127.0.0.1:{free_port()}"),
        "second": publisher("second", tmp_path, SECOND, f"tcp://127.0.0.1:{free_port()}"),
    }
    endpoints = {name: one.endpoint for name, one in made.items()}
    remote = {endpoints["first"]: FIRST[0], endpoints["second"]: SECOND[0]}
    listener = Listener(
        [endpoints[name] for name in order],
        [b"heartbeat."],
        bus=bus(tmp_path, OURS, curve_server_keys=remote),
    )
    listener.start()
    assert listener.counters()["publishers_unheard"] == 3

    def heard(*names: str) -> bool:
        for one in made.values():
            one.heartbeat()
        return {m.json()["process"] for m in listener.messages} >= set(names)

    await until(lambda: heard(*NAMES), "all three")
    assert listener.counters()["publishers_unheard"] == 0
    # each publisher restarts with its earlier mechanism
    for name in order:
        made[name].close()
    listener.messages.clear()
    for name, own_keys in zip(NAMES, (OURS, FIRST, SECOND), strict=True):
        made[name] = publisher(name, tmp_path, own_keys, endpoints[name])
    await until(lambda: heard(*NAMES), "all three again")
    listener.close()
    for one in made.values():
        one.close()


async def test_a_publisher_with_another_key_is_counted_as_unheard(tmp_path: Path) -> None:
    own = bus(tmp_path, OURS)
    local = publisher("local", tmp_path, OURS, own.endpoint("local"))
    first = publisher("first", tmp_path, FIRST, f"tcp://127.0.0.1:{free_port()}")
    listener = Listener(
        [first.endpoint, local.endpoint],
        [b"heartbeat."],
        bus=bus(tmp_path, OURS, curve_server_key=SECOND[0]),
    )
    listener.start()

    def heard() -> bool:
        local.heartbeat()
        first.heartbeat()
        return bool(listener.messages)

    await until(heard, "the local one")
    assert listener.counters()["publishers_unheard"] == 1
    listener.close()
    local.close()
    first.close()
