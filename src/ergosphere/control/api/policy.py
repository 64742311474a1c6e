"""Routes of the judgement: projects, promised against delivered, services."""

from __future__ import annotations

from fastapi import APIRouter

from ergosphere.control import quotas
from ergosphere.control.loads import Loads
from ergosphere.control.service import Service
from ergosphere.wire.policy import LoadReport, ProjectInfo, ProjectTree, ScaleRequest, ScaleResult, SlaReport


def routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["policy"])
    ledger, loads = service.ledger, Loads(service.ledger)

    @router.get("/projects")
    def projects() -> list[ProjectInfo]:
        return quotas.projects(ledger, service.rules)

    @router.put("/projects")
    def set_projects(tree: ProjectTree) -> list[ProjectInfo]:
        quotas.set_projects(ledger, tree)
        return quotas.projects(ledger, service.rules)

    @router.get("/sla")
    def sla(since_s: float = 0.0) -> SlaReport:
        return quotas.sla(ledger, since_s)

    @router.post("/services/{name}/scale")
    def scale(name: str, wish: ScaleRequest) -> ScaleResult:
        return quotas.scale(ledger, name, wish.replicas)

    @router.post("/services/{name}/load")
    def load(name: str, told: LoadReport) -> ScaleResult:
        return loads.told(name, told)

    return router
