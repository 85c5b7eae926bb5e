"""The journal's server answers or refuses every request, and goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import zmq

from coinspace._ext.segment import SEGMENT_HEAD_SIZE, checksum64
from coinspace.bus import journal_server as replay
from coinspace.bus.journal_client import JournalClient
from coinspace.bus.segments import JournalReader, read_journal, segment_paths
from coinspace.errors import JournalError
from tests.flow.bus_stage import BOOK, PROCESS
from tests.unit.test_journal import Written

N = 20
TOPIC = BOOK.decode()


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    made = Written(tmp_path)
    made.send(N)
    yield made
    made.close()


@pytest.fixture
def client(written: Written) -> Iterator[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(written.settings.bus.replay_endpoint(PROCESS))
    yield socket
    socket.close()
    context.term()


def ask(client: zmq.Socket[bytes], *parts: bytes) -> Any:
    client.send_multipart(parts)
    assert client.poll(60_000), "no answer"
    answer = client.recv_multipart()
    assert answer[0] == parts[0][: 1 << 16]
    return orjson.loads(answer[1])


def fetch(**changed: Any) -> bytes:
    asked = {"op": "fetch", "topic": TOPIC, "epoch": 5, "first": 1, "end": 10, **changed}
    return orjson.dumps({name: value for name, value in asked.items() if value != "left out"})


VALUES: tuple[Any, ...] = (1e30, 1.5, "x", [1], {}, True, "left out", (1 << 64) - 1, -(1 << 63))
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "cut": b"{",
    "null": b"null",
    "list": b"[]",
    "text": b'"list"',
    "number": b"1e400",
    "no op": b"{}",
    "op list": b'{"op":["list"]}',
    "op null": b'{"op":null}',
    "deep": b"[" * 60_000,
    "beyond 64 KiB": b'"' + b"a" * (1 << 16) + b'"',
    "beyond 512 KiB": b'"' + b"a" * (1 << 19) + b'"',
    "not UTF-8": b'{"op":"\xff"}',
    **{
        f"{name} {value!r}": fetch(**{name: value})
        for name in ("epoch", "first", "end")
        for value in VALUES
        if (name, value) not in (("end", "left out"), ("first", -(1 << 63)), ("end", -(1 << 63)))
        and (name, value) != ("epoch", -(1 << 63))
    },
    "end beyond": b'{"op":"fetch","topic":"a","epoch":1,"first":1,"end":99999999999999999999}',
    "topic list": fetch(topic=[1, 2]),
    "topic null": fetch(topic=None),
    "before 1e30": b'{"op":"list","before":1e30}',
    "before list": b'{"op":"list","before":[]}',
}


@pytest.mark.parametrize("request_", HOSTILE.values(), ids=HOSTILE)
def test_invalid_requests_are_refused(
    request_: bytes, written: Written, client: zmq.Socket[bytes]
) -> None:
    answer = ask(client, b"1", request_)
    assert set(answer) == {"error"}
    assert len(answer["error"]) <= 300
    assert written.publisher.counters()["journal_refused"] == 1
    assert TOPIC in ask(client, b"2", b'{"op":"list"}')["held"][str(written.publisher.epoch)]


@pytest.mark.parametrize("parts", [[b""], [b"x"], [b"1", b"2", b"3"], [b"n" * 70_000, b"{}"]])
def test_other_numbers_of_parts_are_refused(parts: list[bytes], client: zmq.Socket[bytes]) -> None:
    assert set(ask(client, *parts)) == {"error"}


@pytest.mark.parametrize("first", [-(1 << 63), -5, 0, N, N + 1, (1 << 63) - 1])
@pytest.mark.parametrize("end", [-(1 << 63), 0, 5, (1 << 63) - 1, None])
def test_ranges_at_every_edge_are_answered(
    first: int, end: int | None, written: Written, client: zmq.Socket[bytes]
) -> None:
    answer = ask(client, b"1", fetch(epoch=written.publisher.epoch, first=first, end=end))
    assert "error" not in answer
    assert answer["done"]


def test_too_many_clients_are_refused_and_old_ones_forgotten(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0
    monkeypatch.setattr(replay, "monotonic_ns", lambda: now)
    monkeypatch.setattr(replay, "CLIENTS_LIMIT", 3)
    clients = [
        JournalClient(written.settings.bus.replay_endpoint(PROCESS), written.settings.bus)
        for _ in range(4)
    ]
    for one in clients[:3]:
        one.ranges()
    with pytest.raises(JournalError, match="at most 3 clients"):
        clients[3].ranges()
    clients[0].ranges()
    now = replay.CLIENT_NS
    clients[3].ranges()
    for one in clients:
        one.close()


def test_a_long_list_comes_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "LISTED", 2)
    epochs = []
    for _ in range(7):
        made = Written(tmp_path)
        epochs.append(made.publisher.epoch)
        made.send(2)
        if len(epochs) < 7:
            made.close()
    client = JournalClient(made.settings.bus.replay_endpoint(PROCESS), made.settings.bus)
    assert client.ranges() == {epoch: {BOOK: [(1, 3)]} for epoch in epochs}
    client.close()
    made.close()


DEEP = b"[" * 1000 + b"]" * 1000


class Liar:
    """A journal that answers everything with the same facts."""

    def __init__(self, facts: bytes, records: bytes = b"") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._facts, self._records = facts, records
        self.client = JournalClient(f"tcp://127.0.0.1:{port}", timeout_s=60)

    def answer(self) -> None:
        who, number, _ = self._socket.recv_multipart()
        self._socket.send_multipart([who, number, self._facts, self._records])

    def close(self) -> None:
        self.client.close()
        self._socket.close(0)
        self._context.term()


@pytest.mark.parametrize(
    "facts",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"next":1e400}',
        b'{"next":1,"done":true,"missing":[[1]]}',
        b'{"next":1,"done":true,"missing":[[0,99999999999999999999]]}',
        b'{"next":1,"done":true,"missing":[[500,600]]}',
        b'{"next":null,"done":true,"missing":[]}',
        b'{"error":["x"]}',
        # lists in one another, which repr() refuses
        b'{"error":%s}' % DEEP,
        b'{"next":%s,"done":true,"missing":[]}' % DEEP,
        b'{"next":1,"done":true,"missing":[[0,%s]]}' % DEEP,
    ],
)
def test_a_journal_that_lies_is_named(facts: bytes) -> None:
    liar = Liar(facts)
    thread = threading.Thread(target=liar.answer)
    thread.start()
    with pytest.raises(JournalError, match=r"127\.0\.0\.1"):
        liar.client.fetch(BOOK, 5, 1, 10)
    thread.join()
    liar.close()


@pytest.mark.parametrize(
    "held",
    [
        b'{"%b":{}}' % (b"9" * 30),
        b'{"-1":{}}',
        b'{"5":{"a":[[1,1e30]]}}',
        b'{"5":{"a":[["1","2"]]}}',
        b'{"5":{"a":[[1,true]]}}',
        b'{"x":{}}',
    ],
)
def test_a_list_with_numbers_that_cannot_be_is_named(held: bytes) -> None:
    """The next request of a list names an epoch: one beyond 64 bits cannot be sent."""
    liar = Liar(b'{"more":true,"held":%b}' % held)
    thread = threading.Thread(target=liar.answer)
    thread.start()
    with pytest.raises(JournalError, match="expected facts of a journal"):
        liar.client.ranges()
    thread.join()
    liar.close()


def damaged(path: Path, kind: str) -> None:
    """Change one record in the middle of a segment, and correct its checksum."""
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[SEGMENT_HEAD_SIZE : SEGMENT_HEAD_SIZE + 4], "little")
    at = SEGMENT_HEAD_SIZE + 9 * size
    header = at + 16
    if kind == "version":
        data[header] = 2
    elif kind == "kind":
        data[header + 1] = 200
    elif kind == "counts":
        data[header + 4 : header + 12] = b"\xff" * 8
    elif kind == "sequence":
        data[header + 24 : header + 32] = ((1 << 63) - 1).to_bytes(8, "little")
    elif kind == "epoch":
        data[header + 16 : header + 24] = bytes(8)
    elif kind == "topic":
        data[header + 64 + 10] = 0xFF
    data[at + 8 : at + 16] = checksum64(bytes(data[at + 16 : at + size])).to_bytes(8, "little")
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["version", "kind", "counts", "sequence", "epoch", "topic"])
def test_one_unreadable_message_loses_only_itself(
    kind: str, written: Written, client: zmq.Socket[bytes]
) -> None:
    written.publisher.close()
    damaged(segment_paths(written.folder)[0], kind)
    found = [message.sequence for message in read_journal(written.folder) if message.topic == BOOK]
    assert found == [i for i in range(1, N + 1) if i != 10]
    reader = JournalReader(written.folder)
    reader.refresh()
    epoch = written.publisher.epoch
    assert reader.ranges()[epoch][BOOK] == [(1, 10), (11, N + 1)]
    chunk = reader.fetch(BOOK, epoch, 1, N + 1)
    assert (chunk.n_records, chunk.missing) == (N - 1, [(10, 11)])


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "empty", "huge", "text"])
def test_a_file_that_is_not_a_segment_does_not_block_readers(kind: str, written: Written) -> None:
    path = written.folder / f"{1:020}-{1:08}.journal"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "huge":
        # a record that claims 4 GB, in a sparse file as large
        head = segment_paths(written.folder)[0].read_bytes()[:SEGMENT_HEAD_SIZE]
        path.write_bytes(head + b"\xf8\xff\xff\xff\x05\x00\x43\x4a" + b"\x01" * 100)
        os.truncate(path, 4 << 30)
    else:
        path.write_bytes(b"" if kind == "empty" else b"no segment\n" * 100)
    assert len(list(read_journal(written.folder))) == N
    client = JournalClient(written.settings.bus.replay_endpoint(PROCESS), written.settings.bus)
    held = client.ranges()[written.publisher.epoch][BOOK]
    assert held == [(1, N + 1)]
    client.close()
