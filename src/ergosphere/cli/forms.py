"""Flags and arguments that several commands share, and the forms in which answers are printed."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ergosphere.cli import screen
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.words import span_s

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")


class Form(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Form, typer.Option("--output", "-o", help="Form of the answer.", show_default=False)]
Job = Annotated[str, typer.Argument(metavar="JOB", help="A job's id or name.", show_default=False)]
Node = Annotated[str, typer.Argument(metavar="NODE", help="A node's id.", show_default=False)]
Limit = Annotated[int | None, typer.Option("--limit", "--tail", metavar="N", min=0, help="Only the newest N.")]
Since = Annotated[str | None, typer.Option("--since", metavar="SPAN", help="Not older than that: 30m, 2h, 1d …")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Keep looking, once a second.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Ask and return; do not wait until it is done.")]


def answer(form: Form, value: Callable[[], Any], view: Callable[[], RenderableType]) -> None:
    """Print an answer: for machines its whole value, for people its view."""
    match form:
        case Form.JSON:
            screen.show_json(value())
        case Form.YAML:
            screen.show_yaml(value())
        case Form.TABLE | Form.WIDE:
            screen.show(view())


def next_steps(form: Form, text: str) -> None:
    """What to do next; machines are not told."""
    if form in (Form.TABLE, Form.WIDE) and text:
        screen.hint(text)


def newest(found: tuple[T, ...], limit: int | None) -> tuple[T, ...]:
    """The last `limit` of what is in the order of time; all of it without."""
    return found if limit is None else found[max(0, len(found) - limit) :]


def since_s(span: str | None, now_s: float) -> float:
    """The moment from which on `--since` wants to see; 0 without. Raises CliError (USAGE)."""
    try:
        return 0.0 if span is None else now_s - span_s(span)
    except ValueError as fault:
        raise CliError(f"--since: {fault}", "", ExitCode.USAGE) from None
