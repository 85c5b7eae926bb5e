"""Messages of alerts: grouped, kept on disk, delivered once or reported, and never a secret."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from coinspace.alerts import outbox
from coinspace.alerts.delivery import Poster
from coinspace.alerts.forms import TEXT_LIMIT, Address, address_of, body
from coinspace.alerts.outbox import (
    MOST_EVENTS,
    UNDELIVERED_KEPT,
    Content,
    Message,
    Outbox,
    Outcome,
    Queue,
    Saved,
)
from coinspace.alerts.rules import MOST_ALERTS, Event
from coinspace.alerts.worker import NAME, Alerter
from coinspace.cli import coinspace
from coinspace.clock import SECOND_NS
from coinspace.config import Settings, load
from coinspace.config_alerts import AlertTarget
from coinspace.errors import ConfigError
from coinspace.process import Process
from tests.receiver import CLOSE, NEVER, OK, Receiver, answer

WALL_MS = 1_800_000_000_000
FAILED, STALLED = Outcome("HTTP 500"), Outcome("no answer within 10 s", unsure=True)


def event(subject: str = "BTC", state: str = "raised", rule: str = "high") -> Event:
    return Event(rule, "premium", subject, state, f"{subject} is {state}", WALL_MS)


def queue(
    saved: Saved | None = None, group_s: float = 3, interval_s: float = 60, give_up_s: float = 600
) -> Queue:
    return Queue(saved or Saved(), group_s, interval_s, give_up_s)


def at(seconds: float) -> int:
    return int(seconds * SECOND_NS)


def names(message: Message | None) -> list[str]:
    return [] if message is None else [f"{one.state} {one.subject}" for one in message.events]


def send(found: Queue, seconds: float, outcome: Outcome | None = None) -> list[str]:
    """Send what is due. Returns: the events of the message."""
    message = found.next(at(seconds), WALL_MS)
    if message is not None:
        found.settle(outcome or Outcome(), at(seconds))
    return names(message)


def test_alerts_of_some_seconds_share_one_message() -> None:
    found = queue()
    for n in range(264):
        found.add(event(f"A{n}"), at(n / 100))
    assert found.next(at(2.9), WALL_MS) is None
    assert found.due_ns(at(2.9)) == at(3)
    message = found.next(at(3), WALL_MS)
    assert message is not None
    assert len(message.events) == 264
    found.settle(Outcome(), at(3))
    assert (found.waiting, found.delivered, found.due_ns(at(4))) == (0, 1, None)


def test_an_alert_that_comes_and_goes_is_grouped() -> None:
    found = queue()
    found.add(event(), at(0))
    assert send(found, 3) == ["raised BTC"]
    for n in range(10):
        found.add(event(state="cleared"), at(10 + n))
        found.add(event(), at(10.5 + n))
    # another alert is not delayed by it
    found.add(event("ETH"), at(20))
    assert send(found, 23) == ["raised ETH"]
    assert found.due_ns(at(24)) == at(63)
    message = found.next(at(63), WALL_MS)
    assert message is not None
    assert (names(message), message.events[0].count) == (["raised BTC"], 20)


def test_a_failed_message_does_not_change_and_later_alerts_wait_for_the_next() -> None:
    found = queue(interval_s=0)
    found.add(event(), at(0))
    first = found.next(at(3), WALL_MS)
    assert first is not None
    found.settle(FAILED, at(3))
    found.add(event("ETH"), at(3))
    assert found.next(at(3.9), WALL_MS) is None
    again = found.next(at(4), WALL_MS)
    assert again is first
    assert (again.attempts, again.unsure) == (2, False)
    found.settle(STALLED, at(4))
    assert found.next(at(5.9), WALL_MS) is None
    assert send(found, 6) == ["raised BTC"]
    assert send(found, 6) == ["raised ETH"]


def test_pauses_grow_and_a_target_may_ask_for_longer_ones() -> None:
    found = queue(give_up_s=10**6)
    found.add(event(), at(0))
    now, waits = 3.0, []
    for outcome in [FAILED] * 10 + [Outcome("HTTP 429", wait_s=1000), Outcome("x", wait_s=1e9)]:
        assert found.next(at(now), WALL_MS) is not None
        found.settle(outcome, at(now))
        due = found.due_ns(at(now))
        assert due is not None
        waits.append(due / SECOND_NS - now)
        now = due / SECOND_NS
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 1000, 3600])


def test_a_message_is_given_up_after_its_time_or_a_final_refusal() -> None:
    found = queue(give_up_s=5)
    found.add(event(), at(0))
    assert found.next(at(3), WALL_MS) is not None
    assert found.settle(FAILED, at(3)) is None
    assert found.next(at(8), WALL_MS) is not None
    assert found.settle(FAILED, at(8)) == "HTTP 500, after 2 attempts in 5 s"
    found.drop()
    found.add(event("ETH"), at(8))
    assert found.next(at(20), WALL_MS) is not None
    assert found.settle(Outcome("HTTP 404", final=True), at(20)) == "HTTP 404"


def stored(path: Path, found: Queue) -> Queue:
    """Return the queue as another process reads it."""
    outbox.write(path, Content(targets={"ops": found.saved()}))
    return queue(outbox.read(path).targets["ops"])


def test_a_restart_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "outbox.json"
    found = queue()
    found.add(event(), at(100))
    # before the attempt
    found = stored(path, found)
    first = found.next(at(0.1), WALL_MS)
    assert names(first) == ["raised BTC"]
    # in the middle of it: the message has the same id, and says that it may come twice
    found = stored(path, found)
    again = found.next(at(0.2), WALL_MS)
    assert first is not None
    assert again is not None
    assert (again.id, again.unsure, again.attempts) == (first.id, True, 2)
    found.settle(FAILED, at(0.2))
    # between two attempts: tried for as long as before
    again.tried_s = 599
    found = stored(path, found)
    assert found.next(at(0), WALL_MS) is not None
    found.settle(FAILED, at(0.5))
    found.add(event("ETH"), at(0.5))
    found = stored(path, found)
    assert send(found, 10) == ["raised BTC"]
    # after it
    found = stored(path, found)
    assert send(found, 10) == ["raised ETH"]
    assert stored(path, found).due_ns(0) is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_waits_is_bounded() -> None:
    found = queue()
    for n in range(MOST_ALERTS + 10):
        found.add(event(f"A{n}"), 0)
    assert (found.waiting, found.dropped) == (MOST_ALERTS, 10)
    message = found.next(at(3), WALL_MS)
    assert message is not None
    assert (len(message.events), message.omitted) == (MOST_EVENTS, MOST_ALERTS - MOST_EVENTS)
    assert found.waiting == MOST_ALERTS


def test_undelivered_messages_are_kept_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "outbox.json"
    found = Outbox(path, Content(targets={"old": Saved([event(), event("ETH")])}))
    (gone,) = found.apply(["ops"], (3, 60, 600), WALL_MS)
    assert (gone.target, gone.alerts, gone.reason) == ("old", 2, "the target was removed")
    assert gone.text == "BTC is raised and 1 more"
    for _ in range(UNDELIVERED_KEPT + 5):
        found.give_up("ops", [event()], 0, "HTTP 404", WALL_MS)
    found.save([], {})
    assert len(outbox.read(path).undelivered) == UNDELIVERED_KEPT
    assert found.counters()["alert_messages_undelivered"] == UNDELIVERED_KEPT + 6


def test_a_full_disk_is_reported_and_the_queue_goes_on(tmp_path: Path) -> None:
    found = Outbox(tmp_path / "file" / "outbox.json", Content())
    (tmp_path / "file").write_text("not a folder")
    found.save([], {})
    assert found.unwritten
    (tmp_path / "file").unlink()
    found.save([], {})
    assert found.unwritten is None


def target(form: str, **more: Any) -> AlertTarget:
    return AlertTarget.model_validate({"form": form, **more})


def text_of(form: str, events: list[Event], **more: Any) -> str:
    message = Message("id", WALL_MS, events, **more)
    return str(orjson.loads(body(Address(form, "http://h/"), message, "host"))["text"])


@pytest.mark.parametrize("form", ["webhook", "telegram", "slack"])
def test_names_from_exchanges_are_escaped(form: str) -> None:
    name = "\x1b[31m<!channel>&\n‮@everyone"
    text = text_of(form, [Event("high", "premium", name, "raised", f"{name} is high", WALL_MS)])
    assert all(one.isprintable() or one == "\n" for one in text)
    assert text.count("\n") == 1
    if form == "slack":
        assert "<" not in text
        assert "&lt;!channel&gt;&amp;" in text


def test_many_alerts_of_one_rule_are_one_line() -> None:
    text = text_of("telegram", [event(f"A{n}") for n in range(264)])
    head, line = text.split("\n")
    assert head == "CoinSpace on host: 264 raised"
    assert line.startswith("raised high: 264 alerts: A0, A1, ")
    assert "and 244 more; first: A0 is raised, 2027-01-15T08:00:00.000Z" in line


def test_a_text_fits_and_the_webhook_has_every_alert() -> None:
    events = [event("𝕏" * 40, rule=f"rule-{n}") for n in range(MOST_EVENTS)]
    message = Message("id", WALL_MS, events, omitted=7, attempts=2, unsure=True)
    found = orjson.loads(body(Address("webhook", "http://h/"), message, "host"))
    assert len(found["text"].encode("utf-16-le")) // 2 <= TEXT_LIMIT + 40
    assert "more lines" in found["text"]
    assert "(sent again: an earlier attempt had no answer)" in found["text"]
    assert (len(found["alerts"]), found["omitted"], found["may_be_repeated"]) == (500, 7, True)
    assert set(found["alerts"][0]) == set(Event.__struct_fields__)


TOKEN = "12345:AAbot-token_of-a-test"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (target("slack"), "COINSPACE_ALERTS__TARGETS__OPS__URL or url_file, was none"),
        (target("slack", url="ftp://secret/"), "expected http:// or https:// and a host"),
        (target("webhook", url="http://a b/secret"), "no blank and no fragment"),
        (target("webhook", url="http://h/", token="secret\r\nX: y"), "expected visible ASCII"),
        (target("webhook", url="http://u:secret@h/", token="x"), "none, since the address has"),
        (target("telegram", chat="1"), "TARGETS__OPS__TOKEN or token_file, was none"),
        (target("telegram", chat="1", token="secret/../x"), "expected the token of a bot"),
        (target("slack", url_file="/nowhere/secret-file"), "expected a secret, No such file"),
        (target("slack", url_file="/dev/zero"), "expected a regular file"),
    ],
)
def test_a_target_that_cannot_work_is_named(given: AlertTarget, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        address_of("ops", given)
    text = str(caught.value)
    assert words in text or words.lower() in text.lower()
    assert text.startswith("alerts.targets.ops.")
    assert "secret/" not in text
    assert "ftp" not in text


def test_secrets_come_from_the_environment_or_a_file_and_are_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "coinspace.toml").write_text(
        '[alerts.targets.bot]\nform = "telegram"\nchat = "-100"\ntoken_file = "token"\n'
        '[alerts.targets.ops]\nform = "slack"\n'
    )
    monkeypatch.setenv("COINSPACE_ALERTS__TARGETS__OPS__URL", "https://hooks.example/T/secret")
    settings = load()
    bot = address_of("bot", settings.alerts.targets["bot"])
    assert bot.url == f"https://api.telegram.org/bot{TOKEN}/sendMessage"
    ops = address_of("ops", settings.alerts.targets["ops"])
    shown = CliRunner().invoke(coinspace, ["config", "show"])
    assert shown.exit_code == 0, shown.output
    for text in (shown.output, repr(settings), repr(bot), str(ops)):
        assert "secret" not in text.replace("curve_secret_key", "")
        assert TOKEN not in text


@pytest.mark.parametrize(
    "url",
    [
        "https://user:s3cret-word@h/hook",
        "https://user:s3cret%2Dword@h/hook",
        "https://h/hook?room=1&key=s3cret-word",
        "https://h/hook?key=s3cret%2Dword",
        "https://h?s3cret-word",
        "https://h/s3cret-word/send",
        "https://h/a:s3cret-word/send",
    ],
)
def test_no_part_of_an_address_is_shown_when_a_target_sends_it_back(url: str) -> None:
    login = base64.b64encode(b"user:s3cret-word").decode()
    for said in ("bad key s3cret-word", url, f"Basic {login}" if "user" in url else ""):
        shown = Address("webhook", url).without_secrets(said)
        assert "s3cret" not in shown
        assert login not in shown


async def post(receiver: Receiver, form: str = "webhook", timeout_s: float = 5.0) -> Outcome:
    address = Address(form, receiver.url, {"Authorization": "Bearer a-token-of-a-test"}, "1")
    poster = Poster(timeout_s, clock=lambda: WALL_MS * 1_000_000)
    try:
        return await poster.post(address, body(address, Message("m1", 1, [event()]), "h"), "m1")
    finally:
        await poster.close()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (OK, Outcome()),
        (answer(204), Outcome()),
        # the status says that the target has it, whatever follows
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart", Outcome()),
        (answer(500, b"oops"), Outcome("HTTP 500: oops")),
        (answer(503, b"<html>long</html>"), Outcome("HTTP 503")),
        (answer(429, b"", "Retry-After: 7"), Outcome("HTTP 429", wait_s=7)),
        (
            answer(
                503,
                b"",
                "Date: Fri, 15 Jan 2027 08:00:00 GMT",
                "Retry-After: Fri, 15 Jan 2027 08:01:00 GMT",
            ),
            Outcome("HTTP 503", wait_s=60),
        ),
        (answer(429, b"", "Retry-After: 99999999999999"), Outcome("HTTP 429", wait_s=3600)),
        (answer(429, b"", "Retry-After: soon"), Outcome("HTTP 429")),
        (
            answer(429, b'{"description":"Too Many","parameters":{"retry_after":11}}'),
            Outcome("HTTP 429: Too Many", wait_s=11),
        ),
        (answer(404, b"no_service"), Outcome("HTTP 404: no_service", final=True)),
        (
            answer(400, b'{"description":"bot \\u001b a-token-of-a-test /hook/a-secret-path"}'),
            Outcome("HTTP 400: bot \\x1b *** /***", final=True),
        ),
        (
            answer(302, b"", "Location: http://127.0.0.1:9/a-secret-path"),
            Outcome("HTTP 302: expected no redirect; set the address that it leads to", final=True),
        ),
        (answer(500, b"x" * 100_000), Outcome("HTTP 500: " + "x" * 160)),
        (CLOSE, Outcome("the connection ended before the answer", unsure=True)),
        (b"HTTP/1.1 20", Outcome("the connection ended before the answer", unsure=True)),
        (b"garbage\r\n\r\n", Outcome("the connection ended before the answer", unsure=True)),
    ],
)
async def test_what_becomes_of_an_answer(said: bytes | str, expected: Outcome) -> None:
    receiver = Receiver()
    receiver.script = [said]
    async with receiver.running():
        found = await post(receiver)
    if expected.reason and len(expected.reason) > 160:
        assert found.reason is not None
        assert found.reason.startswith(expected.reason)
        assert len(found.reason) < 220
    else:
        assert found == expected
    ((path, headers, sent),) = receiver.requests
    assert (path, headers["idempotency-key"], sent["id"]) == ("/hook/a-secret-path", "m1", "m1")


async def test_no_answer_is_bounded_in_time_and_may_have_arrived() -> None:
    receiver = Receiver()
    receiver.script = [NEVER]
    async with receiver.running():
        assert await post(receiver, timeout_s=0.2) == Outcome("no answer within 0.2 s", unsure=True)
    # it is gone: nothing was sent
    assert await post(receiver) == Outcome("no connection: Connection refused")


async def test_the_forms_are_those_of_telegram_and_slack() -> None:
    receiver = Receiver()
    async with receiver.running():
        assert (await post(receiver, "telegram")).reason is None
        assert (await post(receiver, "slack")).reason is None
    telegram, slack = receiver.taken
    assert telegram["chat_id"] == "1"
    assert "parse_mode" not in telegram
    assert slack["mrkdwn"] is False
    assert telegram["text"] == slack["text"]


def test_the_list_shows_what_the_file_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    (tmp_path / "coinspace.toml").write_text('[alerts.rules.high]\nkind="premium"\nover=0.05\n')
    found = Outbox(tmp_path / "outbox.json", Content(targets={"gone": Saved([event("\x1b[1m")])}))
    found.apply([], (0, 0, 1), WALL_MS)
    found.save([], {})
    listed = CliRunner().invoke(coinspace, ["alerts", "list"])
    assert listed.exit_code == 0, listed.output
    assert "rule high: premium, over 0.05, for 10 s; 0 standing" in listed.output
    assert "to gone, 1 alerts: \\x1b[1m is raised (the target was removed)" in listed.output
    as_json = CliRunner().invoke(coinspace, ["alerts", "list", "--json"])
    assert orjson.loads(as_json.output)["undelivered"][0]["target"] == "gone"
    (tmp_path / "outbox.json").write_text("{")
    damaged = CliRunner().invoke(coinspace, ["alerts", "list"])
    assert damaged.exit_code == 1
    assert "expected the alerter's file" in str(damaged.exception)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2}', b'{"standing": [1]}'])
async def test_a_damaged_file_is_put_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "outbox.json").write_bytes(content)
    alerter = Alerter(Process(NAME, Settings(data=tmp_path)))
    await alerter._close()
    assert (tmp_path / "outbox.damaged").read_bytes() == content
    assert outbox.read(tmp_path / "outbox.json") == Content()
