"""Commands about the judgement: promised against delivered, projects and their quotas, services."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from ergosphere.cli import screen
from ergosphere.cli.columns import Cell, Column, Row, table
from ergosphere.cli.desk import desk
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.forms import Form, Output, answer, next_steps
from ergosphere.cli.safe import safe_line
from ergosphere.cli.words import span_s

if TYPE_CHECKING:
    from rich.text import Text

report = typer.Typer(help="Reports about the whole fleet.", no_args_is_help=True)

_TIERS: Final = (
    Column("TIER"),
    Column("PROMISE", right=True),
    Column("JOBS", 3, right=True),
    Column("JOB-HOURS", 2, right=True),
    Column("FRACTION", right=True),
    Column("KEPT", right=True),
    Column("DEFICIT", right=True),
    Column("P1", 4, right=True),
    Column("P5", 5, right=True),
    Column("LONGEST MISS", 6, right=True),
)
_PROJECTS: Final = (
    Column("PROJECT"),
    Column("BELOW", 3),
    Column("WEIGHT", 4, right=True),
    Column("GUARANTEE", right=True),
    Column("LIMIT", right=True),
    Column("BORROWS", 5),
    Column("USED", right=True),
    Column("BORROWED", right=True),
    Column("WAITING", 2, right=True),
)


@report.command("sla")
def sla(
    since: Annotated[str | None, typer.Option("--since", metavar="SPAN", help="Only the last 24h, 7d …")] = None,
    form: Output = Form.TABLE,
) -> None:
    """What each tier was promised and what it was given, hour by hour."""
    here = desk()
    begin_s = 0.0 if since is None else here.clock.now() - _span(since)
    with here.client() as client:
        found = client.get("/v1/sla", {"since_s": begin_s})
    width = screen.width() if form is Form.TABLE else screen.WIDE
    answer(form, lambda: found, lambda: _sla_view(found, width))
    next_steps(form, "why a job waits: ergo explain JOB   the projects: ergo projects")


def _span(text: str) -> float:
    try:
        return span_s(text)
    except ValueError as fault:
        raise CliError(f"--since: {fault}", "", ExitCode.USAGE) from None


def _sla_view(found: Mapping[str, Any], width: int) -> Text:
    view = table(_TIERS, [_tier_row(tier) for tier in found["tiers"]], width)
    load = found["guaranteed_load"]
    view.append(f"\npromised to live jobs: {load:.0%} of the devices there are", "yellow" if load > 1 else "dim")
    return view


def _tier_row(tier: Mapping[str, Any]) -> Row:
    idle = tier["job_hours"] == 0
    kept = tier["attainment"]
    style = "" if idle or not tier["promise"] else "green" if kept >= 0.999 else "yellow" if kept >= 0.99 else "red"
    cells = (
        Cell(tier["tier"], "bold"),
        Cell(f"{tier['promise']:.0%}" if tier["promise"] else "-"),
        Cell(str(tier["jobs"])),
        Cell(f"{tier['job_hours']:.2f}"),
        Cell("-" if idle else f"{tier['fraction']:.1%}"),
        Cell("-" if idle or not tier["promise"] else f"{kept:.2%}", style),
        Cell(f"{tier['deficit_device_h']:.2f} h"),
        Cell("-" if idle else f"{tier['p1']:.1%}"),
        Cell("-" if idle else f"{tier['p5']:.1%}"),
        Cell(f"{tier['longest_missed_h']:.1f} h"),
    )
    lost = ", ".join(f"{cause} {hours:.2f}" for cause, hours in tier["lost_device_h"].items() if hours >= 0.005)
    return Row(cells, f"device-hours not given: {lost}" if lost else "")


def projects(
    file: Annotated[
        Path | None, typer.Option("--set", metavar="FILE", help="Replace the tree by this YAML file's.")
    ] = None,
    form: Output = Form.TABLE,
) -> None:
    """Projects: what each is guaranteed and limited to, uses, borrows and waits for."""
    tree = None if file is None else read_projects(file)
    with desk().client() as client:
        found = client.get("/v1/projects") if tree is None else client.put("/v1/projects", {"projects": tree})
    width = screen.width() if form is Form.TABLE else screen.WIDE
    answer(form, lambda: found, lambda: table(_PROJECTS, [_project_row(one) for one in found], width))
    next_steps(form, "change them: ergo projects --set FILE   who got what: ergo report sla")


def _project_row(one: Mapping[str, Any]) -> Row:
    cells = (
        Cell(safe_line(one["id"]), "bold" if one["declared"] else "dim"),
        Cell(safe_line(one["parent"]) or "-", "dim"),
        Cell(f"{one['weight']:g}"),
        Cell("-" if one["guarantee"] is None else str(one["guarantee"])),
        Cell("-" if one["limit"] is None else str(one["limit"])),
        Cell("yes" if one["borrow"] else "no"),
        Cell(str(one["used"])),
        Cell(str(one["borrowed"]), "yellow" if one["borrowed"] else "dim"),
        Cell(str(one["waiting"]), "" if one["waiting"] else "dim"),
    )
    return Row(cells)


def scale(
    service: Annotated[str, typer.Argument(metavar="SERVICE")],
    replicas: Annotated[int, typer.Argument(min=0)],
    form: Output = Form.TABLE,
) -> None:
    """Want so many replicas of a service; training yields to them and takes back what they leave."""
    from rich.text import Text

    with desk().client() as client:
        found = client.post(f"/v1/services/{quote(service, safe='')}/scale", f'{{"replicas": {replicas}}}')
    answer(form, lambda: found, lambda: Text(safe_line(found["text"])))
    next_steps(form, "who runs: ergo ps")


_SAME: Final = {"quota": "guarantee", "projects": "children"}  # as fleet files of the simulator have it
_KEYS: Final = frozenset({"name", "parent", "weight", "guarantee", "limit", "borrow", "children", *_SAME})
_EXAMPLE: Final = "write `lab: {guarantee: 8}`"


def read_projects(path: Path) -> list[dict[str, Any]]:
    """The tree of a YAML file: a mapping of names to `weight guarantee limit borrow children`.

    Raises CliError (USAGE) that names the line of what cannot be meant, or contradicts itself.
    """
    import yaml

    try:
        node = yaml.compose(path.read_text("utf-8-sig"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as fault:
        raise CliError(f"{path} cannot be read: {fault}", "", ExitCode.USAGE) from None
    except yaml.YAMLError as fault:
        raise CliError(f"{path} is no YAML: {' '.join(str(fault).split())}", "", ExitCode.USAGE) from None
    if node is None:
        return []
    read = [*_below(path.name, node, "", 0)]
    _check(path.name, read)
    return [project for _, project in read]


def _check(name: str, read: list[tuple[Any, dict[str, Any]]]) -> None:
    """What the server would refuse, said with its line."""
    from ergosphere.core.model import ProjectView
    from ergosphere.core.policy.quota import QuotaTrouble, check

    try:
        check([ProjectView(**project) for _, project in read])
    except QuotaTrouble as trouble:
        nodes = [node for node, project in read if project["id"] == trouble.project]
        cause, _, remedy = str(trouble).rpartition("; ")
        if not nodes:
            raise CliError(f"{name}: {cause}", remedy, ExitCode.USAGE) from None
        raise _wrong(name, nodes[-1], cause, remedy) from None


def _below(name: str, node: Any, parent: str, depth: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each project with the node that names it: of a mapping of names, or of a list of settings with names."""
    import yaml

    from ergosphere.core.policy.quota import DEPTH_MAX

    if depth > DEPTH_MAX:
        raise _wrong(name, node, f"more than {DEPTH_MAX} levels of projects", "does an alias contain itself?")
    for key, value in _named(name, node):
        project: dict[str, Any] = {"id": _name(name, key), "parent": parent}
        children = _settings(name, value, project)
        yield key, project
        if children is not None and not (isinstance(children, yaml.ScalarNode) and children.value in ("", "~", "null")):
            yield from _below(name, children, project["id"], depth + 1)


