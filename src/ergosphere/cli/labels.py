"""`ergo label`: what a node is. The policy goes by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ergosphere.cli.desk import desk
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.forms import Form, Node, Output, answer, next_steps

if TYPE_CHECKING:
    from ergosphere.wire.api import NodeLabels


def label(
    node: Node,
    region: Annotated[str | None, typer.Option("--region", help='As jobs name it; "" takes it away.')] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="Nodes that a gang does not leave.")] = None,
    domain: Annotated[str | None, typer.Option("--domain", help="Nodes that are close to each other.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Of its devices, as jobs name it: H100 …")] = None,
    gib: Annotated[float | None, typer.Option("--device-gib", min=0, help="Memory of one device.")] = None,
    spot: Annotated[bool | None, typer.Option("--spot/--no-spot", help="It may be taken away at short notice.")] = None,
    form: Output = Form.TABLE,
) -> None:
    """Say what a node is: where it stands, and what its devices are."""
    from rich.text import Text

    from ergosphere.cli import asking
    from ergosphere.cli.safe import safe_line

    said = {"region": region, "cluster": cluster, "domain": domain, "type": kind, "device_gib": gib}
    with desk().client() as client:
        found = asking.label_node(client, node, _labels({**said, "spot": spot}))
    told = ((name, getattr(found, name)) for name in said)
    words = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in told if value]
    words += ["spot"] if found.spot else []
    line = f"{found.id}: {', '.join(words) or 'no labels'}"
    answer(form, lambda: found.model_dump(mode="json"), lambda: Text(safe_line(line)))
    next_steps(form, "the nodes: ergo nodes   jobs ask for them with `types`, `regions` and `data` in their YAML")


def _labels(said: dict[str, object]) -> NodeLabels:
    from pydantic import ValidationError

    from ergosphere.wire.api import NodeLabels

    try:
        return NodeLabels.model_validate(said)
    except ValidationError as fault:
        name = fault.errors()[0]["loc"][0]
        remedy = "letters, digits, dots, dashes and underscores, 63 at most"
        raise CliError(f"--{name}: {said[str(name)]!r} is no label", remedy, ExitCode.USAGE) from None
