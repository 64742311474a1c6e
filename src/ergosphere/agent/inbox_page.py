"""What the server has for an agent, read piece by piece: one that is not understood must not hide the others."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from ergosphere.wire import versions
from ergosphere.wire.agents import Answer, Mail, Order
from ergosphere.wire.jobs import Told

log = logging.getLogger(__name__)
_ORDER: Final[TypeAdapter[Order]] = TypeAdapter(Order)


class _Name(Told):
    """All of an order that is needed to refuse it."""

    class Life(Told):
        job: str
        incarnation: int

    kind: str
    order_id: str
    life: Life


class _Pieces(Told):
    """A page whose pieces have not been read yet."""

    seq: int
    orders: tuple[Any, ...] = ()
    mail: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Strange:
    """An order that says something this agent does not know: refused, for nothing may be obeyed by half."""

    kind: str
    answer: Answer  # nothing was changed, and nothing is wrong with the job


@dataclass(frozen=True, slots=True)
class Page:
    """An inbox's page (`wire.agents.InboxPage`), and the orders on it that are not understood."""

    seq: int
    orders: tuple[Order, ...] = ()
    mail: tuple[Mail, ...] = ()
    strange: tuple[Strange, ...] = ()


def read_page(content: bytes, node: str, theirs: str) -> Page:
    """The page, by a server of version `theirs`. Raises ValidationError where not even its pieces can be told apart."""
    pieces = _Pieces.model_validate(from_json(content))
    orders: list[Order] = []
    strange: list[Strange] = []
    for piece in pieces.orders:
        try:
            orders.append(_ORDER.validate_python(piece))
        except ValidationError as error:
            strange.append(_strange(_Name.model_validate(piece), error, node, theirs))
    mail = tuple(letter for piece in pieces.mail if (letter := _letter(piece)) is not None)
    return Page(pieces.seq, tuple(orders), mail, tuple(strange))


def _strange(name: _Name, error: ValidationError, node: str, theirs: str) -> Strange:
    words = (
        f"the agent of {node} (version {versions.VERSION}) does not understand the order to {name.kind} of the server "
        f"({versions.named(theirs)}): {versions.faults(error.errors())}"
    )
    answer = Answer(
        order_id=name.order_id,
        job=name.life.job,
        incarnation=name.life.incarnation,
        ok=False,
        error=words,
        remedy=versions.remedy(node),
        transient=True,
    )
    return Strange(name.kind, answer)


def _letter(piece: Any) -> Mail | None:
    """Whoever sent what cannot be read asks again, or hears nothing."""
    try:
        return Mail.model_validate(piece)
    except ValidationError as error:
        log.error(
            "mail is not understood by this agent (version %s): %s", versions.VERSION, versions.faults(error.errors())
        )
        return None
