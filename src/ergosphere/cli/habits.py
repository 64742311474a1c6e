"""Commands and flags that people bring from other systems, in our words: `squeue`, `--gpus TYPE:N`, `--priority high`.
Pure; no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from ergosphere.cli.errors import CliError, ExitCode

_GPUS: Final = re.compile(r"(?:([A-Za-z][\w.-]*)(?::|$))?(\d+)?")
_SIGNALS: Final = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2")  # those that a rank's init passes on
_SIGNAL: Final = re.compile(rf"(?:B:)?(?:SIG)?({'|'.join(_SIGNALS)})(?:@(\d+))?")
_SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh"})
_SEVERAL: Final = re.compile(r"[\n;&|]")  # a shell replaces itself by a single command
_COMMANDS: Final = {
    "ergo ps": "ls list get squeue qstat jobs top",
    "ergo cancel JOB": "kill delete rm stop scancel qdel terminate",
    "ergo show JOB": "describe info inspect scontrol",
    "ergo logs -f JOB": "tail attach output",
    "ergo submit -- COMMAND": "sbatch qsub launch create apply",
    "ergo run -- COMMAND": "srun start",
    "ergo pause JOB": "suspend freeze hold preempt",
    "ergo resume JOB": "thaw unpause release continue",
    "ergo migrate JOB": "move mv",
    "ergo snapshot JOB": "checkpoint save",
    "ergo drain NODE": "cordon",
    "ergo undrain NODE": "uncordon",
    "ergo nodes": "sinfo node",
    "ergo explain JOB": "why pending",
    "ergo fetch JOB": "cp download sync pull",
    "ergo setup": "init install doctor",
}
_SNAPSHOT_COMMANDS: Final = {
    "ls": "list get jobs",
    "rm": "delete del remove drop",
    "gc": "sweep prune clean",
    "fsck": "check scrub repair",
    "create": "take new save",
    "restore": "rollback roll-back revert",
    "fork": "clone branch",
    "show": "describe info inspect",
}
_PRIORITIES: Final = {"high": "premium", "normal": "standard", "low": "basic"}


def command_of(typed: str) -> str:
    """Our command for one of another system; empty where we know none."""
    return _ours(typed, _COMMANDS)


def snapshot_command_of(typed: str) -> str:
    """The same for what comes after `ergo snapshot`."""
    return _ours(typed, _SNAPSHOT_COMMANDS)


def _ours(typed: str, commands: Mapping[str, str]) -> str:
    return next((ours for ours, theirs in commands.items() if typed.lower() in theirs.split()), "")


def tier_of(tier: str | None, priority: str | None) -> str | None:
    """The tier that `--tier` or `--priority` names. Raises CliError (USAGE)."""
    if priority is None:
        return tier
    meant = priority.lower() if priority.lower() in _PRIORITIES.values() else _PRIORITIES.get(priority.lower())
    valid = ", ".join(f"{name} ({of})" for name, of in _PRIORITIES.items())
    if meant is None:
        raise CliError(f"--priority: {priority!r} is no priority", f"a priority is a tier: {valid}", ExitCode.USAGE)
    if tier not in (None, meant):
        raise CliError(f"--priority {priority} is the tier {meant}, and --tier says {tier}", "say one", ExitCode.USAGE)
    return meant


def parting_of(signal: str | None, grace_s: float | None) -> tuple[str | None, float | None]:
    """Signal and grace period from `--signal TERM`, `SIGTERM` or Slurm's `B:USR1@60`. Raises CliError (USAGE)."""
    if signal is None:
        return None, grace_s
    match = _SIGNAL.fullmatch(signal.upper())
    if match is None:
        cause = f"--signal: {signal!r} is no signal that reaches a program here"
        raise CliError(cause, f"one of {', '.join(_SIGNALS)}; NAME@60 for 60 s of grace", ExitCode.USAGE)
    told_s = float(match[2]) if match[2] else None
    if told_s is not None and grace_s not in (None, told_s):
        raise CliError(f"--signal {signal} gives {told_s:g} s, and --grace {grace_s:g} s", "say one", ExitCode.USAGE)
    return match[1], grace_s if told_s is None else told_s


def check_signal(signal: str | None, grace_s: float | None) -> None:
    """A signal is sent only to who has a grace period. Raises CliError (USAGE)."""
    if signal is not None and grace_s is None:
        cause = f"--signal {signal}: nothing is sent without a grace period"
        raise CliError(cause, "say how long the program may save itself: --grace 30s", ExitCode.USAGE)


def saving_notes(command: Sequence[str], grace_s: float | None) -> tuple[str, ...]:
    """What keeps a script from saving itself: init signals its whole process group, and a shell ends at once."""
    if grace_s is None or len(command) < 3 or command[0].rpartition("/")[2] not in _SHELLS or command[1] != "-c":
        return ()
    script = command[2]
    if not _SEVERAL.search(script) or "exec " in script or "trap " in script:
        return ()
    return ("--grace: the script's shell is signalled too, and when it ends the job ends: `exec` its last command",)


def gpu_notes(said: str | None, ranks: int) -> tuple[str, ...]:
    """What of `--gpus` the job does not ask for: its ranks ask for one device each. Raises CliError (USAGE)."""
    if said is None:
        return ()
    match = _GPUS.fullmatch(said)
    count = int(match[2] or 1) if match and said else 0
    if match is None or not count:
        raise CliError(f"--gpus: {said!r} is no number of devices", "write --gpus 4 or --gpus A100:4", ExitCode.USAGE)
    notes = []
    if match[1]:
        notes.append(f"--gpus {match[1]}: this fleet's devices have no types; any will do")
    if count != ranks:
        asks = f"every rank gets one device, so this job asks for {ranks}"
        notes.append(f"--gpus {count}: {asks}; --ranks {count} asks for {count}")
    return tuple(notes)
