"""What stands before the application: methods, bodies, keys, rate limits, security headers.

It is an ASGI layer of its own so that every answer passes it, the ones for unknown routes and
refused WebSocket handshakes included.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import limits
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from coinspace.config import EndpointSettings
from coinspace.endpoint.keys import Key, Keys
from coinspace.endpoint.problem import MEDIA, Problem, operator_needed
from coinspace.errors import EndpointError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# no route reads a body; one this small is let through and ignored
BODY_LIMIT = 4096
METHODS = ("GET", "HEAD")
# answered without a key: they tell nothing but that the process lives, and what the API is
PUBLIC = frozenset(("/livez", "/readyz", "/openapi.json", "/docs", "/", "/favicon.ico"))
PUBLIC_PREFIXES = ("/assets/", "/docs/")
OPERATOR = frozenset(("/metrics", "/v1/pipeline"))

_CSP = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    b" img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none';"
    b" form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-security-policy", _CSP),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


READY_HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
]


class Gate:
    """Lets a request through to `app`, or answers it with a problem."""

    def __init__(
        self,
        app: App,
        settings: EndpointSettings,
        keys: Keys,
        paths: Callable[[str], bool],
        ready: Callable[[str], bytes | None],
    ) -> None:
        self.app = app
        self._ready = ready
        self.keys = keys
        self.known_path = paths
        self.keys_needed = keys_needed(settings)
        self.origins = frozenset(settings.cors_origins)
        self.limit_loopback = settings.limit_loopback
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self.address_limit = parse_rate("endpoint.rate_per_address", settings.rate_per_address)
        self.key_limit = parse_rate("endpoint.rate_per_key", settings.rate_per_key)
        self.requests = self.refused = self.limited = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        self.requests += 1
        headers = SECURITY_HEADERS
        try:
            more = self._admit(scope)
            if more:
                headers = SECURITY_HEADERS + more
        except Problem as problem:
            self.refused += 1
            await refuse(scope, problem, send, SECURITY_HEADERS + self._cors(scope))
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "GET" and not scope["query_string"]:
            # the route that programs ask most has its bytes at hand: the framework's own way to
            # the same answer costs as much again as the server
            body = self._ready(scope["path"])
            if body is not None:
                length = (b"content-length", b"%d" % len(body))
                start = [*READY_HEADERS, length, *headers]
                await send({"type": "http.response.start", "status": 200, "headers": start})
                await send({"type": "http.response.body", "body": body})
                return
        if scope["method"] == "HEAD":
            # the server leaves the body out, the routes need not know
            scope = {**scope, "method": "GET", "coinspace.head": True}

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _admit(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        path = scope["path"]
        websocket = scope["type"] == "websocket"
        if websocket:
            self._check_origin(scope)
        else:
            self._check_method(scope, path)
        key = self._identify(scope, path)
        scope["coinspace.key"] = key
        scope["coinspace.operator"] = not self.keys_needed or (
            key is not None and key.role == "operator"
        )
        more = self._limit(scope, key)
        return more + self._cors(scope) if self.origins else more

    def _check_method(self, scope: Scope, path: str) -> None:
        method = scope["method"]
        if method not in METHODS:
            if self._is_preflight(scope):
                raise Preflight()
            if not self.known_path(path):
                raise Problem("unknown-route", f"no route {path[:200]}; /docs lists all")
            raise Problem(
                "method-not-allowed",
                f"method: expected GET or HEAD, was {method[:20]}",
                headers={"Allow": ", ".join(METHODS)},
            )
        size = header(scope, b"content-length")
        if size is not None and (not size.isdigit() or int(size) > BODY_LIMIT):
            raise Problem(
                "body-too-large", f"body: expected none, was {size.decode('latin-1')[:40]} bytes"
            )

    def _check_origin(self, scope: Scope) -> None:
        # browsers open WebSockets to anywhere without asking: CORS does not cover them
        origin = (header(scope, b"origin") or b"").decode("latin-1")
        host = (header(scope, b"host") or b"").decode("latin-1")
        if origin and origin.partition("://")[2] != host and origin not in self.origins:
            raise Problem(
                "origin-refused",
                f"origin: expected {host[:100]} or one of endpoint.cors_origins,"
                f" was {origin[:100]!r}",
            )

    def _identify(self, scope: Scope, path: str) -> Key | None:
        text = presented_key(scope)
        if text is None:
            if self.keys_needed and path not in PUBLIC and not path.startswith(PUBLIC_PREFIXES):
                raise Problem(
                    "key-required",
                    "expected an API key in `Authorization: Bearer` or `X-API-Key`, was none",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            return None
        key = self.keys.find(text)
        if key is None:
            # a wrong key counts against the address, so that keys cannot be searched
            self._limit(scope, None)
            raise Problem(
                "key-refused",
                "the API key is not in force here",
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        if self.keys_needed and path in OPERATOR and key.role != "operator":
            raise operator_needed(path)
        return key

    def _limit(self, scope: Scope, key: Key | None) -> list[tuple[bytes, bytes]]:
        client = scope.get("client")
        address = client[0] if client else ""
        if not self.limit_loopback and is_loopback(address):
            return []
        limit = self.key_limit if key else self.address_limit
        if limit is None:
            return []
        identity = ("key", key.id) if key else ("address", address)
        allowed = self._limiter.hit(limit, *identity)
        window = self._limiter.get_window_stats(limit, *identity)
        wait = max(1, math.ceil(window.reset_time - time.time()))
        policy = f'"{identity[0]}";q={limit.amount};w={limit.get_expiry()}'
        state = f'"{identity[0]}";r={max(0, window.remaining)};t={wait}'
        if not allowed:
            self.limited += 1
            raise Problem(
                "too-many-requests",
                f"the limit is {limit.amount} requests in {limit.get_expiry()} s,"
                f" come again in {wait} s",
                headers={"Retry-After": str(wait), "RateLimit": state, "RateLimit-Policy": policy},
                retry_after=wait,
            )
        return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", state.encode())]

    def _is_preflight(self, scope: Scope) -> bool:
        return (
            scope["method"] == "OPTIONS"
            and bool(self.origins)
            and header(scope, b"access-control-request-method") is not None
        )

    def _cors(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        if not self.origins:
            return []
        origin = header(scope, b"origin")
        more = [(b"vary", b"Origin")]
        if origin is None or origin.decode("latin-1") not in self.origins:
            return more
        return [
            *more,
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-methods", b"GET, HEAD"),
            (b"access-control-allow-headers", b"Authorization, X-API-Key, Last-Event-ID"),
            (b"access-control-expose-headers", b"ETag, RateLimit, RateLimit-Policy, Retry-After"),
            (b"access-control-max-age", b"600"),
        ]

    def counters(self) -> dict[str, int]:
        """Counters for the health file."""
        return {
            "requests": self.requests,
            "requests_refused": self.refused,
            "requests_limited": self.limited,
        }


class Preflight(Problem):
    """A browser asks whether it may call: answered by the headers alone."""

    def __init__(self) -> None:
        super().__init__("invalid-request", "")
        self.status = 204

    def body(self) -> bytes:
        return b""


async def refuse(
    scope: Scope, problem: Problem, send: Send, headers: list[tuple[bytes, bytes]]
) -> None:
    """Answer with a problem, an HTTP request or a WebSocket handshake alike."""
    body = problem.body()
    prefix = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    given = [(key.lower().encode(), value.encode()) for key, value in problem.headers.items()]
    given += [
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    if body:
        given.append((b"content-type", MEDIA))
    if scope["type"] == "http" and header(scope, b"content-length") not in (None, b"0"):
        # the body is not read, so the connection cannot carry another request
        given.append((b"connection", b"close"))
    await send({"type": f"{prefix}.start", "status": problem.status, "headers": given})
    await send({"type": f"{prefix}.body", "body": body})


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return a request header's first value."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


def presented_key(scope: Scope) -> str | None:
    """Return the key that a client sent, as it came."""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return str(value.decode("latin-1")).strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].decode("latin-1")).strip()
    return None


def keys_needed(settings: EndpointSettings) -> bool:
    """Tell whether requests need an API key."""
    return settings.require_keys or not is_loopback(settings.host)


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's own."""
    if host == "127.0.0.1" or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_rate(key: str, text: str) -> limits.RateLimitItem | None:
    """Read a rate such as "100/second". Raises: EndpointError naming the key."""
    if not text:
        return None
    try:
        return limits.parse(text)
    except ValueError:
        raise EndpointError(f"{key}: expected a rate such as '100/second', was {text!r}") from None
