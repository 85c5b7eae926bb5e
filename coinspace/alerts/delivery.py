"""Requests to targets: one at a time for each, bounded in time and size, without redirects.

No error text has the address or the token: texts of libraries are not shown.
"""

from __future__ import annotations

import os
import ssl
from email.utils import parsedate_to_datetime

import aiohttp
import orjson

from coinspace.alerts.forms import Address
from coinspace.alerts.outbox import LONGEST_WAIT_S, Outcome
from coinspace.clock import SECOND_NS, Clock, now_ns
from coinspace.connector import Connector
from coinspace.text import printable

# of an answer: its head is enough for a reason
ANSWER_BYTES = 4096
REASON_LIMIT = 160
# of connecting, within the time of the attempt
CONNECT_S = 5.0
# refusals that a later attempt may not meet
PASSING = (408, 425, 429)


class Poster:
    """Sends messages. Args: timeout_s: of one attempt. clock: the wall clock."""

    def __init__(self, timeout_s: float, clock: Clock = now_ns) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def post(self, address: Address, body: bytes, message_id: str) -> Outcome:
        """Send one message and return how that ended."""
        headers = {
            **address.headers,
            "Content-Type": "application/json",
            "Idempotency-Key": message_id,
        }
        limit = aiohttp.ClientTimeout(
            total=self.timeout_s, sock_connect=min(CONNECT_S, self.timeout_s)
        )
        try:
            async with self._open().post(
                address.url, data=body, headers=headers, timeout=limit, allow_redirects=False
            ) as response:
                # the status says whether the target has the message, whatever follows it
                if 200 <= response.status < 300:
                    return Outcome()
                return self._refused(address, response, await _head(response))
        except aiohttp.ConnectionTimeoutError:
            return Outcome(f"no connection within {limit.sock_connect:g} s")
        except TimeoutError:
            return Outcome(f"no answer within {self.timeout_s:g} s", unsure=True)
        except aiohttp.ClientConnectorCertificateError:
            return Outcome("its certificate is not valid")
        except aiohttp.ClientConnectorDNSError:
            return Outcome("the name of its host is not known")
        except aiohttp.ClientConnectorError as error:
            return Outcome(f"no connection: {_os_reason(error)}")
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, UnicodeError):
            return Outcome("its address cannot be used", final=True)
        except (aiohttp.ClientError, OSError, ValueError):
            return Outcome("the connection ended before the answer", unsure=True)

    def _refused(
        self, address: Address, response: aiohttp.ClientResponse, content: bytes
    ) -> Outcome:
        status = response.status
        if 300 <= status < 400:
            text = f"HTTP {status}: expected no redirect; set the address that it leads to"
            return Outcome(text, final=True)
        said = _said(content)
        reason = f"HTTP {status}"
        if said:
            # a receiver may send back what it was sent
            reason += f": {printable(address.without_secrets(said), REASON_LIMIT)}"
        wait_s = max(self._asked_s(response), _body_s(content))
        final = status not in PASSING and 400 <= status < 500
        return Outcome(reason, final=final, wait_s=min(wait_s, LONGEST_WAIT_S))

    def _asked_s(self, response: aiohttp.ClientResponse) -> float:
        """Return the wait of a Retry-After header, 0 = none; its date is one of the target."""
        text = response.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        then = _date_s(text)
        if then is None:
            return 0.0
        now = _date_s(response.headers.get("Date", ""))
        return max(0.0, then - (self._clock() / SECOND_NS if now is None else now))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # a kept connection that the target has closed meanwhile would look like a lost
                # answer
                connector=Connector(force_close=True),
                headers={"Accept": "application/json", "User-Agent": "coinspace"},
                requote_redirect_url=False,
                # an inflated answer has no bound
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def _head(response: aiohttp.ClientResponse) -> bytes:
    """Return the beginning of an answer, b"" when it cannot be read."""
    try:
        return await response.content.read(ANSWER_BYTES)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return b""


def _said(content: bytes) -> str:
    """Return what an answer says: Telegram's description, or a short text."""
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:
        text = content.decode(errors="replace").strip()
        return "" if text.startswith("<") else text
    said = found.get("description") if isinstance(found, dict) else found
    return said if isinstance(said, str) else ""


def _body_s(content: bytes) -> float:
    """Return the wait that Telegram names in its answer, 0 = none."""
    try:
        wait = orjson.loads(content)["parameters"]["retry_after"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return 0.0
    return max(0.0, float(wait)) if isinstance(wait, int | float) else 0.0


def _date_s(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _os_reason(error: aiohttp.ClientConnectorError) -> str:
    cause = error.os_error
    if isinstance(cause, ssl.SSLError):
        return "no TLS"
    return os.strerror(cause.errno) if cause.errno else "refused"
