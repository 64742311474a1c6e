"""The HTTP API as one application: guard, routes, errors."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from ergosphere.control.api import agents, files, fleet, jobs, policy, problems, snapshots, verbs
from ergosphere.control.api.guard import LOOPBACK, Guard
from ergosphere.control.service import Service


def build(service: Service, token: str, host: str) -> ASGIApp:
    """The application. /openapi.json is there (with the token); there is no page that would load foreign scripts."""
    app = FastAPI(title="Ergosphere", version="1", docs_url=None, redoc_url=None)
    problems.install(app)
    for room in (jobs, verbs, snapshots, fleet, policy, files, agents):
        app.include_router(room.routes(service))
    return Guard(app, token, LOOPBACK | {host})
