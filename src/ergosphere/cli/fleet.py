"""Commands about nodes and the service as a whole: nodes, drain, undrain, status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from ergosphere.cli import screen, watching
from ergosphere.cli.desk import desk
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.forms import Form, Node, NoWait, Output, Watch, answer, next_steps
from ergosphere.cli.words import span_s

if TYPE_CHECKING:
    from ergosphere.cli.api import Client
    from ergosphere.wire.api import NodeVerbResult

DRAIN_WAIT_S: Final = 600.0
Within = Annotated[str | None, typer.Option("--within", metavar="SPAN", help="It will be gone then: 120s, 1h …")]


def status(form: Output = Form.TABLE) -> None:
    """The service at a glance."""
    from ergosphere.cli import asking
    from ergosphere.cli.views import status_view

    here = desk()
    with here.client() as client:
        found = asking.status(client)
        url = client.door.url
    answer(form, lambda: {"url": url, **found.model_dump(mode="json")}, lambda: status_view(found, url))
    next_steps(form, "the queue: ergo ps   the nodes: ergo nodes")


def nodes(watch: Watch = False, form: Output = Form.TABLE) -> None:
    """Every node: its devices and who sits on them."""
    from ergosphere.cli import asking
    from ergosphere.cli.jobs import dumped
    from ergosphere.cli.views import nodes_view

    here = desk()
    with here.client() as client:
        if watch and form is Form.TABLE:
            watching.watch(here.clock, lambda width: nodes_view(asking.nodes(client), _names(client), width))
        found = asking.nodes(client)
        names = _names(client) if form in (Form.TABLE, Form.WIDE) else {}
    width = screen.width() if form is Form.TABLE else screen.WIDE
    answer(form, lambda: dumped(found), lambda: nodes_view(found, names, width))
    next_steps(form, "empty one without losing a step: ergo drain NODE")


def _names(client: Client) -> dict[str, str]:
    """Live jobs' names by their ids."""
    from ergosphere.cli import asking

    return {job.id: job.name for job in asking.jobs(client)}


def drain(node: Node, no_wait: NoWait = False, within: Within = None, form: Output = Form.TABLE) -> int:
    """Move every job off a node and start none there until `ergo undrain`."""
    within_s = None if within is None else _span(within)
    result = _node_verb(node, "drain", 0.0 if no_wait else within_s or DRAIN_WAIT_S, form, within_s)
    far = "" if result.done else "how far it is: ergo nodes   "
    next_steps(form, f"{far}take it back: ergo undrain {node}")
    return ExitCode.OK if result.done or no_wait else ExitCode.FAILED


def undrain(node: Node, form: Output = Form.TABLE) -> None:
    """Let a drained node have jobs again."""
    _node_verb(node, "undrain", 0.0, form)
    next_steps(form, "the nodes: ergo nodes")


def _span(text: str) -> float:
    try:
        return span_s(text)
    except ValueError as fault:
        raise CliError(f"--within: {fault}", "", ExitCode.USAGE) from None


def _node_verb(node: str, name: str, wait_s: float, form: Form, within_s: float | None = None) -> NodeVerbResult:
    from rich.text import Text

    from ergosphere.cli import asking
    from ergosphere.cli.jobs import waiting_aloud
    from ergosphere.cli.safe import safe_line

    here = desk()
    with here.client() as client, waiting_aloud(here, f"{name} {node}", lambda own: _still_there(own, node), form):
        result = asking.node_verb(client, node, name, min(wait_s, DRAIN_WAIT_S), within_s)
    left = f"; still there: {', '.join(result.jobs)}" if result.jobs else ""
    tick = ("✓ ", "green") if result.done else ("… ", "yellow")
    words = Text.assemble(tick, safe_line(result.text or f"{name} {node}{left}"))
    answer(form, lambda: result.model_dump(mode="json"), lambda: words)
    return result


def _still_there(client: Client, node: str) -> str:
    from ergosphere.cli import asking
    from ergosphere.cli.safe import safe_line

    left = [job for job in asking.jobs(client) if node in job.nodes]
    named = (f"{job.name} is {job.phase}" + f" ({safe_line(job.reason)})" * bool(job.reason) for job in left)
    return f"still there: {', '.join(named)}" if left else "nobody is left"
