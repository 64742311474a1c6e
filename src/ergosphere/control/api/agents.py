"""Routes of the agents, who always call first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import Response

from ergosphere.control.accents import Accents
from ergosphere.control.api.guard import refused
from ergosphere.control.service import Service
from ergosphere.wire import versions
from ergosphere.wire.agents import AgentReport, Answer, InboxPage, LogChunk, Mail, ReportReply
from ergosphere.wire.api import LogReply

POLL_S_MAX = 10.0


def routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/agents", tags=["agents"], route_class=_naming_versions(service.accents))

    @router.post("/mail", status_code=204)
    def mail(letter: Mail) -> Response:
        if not service.leases.ready(letter.to):
            return refused(404, f"the node {letter.to!r} does not report")
        if not service.courier.post(letter):
            return refused(503, f"{letter.to} has not fetched its mail for long")
        return Response(status_code=204)

    @router.post("/{node}/report")
    def report(node: str, told: AgentReport) -> ReportReply:
        return service.inbox.report(node, told)

    @router.get("/{node}/inbox", response_model_exclude_defaults=True)
    async def inbox(
        node: str, after: int = 0, wait_s: Annotated[float, Query(ge=0, le=POLL_S_MAX)] = POLL_S_MAX
    ) -> InboxPage:
        return await service.courier.page(node, after, wait_s)

    @router.post("/{node}/answers", status_code=204)
    def answers(node: str, answer: Answer) -> Response:
        service.inbox.answer(node, answer)
        return Response(status_code=204)

    @router.post("/{node}/logs")
    def logs(node: str, chunk: LogChunk) -> LogReply:
        return service.inbox.log(chunk)

    return router


def _naming_versions(accents: Accents) -> type[APIRoute]:
    """Routes by which both sides say their version, and the server whom it does not understand."""

    class NamingVersions(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                node, theirs = request.path_params.get("node", ""), request.headers.get(versions.HEADER, "")
                try:
                    response = await handle(request)
                    accents.heard(node, self.path, theirs)
                except RequestValidationError as error:
                    faults = versions.faults(error.errors())
                    words = await asyncio.to_thread(accents.puzzled, node, self.path, theirs, faults)
                    response = refused(422, words, versions.remedy(node))
                response.headers[versions.HEADER] = versions.VERSION
                return response

            return answer

    return NamingVersions
