"""Commands that work on this machine itself: up, down, setup, check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ergosphere.cli import screen
from ergosphere.cli.desk import Desk, desk
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.forms import Form, Output, answer, next_steps

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from ergosphere.agent.check import Check
    from ergosphere.agent.provision import CriuTool
    from ergosphere.cli.service import Up
    from ergosphere.wire.api import StatusInfo

NODES: Final = 2  # enough to show a move
DEVICES: Final = 2
PAUSE_S_MAX: Final = 120.0  # how long `down` lets jobs take to freeze


def up(
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, max=64, help="Nodes: as before, else 2.")] = None,
    devices: Annotated[int | None, typer.Option("--devices", min=1, max=64, help="Of each: as before, else 2.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: the one it had, else any free one.")] = 0,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="Where snapshots go: a folder, s3://…, gs://…, az://…; or home."),
    ] = None,
    store_key: Annotated[
        str | None, typer.Option("--store-key", metavar="FILE", help="Its key; a new one in the home without.")
    ] = None,
    store_plain: Annotated[
        bool | None, typer.Option("--store-plain/--store-encrypted", help="A shared store is encrypted by default.")
    ] = None,
    upload_limit: Annotated[
        str | None, typer.Option("--upload-limit", metavar="BYTES", help="A second, of each node: 50MB; or none.")
    ] = None,
    image_memory: Annotated[
        str | None, typer.Option("--image-memory", metavar="BYTES", help="For images on each node: 8GB; or none.")
    ] = None,
    form: Output = Form.TABLE,
) -> None:
    """Start the service on this machine and return; does nothing when it is up."""
    from ergosphere.cli import service
    from ergosphere.cli.store_choice import StoreSaid, choose

    here = desk()
    if not service.is_root():
        raise CliError(
            "the service needs root: namespaces, the freezer and CRIU", "run `sudo ergo up`", ExitCode.DENIED
        )
    service.home_is_usable(here.home)
    _provision(here)
    said = StoreSaid(store, store_key, store_plain, upload_limit, image_memory)
    if said.anything and service.is_answering(here):
        raise CliError("the service is up: its store is chosen when it starts", "`ergo down` first", ExitCode.REFUSED)
    chosen = choose(here.home, said, here.environment, here.folder) if said.anything else None
    before = service.wanted_before(here.home)
    nodes_now = nodes or (before.nodes if before else NODES)
    devices_now = devices or (before.devices if before else DEVICES)
    found = service.bring_up(here, service.Wanted(nodes_now, devices_now, port))
    value = {"url": found.url, "token": found.token, "started": found.started, **found.status.model_dump(mode="json")}
    answer(form, lambda: value, lambda: _up_view(found))
    for text in chosen.notes if chosen else ():
        screen.note(text)
    if not found.started and (nodes or devices):
        screen.note("it keeps the nodes and devices it has; other numbers take `ergo down` first")
    next_steps(form, "next: ergo run -- python train.py   the queue: ergo ps   stop: ergo down")


def _size(status: StatusInfo) -> str:
    from ergosphere.cli.words import plural

    devices = plural(status.devices // max(1, status.nodes), "device")
    return f"{plural(status.nodes_ready, 'node')}, {devices}{' each' if status.nodes_ready != 1 else ''}"


def _up_view(found: Up) -> Group:
    from rich.console import Group
    from rich.text import Text

    from ergosphere.cli.facts import Fact

    status = found.status
    state = "is up" if found.started else "was up already"
    lines: list[RenderableType] = [
        Text.assemble(("ergosphere", "bold"), (f" {state}", "green"), f": {_size(status)}"),
        Fact("url", found.url),
        Fact("token", found.token),
        Fact("home", status.home),
    ]
    return Group(*lines)


def down(
    kill: Annotated[bool, typer.Option("--kill", help="Freeze nothing: jobs go on from their last snapshot.")] = False,
    form: Output = Form.TABLE,
) -> None:
    """Freeze what runs and stop the service; `ergo up` lets the jobs go on."""
    from ergosphere.cli import asking, service
    from ergosphere.cli.api import Unreachable

    here = desk()
    try:
        with here.client() as client:
            result = asking.shutdown(client, kill, PAUSE_S_MAX)
    except Unreachable as fault:
        answer(form, lambda: {"stopped": False}, lambda: "the service is not running")
        next_steps(form, f"({fault.cause}) start it: ergo up")
        return
    gone = service.await_gone(here)
    answer(
        form,
        lambda: {"stopped": gone, **result.model_dump(mode="json")},
        lambda: _down_text(result.paused, result.killed),
    )
    for text in result.notes:
        screen.note(text)
    if not gone:
        raise CliError("the server said yes and still answers", "look into server/server.log", ExitCode.FAILED)
    go_on = ", and the jobs go on" if result.paused or result.killed else ""
    next_steps(form, f"start it again{go_on}: ergo up")


def _down_text(paused: tuple[str, ...], killed: tuple[str, ...]) -> str:
    from ergosphere.cli.words import plural

    parts = [f"{plural(len(paused), 'job')} frozen: {', '.join(paused)}"] * bool(paused)
    parts += [f"{plural(len(killed), 'life', 'lives')} ended: {', '.join(killed)}"] * bool(killed)
    return "ergosphere is down" + (f" ({'; '.join(parts)})" if parts else "")


def setup(form: Output = Form.TABLE) -> None:
    """Get CRIU and test it here; quick when that was done before."""
    here = desk()
    tool = _provision(here)
    value = {"version": tool.version, "origin": tool.origin, "command": list(tool.argv_prefix)}
    answer(form, lambda: value, lambda: f"CRIU {tool.version} works here ({tool.origin})")
    next_steps(form, "what else this machine can do: ergo check   start: ergo up")


def check(form: Output = Form.TABLE) -> int:
    """What this machine can do: one line each, with a remedy for what is missing."""
    from ergosphere.agent.check import checks

    found = checks(_tools(desk().home))
    value = [{"name": c.name, "ok": c.ok, "detail": c.detail, "remedy": c.remedy} for c in found]
    answer(form, lambda: value, lambda: _check_view(found))
    next_steps(form, "start the service: ergo up")
    return ExitCode.FAILED if any(c.required and c.ok is False for c in found) else ExitCode.OK


def _check_view(found: list[Check]) -> Text:
    from rich.text import Text

    widest = max(len(check.name) for check in found)
    lines = []
    for check in found:
        mark = {True: ("✓", "green"), False: ("✗", "bold red" if check.required else "yellow"), None: ("–", "dim")}[
            check.ok
        ]
        lines.append(Text.assemble(mark, (f" {check.name:<{widest}}  ", "bold"), check.detail))
        if check.ok is False and check.remedy:
            lines.append(Text.assemble(" " * (widest + 4), (f"remedy: {check.remedy}", "dim")))
    return Text("\n").join(lines)


def _provision(here: Desk) -> CriuTool:
    from ergosphere.agent import package_cache
    from ergosphere.agent.apt_fetch import ProvisionError
    from ergosphere.agent.provision import provision

    try:
        return provision(_tools(here.home), screen.say, cache=package_cache.folder())
    except ProvisionError as fault:
        raise CliError(fault.cause, fault.remedy, ExitCode.FAILED) from None


def _tools(home: Path) -> Path:
    return home / "criu"
