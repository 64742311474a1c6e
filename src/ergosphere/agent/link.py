"""The agent's side of the line to the server: reports, orders, answers, mail and logs. HTTP and retries only."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import httpx
from pydantic import ValidationError

from ergosphere import system
from ergosphere.agent.inbox_page import Page, read_page
from ergosphere.wire import versions
from ergosphere.wire.agents import AgentReport, Answer, LogChunk, Mail, ReportReply
from ergosphere.wire.api import LogReply
from ergosphere.wire.jobs import Wire

log = logging.getLogger(__name__)
T = TypeVar("T")
REFUSED: Final = 422  # what we say is not understood, or cannot be from an agent
REQUEST_TIMEOUT_S: Final = 5.0
POLL_TIMEOUT_S: Final = 25.0  # the server answers a long poll within 10 s


class ServerAway(Exception):
    """The server could not be reached or did not know us; whoever called tries again later.

    `status`: of its answer, where there was one.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class ServerLink:
    """A line that finds the server anew after each of its restarts: its address is read from the home each time."""

    home: Path
    node: str
    _client: httpx.Client | None = None
    _url: str = ""
    _theirs: str = ""  # the server's version
    _complained: str = ""

    def _connected(self) -> httpx.Client:
        if system.server_is_gone(self.home):  # its port may be anybody's by now, and the token is not for them
            raise ServerAway("no server is running")
        try:
            url = str(json.loads((self.home / "server/server.json").read_text())["url"])
            token = (self.home / "server/token").read_text().strip()
        except (OSError, ValueError, KeyError) as missing:
            raise ServerAway(f"no server is known: {missing}") from missing
        client = self._client  # other threads may take it away at any moment
        if client is None or url != self._url:
            client = self._client = httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {token}", versions.HEADER: versions.VERSION},
                timeout=REQUEST_TIMEOUT_S,
                trust_env=False,
                verify=url.startswith("https:"),  # to read the list of authorities takes 25 ms
                limits=httpx.Limits(max_keepalive_connections=16),
            )
            self._url = url
        return client

    def _call(self, send: Callable[[httpx.Client], httpx.Response]) -> httpx.Response:
        try:
            response = send(self._connected())
        except (httpx.HTTPError, OSError) as away:
            self._client = None
            raise ServerAway(f"the server does not answer: {away}") from away
        self._theirs = response.headers.get(versions.HEADER, self._theirs)
        if response.status_code == REFUSED:
            self._complain(f"the server refused: {response.text}")
        if response.status_code == 401:
            self._client = None  # the token was changed: it is read anew
        if response.status_code >= 400:
            raise ServerAway(f"the server refused: {response.status_code} {response.text[:300]}", response.status_code)
        return response

    def _post(self, path: str, message: Wire) -> httpx.Response:
        body = message.model_dump_json(exclude_defaults=True)
        headers = {"Content-Type": "application/json"}
        return self._call(lambda client: client.post(path, content=body, headers=headers))

    def _understood(self, read: Callable[[], T]) -> T:
        """What the server says; one that is not understood is as good as away."""
        try:
            return read()
        except ValidationError as error:
            words = (
                f"what the server ({versions.named(self._theirs)}) says is not understood by this agent "
                f"(version {versions.VERSION}): {versions.faults(error.errors())}; {versions.remedy(self.node)}"
            )
            self._complain(words)
            raise ServerAway(words) from error

    def _complain(self, words: str) -> None:
        """Once, and not again with every report."""
        if words != self._complained:
            self._complained = words
            log.error("%s", words)

    def report(self, report: AgentReport) -> ReportReply:
        """Say the whole truth of this node; the reply renews the lease."""
        response = self._post(f"/v1/agents/{self.node}/report", report)
        return self._understood(lambda: ReportReply.model_validate_json(response.content))

    def inbox(self, after: int) -> Page:
        """Wait (up to about 10 s) for orders and mail."""
        path = f"/v1/agents/{self.node}/inbox?after={after}"
        response = self._call(lambda client: client.get(path, timeout=POLL_TIMEOUT_S))
        return self._understood(lambda: read_page(response.content, self.node, self._theirs))

    def answer(self, answer: Answer) -> None:
        self._post(f"/v1/agents/{self.node}/answers", answer)

    def mail(self, mail: Mail) -> None:
        self._post("/v1/agents/mail", mail)

    def logs(self, chunk: LogChunk) -> LogReply:
        """Ship bytes of a log; the reply says from where to go on."""
        response = self._post(f"/v1/agents/{self.node}/logs", chunk)
        return self._understood(lambda: LogReply.model_validate_json(response.content))
