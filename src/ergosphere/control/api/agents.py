"""Routes of the agents, who always call first."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from ergosphere.control.api.guard import refused
from ergosphere.control.service import Service
from ergosphere.wire.agents import AgentReport, Answer, InboxPage, LogChunk, Mail, ReportReply
from ergosphere.wire.api import LogReply

POLL_S_MAX = 10.0


def routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/agents", tags=["agents"])

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

    @router.get("/{node}/inbox")
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
