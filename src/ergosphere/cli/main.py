"""The command `ergo`: runs what was typed, and is the one door where a no becomes words and an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Sequence
from typing import Final

import typer

from ergosphere.cli.errors import CliError, ExitCode, print_error
from ergosphere.cli.words import did_you_mean


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (the table is `errors.ExitCode`)."""
    from ergosphere.cli.app import app

    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = typer.main.get_command(app)(words, prog_name="ergo", standalone_mode=False)
        sys.stdout.flush()
        return int(code or ExitCode.OK)
    except CliError as fault:
        print_error(fault.cause, fault.remedy)
        return fault.code
    except typer.TyperException as fault:
        return _misuse(fault)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\n")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: what is buffered may go
        return ExitCode.OK
    except Exception as fault:
        return _ours(fault)


# What jobs of other systems are given, in our words.
_OURS: Final = {
    "--devices": "each rank gets a device: --ranks N, or torchrun's --nproc-per-node; "
    "--min-devices M lets it begin on fewer"
}


def _misuse(fault: typer.TyperException) -> int:
    """An unknown flag, command or value, with the nearest valid one."""
    context = getattr(fault, "ctx", None)
    where = context.command_path if context else "ergo"
    help_hint = f"`{where} --help` lists what there is"
    flag = getattr(fault, "option_name", None)
    if flag and hasattr(fault, "possibilities"):
        known = _flags(context)
        foreign = _OURS.get(flag, "") if "--ranks" in known else ""
        print_error(f"unknown flag {flag}", foreign or did_you_mean(flag, known, help_hint))
    elif fault.message.startswith("No such command") and context:
        typed = fault.message.split("'")[1]
        from ergosphere.cli.habits import command_of

        known = "" if context.parent else command_of(typed)
        meant = f"here it is `{known}`" if known else did_you_mean(typed, context.command.commands, help_hint)
        print_error(f"unknown command {typed}", meant)
    elif fault.__class__.__name__ == "NoArgsIsHelpError":
        sys.stdout.write(fault.message + "\n" if fault.message else "")
    else:
        text = fault.format_message().rstrip(".").replace("\n\t", " ").replace("Value error, ", "")
        print_error(text[:1].lower() + text[1:], help_hint)
    return ExitCode.USAGE


def _ours(fault: Exception) -> int:
    """What nobody foresaw: one line, and where its details are."""
    from ergosphere.cli.safe import safe_line

    told = safe_line(f"ergo itself failed: {type(fault).__name__}: {fault}".rstrip(": "))
    print_error(told, f"{_kept(fault)}; this is a bug: please report it with them")
    return ExitCode.OURS


def _kept(fault: Exception) -> str:
    """The details in a file that only we can read; where that cannot be, on standard error."""
    details = "".join(traceback.format_exception(fault)).encode("utf-8", "backslashreplace")
    try:
        file, name = tempfile.mkstemp(prefix="ergo-failed-", suffix=".log")
        with os.fdopen(file, "wb") as log:
            log.write(details)
    except OSError:
        sys.stderr.write(details.decode())
        return "the details are above"
    return f"the details are in {name}"


def _flags(context: typer.Context | None) -> Iterable[str]:
    parameters = context.command.params if context else []
    return [
        name
        for p in parameters
        if not getattr(p, "hidden", False)
        for name in (*p.opts, *p.secondary_opts)
        if name.startswith("-")
    ]


if __name__ == "__main__":
    sys.exit(main())