def _named(name: str, node: Any) -> list[tuple[Any, Any]]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        _once(name, node)
        return list(node.value)
    if not isinstance(node, yaml.SequenceNode):
        raise _wrong(name, node, "projects are a mapping of names", _EXAMPLE)
    found = []
    for one in node.value:
        if not isinstance(one, yaml.MappingNode):
            raise _wrong(name, one, "projects are a mapping of names", _EXAMPLE)
        names = [value for key, value in one.value if key.value == "name"]
        if not names:
            raise _wrong(name, one, "the project has no name", "write `- {name: lab, guarantee: 8}`")
        found.append((names[0], one))
    return found


def _name(name: str, node: Any) -> str:
    import re

    from ergosphere.wire.jobs import NAME_PATTERN

    word = str(node.value) if isinstance(node.value, str) else ""
    if not re.match(NAME_PATTERN, word):
        cause = f"{safe_line(word)!r} cannot be the name of a project"
        raise _wrong(name, node, cause, "letters, digits and ._- after a letter or digit, 63 at most")
    return word


def _once(name: str, node: Any) -> None:
    """A key that is there twice would silently win over the first."""
    seen: dict[str, int] = {}
    for key, _ in node.value:
        word = _SAME.get(str(key.value), str(key.value))
        if word in seen:
            raise _wrong(name, key, f"{key.value} is there twice, first on line {seen[word]}", "keep one of them")
        seen[word] = key.start_mark.line + 1


def _settings(name: str, node: Any, project: dict[str, Any]) -> Any:
    """Reads a project's settings into `project`; gives the node of its children."""
    import yaml

    if isinstance(node, yaml.ScalarNode) and node.value in ("", "~", "null"):
        return None
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(name, node, f"project {project['id']} must be a mapping", _EXAMPLE)
    _once(name, node)
    children = None
    for key, value in node.value:
        if key.value not in _KEYS:
            raise _wrong(name, key, f"unknown key {key.value!r}", f"the keys are {', '.join(sorted(_KEYS))}")
        word = _SAME.get(key.value, key.value)
        if word == "children":
            children = value
        elif word != "name":
            project[word] = _setting(name, word, value)
    return children


def _setting(name: str, key: str, node: Any) -> Any:
    import yaml

    value = yaml.safe_load(yaml.serialize(node))
    if value is None and key in ("guarantee", "limit"):
        return None
    kinds: dict[str, tuple[type, ...]] = {"weight": (int, float), "borrow": (bool,), "parent": (str,)}
    wanted = kinds.get(key, (int,))
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        what = {"weight": "a number", "borrow": "true or false", "parent": "a name"}.get(key, "a number of devices")
        raise _wrong(name, node, f"{key} is {value!r}, not {what}", _EXAMPLE)
    return value


def _wrong(name: str, node: Any, cause: str, remedy: str) -> CliError:
    return CliError(f"{name}, line {node.start_mark.line + 1}: {cause}", remedy, ExitCode.USAGE)
