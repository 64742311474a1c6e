"""Every command with its name and its place in the help. The commands live beside; nothing is decided here."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ergosphere.cli import fetching, fleet, jobs, labels, output, policy, setting_up, simulating, snapshots, starting
from ergosphere.cli.verifying import command as verify

_START: Final = "Start"
_LOOK: Final = "Look"
_CHANGE: Final = "Change"
_FLEET: Final = "Fleet"
_OWN_FLAGS_FIRST: Final = {"allow_interspersed_args": False}  # what follows the command's first word is the job's

app = typer.Typer(
    name="ergo",
    help="Every job preemptible, movable and recoverable, without a change to its code, bit for bit.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"ergo {version('ergosphere')}")
        except PackageNotFoundError:
            typer.echo("ergo, run from its sources")
        raise typer.Exit


@app.callback()
def ergo(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Options that come before the command."""


def _command(panel: str, function: object, name: str | None = None, **more: object) -> None:
    app.command(name, rich_help_panel=panel, **more)(function)  # type: ignore[type-var, arg-type]


_command(_START, starting.start, "run", help=starting.RUN_HELP, context_settings=_OWN_FLAGS_FIRST)
_command(_START, starting.start, "submit", help=starting.SUBMIT_HELP, context_settings=_OWN_FLAGS_FIRST)
_command(_START, verify.verify, help=verify.HELP, context_settings=_OWN_FLAGS_FIRST)
_command(_LOOK, jobs.ps)
_command(_LOOK, jobs.ps, "queue", hidden=True)
_command(_LOOK, jobs.show)
_command(_LOOK, output.logs)
_command(_LOOK, jobs.explain)
_command(_LOOK, jobs.events)
_command(_LOOK, fetching.fetch)
_command(_LOOK, simulating.eta)
_command(_CHANGE, jobs.pause)
_command(_CHANGE, jobs.resume)
_command(_CHANGE, jobs.migrate)
_command(_CHANGE, jobs.resize)
app.add_typer(snapshots.app, name="snapshot", rich_help_panel=_CHANGE)
_command(_CHANGE, jobs.cancel)
_command(_FLEET, setting_up.up)
_command(_FLEET, setting_up.down)
_command(_FLEET, fleet.status)
_command(_FLEET, fleet.nodes)
_command(_FLEET, fleet.drain)
_command(_FLEET, fleet.undrain)
_command(_FLEET, labels.label)
_command(_FLEET, simulating.sim)
_command(_FLEET, simulating.whatif)
_command(_FLEET, policy.projects)
_command(_FLEET, policy.scale)
app.add_typer(policy.report, name="report", rich_help_panel=_FLEET)
_command(_FLEET, setting_up.setup)
_command(_FLEET, setting_up.check)
