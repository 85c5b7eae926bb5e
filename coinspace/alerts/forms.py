"""Messages in the forms that targets take, and the addresses that they are sent to.

Texts of rules contain names that an exchange chose. Control characters are escaped. Slack gets its
three special characters escaped. Telegram gets plain text, without a parse mode.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote

import orjson
from msgspec import structs

from coinspace.alerts.outbox import Message
from coinspace.alerts.rules import Event
from coinspace.config_alerts import TELEGRAM, AlertTarget, is_address
from coinspace.errors import ConfigError
from coinspace.files import read_regular
from coinspace.instant import shown
from coinspace.text import printable

# of a file with an address or a token
SECRET_BYTES = 4096
# Telegram takes 4,096 characters, counted in UTF-16
TEXT_LIMIT = 3500
# alerts of one rule and state beyond this number share one line
LINES_PER_RULE = 5
# names in such a line
NAMES = 20
# a part of an address that is shorter is no secret
SHORTEST_SECRET = 8
KNOWN_WORDS = {"sendMessage", "services", "webhooks", "messages"}
TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, repr=False)
class Address:
    """Where a target's messages go. It has secrets, and therefore no readable form."""

    form: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    chat: str = ""

    def without_secrets(self, text: str) -> str:
        """Return a text from outside without the address and the token."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            if len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text

    def _secrets(self) -> set[str]:
        # any part of an address but its host may be one: a login, a step of the path, a value
        address = self.url.partition("://")[2]
        login, _, rest = address.rpartition("@")
        path = address.partition("/")[2]
        found = {self.url, address, path, login, self.headers.get("Authorization", "")[7:]}
        found.update(re.split(r"[/?&=;:,@]", address))
        found.discard(re.split(r"[/?:]", rest)[0])
        if self.form == "telegram":
            found.add(self.url.removesuffix("/sendMessage").rpartition("/bot")[2])
        found |= {unquote(one) for one in found}
        found.add(b64encode(unquote(login).encode()).decode())
        return found - KNOWN_WORDS


def address_of(name: str, target: AlertTarget) -> Address:
    """Return a target's address, from the settings or its files.

    Raises: ConfigError naming the key and what was expected, without a secret.
    """
    url, token = _secret(name, target, "url"), _secret(name, target, "token")
    where = f"alerts.targets.{name}"
    if target.form == "telegram":
        url = url or TELEGRAM
    if not url:
        variable = f"COINSPACE_ALERTS__TARGETS__{name.upper()}__URL"
        raise ConfigError(f"{where}.url: expected an address in {variable} or url_file, was none")
    if not is_address(url):
        raise ConfigError(
            f"{where}.url: expected http:// or https:// and a host, no blank and no fragment"
        )
    if token and not TOKEN.fullmatch(token):
        raise ConfigError(f"{where}.token: expected visible ASCII characters without a blank")
    if token and "@" in url.partition("://")[2].partition("/")[0]:
        raise ConfigError(f"{where}.token: expected none, since the address has a login")
    if target.form != "telegram":
        return Address(target.form, url, {"Authorization": f"Bearer {token}"} if token else {})
    if not re.fullmatch(r"\d+:[\w-]+", token, re.ASCII):
        raise ConfigError(
            f"{where}.token: expected the token of a bot, digits, a colon and letters, in"
            f" COINSPACE_ALERTS__TARGETS__{name.upper()}__TOKEN or token_file"
            f"{'' if token else ', was none'}"
        )
    return Address("telegram", f"{url.rstrip('/')}/bot{token}/sendMessage", chat=target.chat)


def _secret(name: str, target: AlertTarget, key: str) -> str:
    path = target.url_file if key == "url" else target.token_file
    if path is None:
        given = target.url if key == "url" else target.token
        return given.get_secret_value().strip()
    try:
        content = read_regular(path)
        if not content.strip() or len(content) > SECRET_BYTES:
            raise ValueError(f"expected 1 to {SECRET_BYTES} bytes, was {len(content)}")
        return content.decode().strip()
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError:
        reason = "expected UTF-8"
    except ValueError as error:
        reason = str(error)
    raise ConfigError(f"alerts.targets.{name}.{key}_file: {path}: expected a secret, {reason}")


def body(address: Address, message: Message, host: str) -> bytes:
    """Return the body of the request. Args: host: the name of this machine."""
    text = text_of(message, host)
    if address.form == "telegram":
        found: dict[str, object] = {"chat_id": address.chat, "text": text}
        return orjson.dumps(found | {"link_preview_options": {"is_disabled": True}})
    if address.form == "slack":
        for mark, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(mark, written)
        return orjson.dumps({"text": text, "mrkdwn": False, "unfurl_links": False})
    facts = {
        "id": message.id,
        "source": "coinspace",
        "host": host,
        "ts": message.made_ms,
        "attempt": message.attempts,
        "may_be_repeated": message.unsure,
        "text": text,
        "alerts": [_facts(event) for event in message.events],
        "omitted": message.omitted,
    }
    return orjson.dumps(facts)


def _facts(event: Event) -> dict[str, object]:
    facts = structs.asdict(event)
    return facts | {name: printable(facts[name]) for name in ("rule", "subject", "text")}


def text_of(message: Message, host: str) -> str:
    """Return a message as lines: a heading, then the alerts, many of one rule on one line."""
    groups: dict[tuple[str, str], list[Event]] = {}
    for event in message.events:
        groups.setdefault((event.rule, event.state), []).append(event)
    lines = [f"CoinSpace on {printable(host, 60)}: {_counts(message)}"]
    if message.unsure:
        lines.append("(sent again: an earlier attempt had no answer)")
    for (rule, state), events in groups.items():
        if len(events) <= LINES_PER_RULE:
            lines += [f"{state} {printable(rule)}: {_line(event)}" for event in events]
            continue
        names = [printable(event.subject, 40) for event in events[:NAMES]]
        more = f" and {len(events) - NAMES} more" if len(events) > NAMES else ""
        first = f"first: {_line(events[0])}"
        lines.append(
            f"{state} {printable(rule)}: {len(events)} alerts: {', '.join(names)}{more}; {first}"
        )
    if message.omitted:
        lines.append(f"and {message.omitted} more alerts")
    return _cut(lines)


def _counts(message: Message) -> str:
    counts: dict[str, int] = {}
    for event in message.events:
        counts[event.state] = counts.get(event.state, 0) + 1
    return ", ".join(f"{n} {state}" for state, n in counts.items())


def _line(event: Event) -> str:
    times = f" (changed {event.count} times)" if event.count > 1 else ""
    return f"{printable(event.text)}, {shown(event.at_ms * 1_000_000)}{times}"


def _cut(lines: list[str]) -> str:
    kept: list[str] = []
    room = TEXT_LIMIT
    for n, line in enumerate(lines):
        # as Telegram counts
        size = len(line.encode("utf-16-le")) // 2 + 1
        if size > room:
            kept.append(f"… {len(lines) - n} more lines")
            break
        room -= size
        kept.append(line)
    return "\n".join(kept)
