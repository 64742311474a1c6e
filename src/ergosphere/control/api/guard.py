"""The door: who may speak to the service at all, and how much at once. Nothing behind it runs before it said yes."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ergosphere.wire.api import BLOB_BYTES_MAX, BODY_BYTES_MAX
from ergosphere.wire.jobs import Problem

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
AGENT_BODY_BYTES_MAX: Final = 64 << 20  # mail carries the file lists of whole working copies


@dataclass(slots=True)
class _Measured:
    """A body of unknown length: beyond the limit the routes see a client that went away, and their answer is lost."""

    inner_receive: Receive
    inner_send: Send
    limit: int
    taken: int = 0
    answered: bool = False

    @property
    def too_big(self) -> bool:
        return self.taken > self.limit

    async def receive(self) -> Message:
        message = await self.inner_receive()
        self.taken += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.too_big else message

    async def send(self, message: Message) -> None:
        if not self.too_big:
            self.answered = True
            await self.inner_send(message)


class Guard:
    """Checks Host and Origin (a web page must not reach a loopback service), the token, and the size of bodies."""

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str] = LOOPBACK) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        refusal = self._refusal(Headers(scope=scope))
        if refusal is None:
            return await self._measured(scope, receive, send)
        return await refusal(scope, receive, send)

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        if _split(f"//{host}").hostname not in self._hosts:
            return refused(403, f"the host {host[:100]!r} is not this service", "use the URL that `ergo status` shows")
        origin = headers.get("origin")
        if origin is not None and _split(origin).netloc != host:
            return refused(403, f"requests from {origin[:100]!r} are not taken")
        given = headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, self._expected):
            remedy = "send `Authorization: Bearer TOKEN`; the token is in server/token under $ERGO_HOME"
            return refused(401, "the token is missing or wrong", remedy)
        return None

    async def _measured(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = _limit(scope)
        if int(_number(Headers(scope=scope).get("content-length"))) > limit:
            return await _too_big(limit)(scope, receive, send)
        body = _Measured(receive, send, limit)
        try:
            await self._app(scope, body.receive, body.send)
        except asyncio.CancelledError:  # the server ends, and what still waited for news is cut
            if body.answered:
                raise
            return await refused(503, "the server is shutting down", "start it with `ergo up`")(scope, receive, send)
        if body.too_big:
            await _too_big(limit)(scope, receive, send)
        return None


def refused(status: int, error: str, remedy: str = "") -> JSONResponse:
    """An error as every client reads it."""
    return JSONResponse(Problem(error=error, remedy=remedy).model_dump(), status_code=status)


def _split(address: str) -> SplitResult:
    """An address in its parts; one that cannot be read has none, so that it is nobody's."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _limit(scope: Scope) -> int:
    path = scope["path"]
    if path.startswith("/v1/agents/"):
        return AGENT_BODY_BYTES_MAX
    return BLOB_BYTES_MAX if scope["method"] == "PUT" else BODY_BYTES_MAX


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _too_big(limit: int) -> JSONResponse:
    return refused(413, f"the body is larger than {limit >> 20} MiB")
