"""All sockets of a process share one context, which ends with the last of them."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest
import zmq

from coinspace.bus import context
from coinspace.bus.context import close_socket, open_socket
from coinspace.bus.journal import Journal
from coinspace.bus.journal_client import JournalClient
from coinspace.bus.publisher import Publisher
from coinspace.bus.sockets import bind
from coinspace.bus.subscriber import Subscriber
from coinspace.config import JournalSettings
from coinspace.errors import BusError
from tests.flow.bus_stage import settings_in


def shared() -> zmq.Context[zmq.Socket[bytes]] | None:
    return context._shared.context


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # garbage of other tests may hold open sockets
    monkeypatch.setattr(context, "_shared", context._Shared())


def test_one_context_for_every_kind_of_socket(tmp_path: Path) -> None:
    bus = settings_in(tmp_path).bus
    journal = Journal(tmp_path / "journal", JournalSettings(), 1)
    publisher = Publisher("collector", bus, 1, journal=journal)
    one = shared()
    assert one is not None
    subscriber = Subscriber([publisher.endpoint], [b"orderbook."], lambda message: None)
    client = JournalClient(bus.replay_endpoint("collector"), bus)
    assert client.ranges() == {}
    assert shared() is one
    # publisher, journal server, subscriber, client
    assert context._shared.sockets == 4
    client.close()
    publisher.close()
    publisher.close()
    assert shared() is one
    assert not one.closed
    subscriber.close()
    assert shared() is None
    assert one.closed


def test_a_refused_address_leaves_nothing_open(tmp_path: Path) -> None:
    bus = settings_in(tmp_path).bus
    first = Publisher("collector", bus, 1)
    with pytest.raises(BusError):
        Publisher("collector", bus, 1)
    assert context._shared.sockets == 1
    first.close()
    assert shared() is None


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_an_address_can_be_bound_again_at_once(scheme: str, tmp_path: Path) -> None:
    """A context that other sockets keep open closes sockets in a thread of its own."""
    other = open_socket(zmq.REQ)
    endpoint = f"ipc://{tmp_path}/bus.ipc" if scheme == "ipc" else "tcp://127.0.0.1:*"
    for n in range(50):
        place = bind(open_socket(zmq.REP), endpoint, None)
        endpoint = place.endpoint
        client = open_socket(zmq.REQ)
        client.connect(endpoint)
        client.send(b"%d" % n)
        assert place._socket.recv() == b"%d" % n
        close_socket(client)
        place.close()
    close_socket(other)


def test_threads_open_and_close_at_once() -> None:
    def work() -> None:
        for _ in range(50):
            close_socket(open_socket(zmq.DEALER))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared() is None
    assert context._shared.sockets == 0


def _child(found: multiprocessing.SimpleQueue[bool]) -> None:
    found.put(shared() is None)
    close_socket(open_socket(zmq.SUB))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_begins_without_a_context() -> None:
    socket = open_socket(zmq.SUB)
    fork = multiprocessing.get_context("fork")
    found: multiprocessing.SimpleQueue[bool] = fork.SimpleQueue()
    child = fork.Process(target=_child, args=(found,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert found.get()
    close_socket(socket)
