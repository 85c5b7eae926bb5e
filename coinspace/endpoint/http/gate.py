"""Checks before the application: hosts, methods, keys, rate limits.

The gate is an ASGI layer, so that every request passes it: also requests for unknown routes and
WebSocket handshakes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from coinspace.config import EndpointSettings
from coinspace.endpoint.http.addresses import Proxies, group, is_loopback
from coinspace.endpoint.http.connection import (
    App,
    Headers,
    Receive,
    Scope,
    Send,
    connection,
    values,
)
from coinspace.endpoint.http.hosts import Hosts
from coinspace.endpoint.http.keys import Key, Keys
from coinspace.endpoint.http.limiter import Limiter, Rate, parse_rate
from coinspace.endpoint.http.problem import MEDIA, Problem, unknown_route

METHODS = ("GET", "HEAD")
# answered without a key: they show only that the process lives, and how to use the API
PUBLIC = frozenset(
    ("/livez", "/readyz", "/openapi.json", "/asyncapi.json", "/docs", "/", "/favicon.ico")
)
PUBLIC_PREFIXES = ("/assets/", "/docs/")
# wrong keys of one client; valid keys are not counted here
WRONG_KEYS = Rate(30, 60)

READY_HEADERS: Headers = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
]


class Gate:
    """Passes a request on to `app`, or answers it with a problem.

    Args:
        websockets: path -> handler of a WebSocket.
        paths: returns whether a path has a route.
        ready: path -> body of an answer that is already made, None = `app` answers.
    """

    def __init__(
        self,
        app: App,
        settings: EndpointSettings,
        keys: Keys,
        websockets: dict[str, App],
        paths: Callable[[str], bool],
        ready: Callable[[str], bytes | None],
    ) -> None:
        self.app = app
        self.websockets = websockets
        self._ready = ready
        self.keys = keys
        self.known_path = paths
        self.keys_needed = keys_needed(settings)
        self.hosts = Hosts(settings.hosts, settings.host, any_name=self.keys_needed)
        self.proxies = Proxies(settings.trusted_proxies)
        self.origins = frozenset(settings.cors_origins)
        self.limit_loopback = settings.limit_loopback
        self._addresses = _limiter("endpoint.rate_per_address", settings.rate_per_address)
        self._keys = _limiter("endpoint.rate_per_key", settings.rate_per_key)
        self._wrong = Limiter(WRONG_KEYS)
        self.requests = self.refused = self.limited = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        try:
            headers = self._admit(scope)
            if scope["type"] == "websocket":
                await self._websocket(scope, receive, send)
                return
        except Problem as problem:
            self.refused += 1
            await refuse(scope, problem, send, self._cors(scope))
            return
        if scope["method"] == "GET" and not scope["query_string"]:
            # checked like every other request; only the framework is skipped
            body = self._ready(scope["path"])
            if body is not None:
                length = (b"content-length", b"%d" % len(body))
                start = [*READY_HEADERS, length, *headers]
                await send({"type": "http.response.start", "status": 200, "headers": start})
                await send({"type": "http.response.body", "body": body})
                return
        if scope["method"] == "HEAD":
            # the server leaves out the body, so that routes need no code for HEAD
            scope = {**scope, "method": "GET", "coinspace.head": True}

        async def send_with_headers(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]  # type: ignore[misc]
            await send(message)

        await self.app(scope, receive, send_with_headers if headers else send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.websockets.get(scope["path"])
        if answer is None:
            raise Problem(
                "unknown-route",
                f"no WebSocket at {scope['path'][:200]}; expected {', '.join(self.websockets)}",
            )
        await answer(scope, receive, send)

    def _admit(self, scope: Scope) -> Headers:
        path = scope["path"]
        host = self.hosts.check(scope)
        if scope["type"] == "websocket":
            self._check_origin(scope, host)
        else:
            self._check_method(scope, path)
        forwarded = values(scope["headers"], b"x-forwarded-for")
        client = self.proxies.client(scope["client"][0], forwarded)
        key = self._identify(scope, path, client)
        scope["coinspace.key"] = key
        origin = connection(scope)
        if origin is not None:
            # a stream outlives the request that was let in
            origin.in_force = None if key is None else functools.partial(self.keys.in_force, key)
        scope["coinspace.operator"] = not self.keys_needed or (
            key is not None and key.role == "operator"
        )
        more = self._limit(client, key)
        return more + self._cors(scope) if self.origins else more

    def _check_method(self, scope: Scope, path: str) -> None:
        method = scope["method"]
        if method in METHODS:
            return
        if self._is_preflight(scope):
            raise Preflight()
        if not self.known_path(path):
            raise unknown_route(path)
        raise Problem(
            "method-not-allowed",
            f"method: expected GET or HEAD, was {method[:20]}",
            headers={"Allow": ", ".join(METHODS)},
        )

    def _check_origin(self, scope: Scope, host: str) -> None:
        # browsers open WebSockets to every host: CORS does not cover them
        for one in values(scope["headers"], b"origin"):
            origin = one.decode("latin-1")
            # `Hosts` has checked that the host is this server
            if origin.partition("://")[2].lower() != host and origin not in self.origins:
                raise Problem(
                    "origin-refused",
                    f"origin: expected {host[:100]} or one of endpoint.cors_origins,"
                    f" was {origin[:100]!r}",
                )

    def _identify(self, scope: Scope, path: str, client: str) -> Key | None:
        text = presented_key(scope)
        if text is None:
            if self.keys_needed and path not in PUBLIC and not path.startswith(PUBLIC_PREFIXES):
                # a request without a key counts, too
                self._limit(client, None)
                raise Problem(
                    "key-required",
                    "expected an API key in `Authorization: Bearer` or `X-API-Key`, was none",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            return None
        key = self.keys.find(text)
        if key is None:
            # limited on loopback, too, so that keys cannot be guessed
            self._limit(client, None)
            self._hit(self._wrong, "wrong-key", group(client))
            raise Problem(
                "key-refused",
                "the API key is unknown or revoked",
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        return key

    def _limit(self, client: str, key: Key | None) -> Headers:
        if not self.limit_loopback and is_loopback(client):
            return []
        if key is not None:
            return self._hit(self._keys, "key", key.id)
        return self._hit(self._addresses, "address", group(client))

    def _hit(self, limiter: Limiter | None, kind: str, client: str) -> Headers:
        if limiter is None:
            return []
        rate, verdict = limiter.rate, limiter.hit(client, time.monotonic())
        policy = f'"{kind}";q={rate.amount};w={rate.seconds}'
        state = f'"{kind}";r={verdict.left};t={verdict.wait}'
        if not verdict.allowed:
            self.limited += 1
            raise Problem(
                "too-many-requests",
                f"the limit is {rate.amount} requests in {rate.seconds} s,"
                f" try again in {verdict.wait} s",
                headers={
                    "Retry-After": str(verdict.wait),
                    "RateLimit": state,
                    "RateLimit-Policy": policy,
                },
                retry_after=verdict.wait,
            )
        return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", state.encode())]

    def _is_preflight(self, scope: Scope) -> bool:
        return (
            scope["method"] == "OPTIONS"
            and bool(self.origins)
            and bool(values(scope["headers"], b"access-control-request-method"))
        )

    def _cors(self, scope: Scope) -> Headers:
        if not self.origins:
            return []
        origins = values(scope["headers"], b"origin")
        more = [(b"vary", b"Origin")]
        if len(origins) != 1 or origins[0].decode("latin-1") not in self.origins:
            return more
        return [
            *more,
            (b"access-control-allow-origin", origins[0]),
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
    """A browser's CORS preflight, answered by headers only."""

    def __init__(self) -> None:
        super().__init__("invalid-request", "")
        self.status = 204

    def body(self) -> bytes:
        return b""


async def refuse(scope: Scope, problem: Problem, send: Send, headers: Headers) -> None:
    """Answer an HTTP request or a WebSocket handshake with a problem."""
    body = problem.body()
    prefix = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    given = [*problem.fields(), *headers]
    if body:
        given += [(b"content-type", MEDIA), (b"content-length", b"%d" % len(body))]
    await send({"type": f"{prefix}.start", "status": problem.status, "headers": given})
    await send({"type": f"{prefix}.body", "body": body})


def presented_key(scope: Scope) -> str | None:
    """Return the key that a client sent, unchecked."""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return str(value.decode("latin-1")).strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].decode("latin-1")).strip()
    return None


def keys_needed(settings: EndpointSettings) -> bool:
    """Return whether requests need an API key."""
    return settings.require_keys or not is_loopback(settings.host)


def _limiter(key: str, text: str) -> Limiter | None:
    rate = parse_rate(key, text)
    return None if rate is None else Limiter(rate)
