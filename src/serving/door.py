"""The door of the service: every request passes it on its way in and out.

It asks for the key, refuses names that are not the service's own (a page can give its own name the address of this
machine, and then it is no page of another origin), refuses predictions before they cost anything while the queue is
full, turns a fault into an answer without details, adds headers, counts, and writes the log. Refusals for a full queue
are counted and have no line in the log: under overload they would be most of it.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.serving.errors import Refused
from src.serving.json_logs import fault_fields, log

if TYPE_CHECKING:
    from src.serving.app import Service

GONE = 499
"""Status in logs and metrics of a request whose client left before it was answered."""
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
POLICY = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'",
)
OWN = ("localhost", "127.0.0.1", "::1")
"""Names of this machine for itself."""
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]*)?")
PREDICT, ENDLESS, PAGE = "/predict", "/events", "/page/"
OTHER = "other"
"""Route in logs and metrics of a path that the service has not: such a path is the client's text."""


class Door:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, service: Service, is_open: Callable[[str], bool]):
        """`is_open` is true for paths that need no key."""
        self._app, self._service, self._is_open = app, service, is_open
        settings = service.settings
        named = {*OWN, settings.host.lower(), *(name.lower() for name in settings.hosts)}
        self._hosts = named if settings.hosts or is_own(settings.host) else None
        """Names by which the service may be asked; None: any."""
        self._key = f"Bearer {service.key}".encode() if service.key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, name, status = time.perf_counter(), secrets.token_hex(8), 0
        ours = [*HEADERS, (b"x-request-id", name.encode()), *([POLICY] if scope["method"] == "GET" else [])]

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *ours]
            await send(message)

        fields = {}
        try:
            self._check(scope)
            await self._app(scope, receive, answer)
        except Refused as refused:
            await _send_failure(answer, refused)
        except ClientDisconnect:
            status = GONE
        except Exception as fault:
            fields = fault_fields(fault)
            if not status:
                await _send_failure(answer, Refused(500, f"a fault of the service; its log has it under {name}"))
        finally:
            self._note(scope, name, status or GONE, time.perf_counter() - started, fields)

    def _note(self, scope: Scope, name: str, status: int, seconds: float, fields: dict[str, Any]) -> None:
        """Counts and logs a request; `fields` are those of its fault, if it had one."""
        path, metrics = scope["path"], self._service.metrics
        if path.startswith(PAGE):
            route = PAGE
        else:
            route = getattr(scope.get("route"), "path", path if path == PREDICT or self._is_open(path) else OTHER)
        metrics.requests.labels(route, status).inc()
        if route != ENDLESS:
            metrics.seconds.labels(route).observe(seconds)
        if status == 429:
            return
        if "n_rows" in scope:
            fields["rows"] = scope["n_rows"]
        log(
            "request",
            logging.ERROR if status >= 500 else logging.INFO,
            request=name,
            method=scope["method"] if route != OTHER else OTHER,
            route=route,
            status=status,
            milliseconds=round(seconds * 1000, 2),
            **fields,
        )

    def _check(self, scope: Scope) -> None:
        """Raises Refused for too many connections, for a name that is not the service's, without the key, for a page of
        another origin, for a body that is not declared as JSON, and, before a body is read, while the queue is full."""
        if self._service.connections() > self._service.settings.max_connections:
            raise Refused(429, "too many connections: try again in 1 s", {"Retry-After": "1", "Connection": "close"})
        headers = dict(scope["headers"])
        if self._hosts is not None and host_name(headers.get(b"host", b"")) not in self._hosts:
            raise Refused(403, "the name in the header Host is not one of the service; serve.hosts names further ones")
        if self._key is not None and not self._is_open(scope["path"]):
            if not hmac.compare_digest(headers.get(b"authorization", b""), self._key):
                raise Refused(
                    401,
                    "the API key is missing or wrong: send the header Authorization: Bearer KEY",
                    {"WWW-Authenticate": "Bearer"},
                )
        if scope["method"] == "POST":
            # Browsers name the origin of a page that sends anything to another one.
            origin = headers.get(b"origin", b"").decode("latin-1")
            if origin and _address(origin) != headers.get(b"host", b"").decode("latin-1"):
                if origin not in self._service.settings.origins:
                    raise Refused(403, "pages of another origin may not ask; serve.origins names those that may")
            has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if has_body and kind != b"application/json":
                raise Refused(415, "a body must be declared with the header Content-Type: application/json")
            if scope["path"] == PREDICT:
                self._service.batcher.check_room()


def is_own(host: str) -> bool:
    """Returns True for an address to listen on that this machine alone reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_name(host: bytes) -> str | None:
    """The name in a header Host, in small letters and without port and brackets; None for what is none."""
    found = HOST.fullmatch(host.decode("latin-1").lower())
    return found[1].strip("[]") if found else None


def _address(origin: str) -> str | None:
    """Name and port of an origin; None for what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


async def _send_failure(send: Send, refused: Refused) -> None:
    body = json.dumps({"error": refused.sentence}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    raw = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
