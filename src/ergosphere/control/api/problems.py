"""Every failure as a `Problem`: cause first, remedy second; a wrong field is named, with the nearest valid one."""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ergosphere.control.api.guard import refused
from ergosphere.control.bell import Ending
from ergosphere.control.find import Ambiguous, NotFound
from ergosphere.control.inbox import Refused
from ergosphere.control.submit import TooLarge
from ergosphere.control.verbs import Conflict
from ergosphere.core.suggest import unknown
from ergosphere.snapshots.errors import BadKeyFile, Damaged, MissingKey, NotRemote, SnapshotError, TooNew, WrongKey
from ergosphere.snapshots.errors import NotFound as BlobNotFound
from ergosphere.snapshots.errors import Refused as SnapshotRefused

log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Answers for everything that routes raise."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)
    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, _answering(status))


_STATUS: dict[type[Exception], int] = {
    NotFound: 404,
    BlobNotFound: 404,
    Ambiguous: 409,
    Conflict: 409,
    TooLarge: 422,
    Refused: 422,
    Ending: 503,
    SnapshotError: 503,  # the store is away; what asking again would not change is a conflict
    Damaged: 409,
    TooNew: 409,
    NotRemote: 409,
    MissingKey: 409,
    WrongKey: 409,
    BadKeyFile: 409,
    SnapshotRefused: 409,
}


def _answering(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def answer(_request: Request, error: Exception) -> JSONResponse:
        return refused(status, getattr(error, "cause", str(error)), getattr(error, "remedy", ""))

    return answer


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}")


def _bug(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return refused(500, f"the service failed: {type(error).__name__}", "server.log has the details")


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    model = _body_model(request.scope.get("endpoint"))
    words = [_sentence(one, model) for one in error.errors()]
    return refused(422, "; ".join(dict.fromkeys(words)))


def _sentence(error: dict[str, Any], model: type[BaseModel] | None) -> str:
    place = [part for part in error["loc"] if part not in ("body", "query", "path")]
    if error["type"] == "extra_forbidden" and model is not None:
        return unknown("field", str(place[-1]), _fields_at(model, place[:-1]))
    name = ".".join(str(part) for part in place) or "the body"
    return f"{name}: {error['msg']}"


def _fields_at(model: type[BaseModel], place: Sequence[Any]) -> list[str]:
    """The fields of the (possibly nested) model that a wrong field was found in."""
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            inner = _models_in(model.model_fields[part].annotation)
            model = inner[0] if inner else model
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


def _body_model(endpoint: Any) -> type[BaseModel] | None:
    if endpoint is None:
        return None
    for annotation in typing.get_type_hints(endpoint).values():
        models = _models_in(annotation)
        if models:
            return models[0]
    return None
