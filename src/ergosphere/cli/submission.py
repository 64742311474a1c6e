"""From what an owner said to what is submitted: environment, folder, ranks and limits fixed here and now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ergosphere.cli.draft import Draft
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.habits import check_signal, gpu_notes, saving_notes
from ergosphere.cli.looking import is_folder, is_there
from ergosphere.cli.program import (
    Ground,
    check_no_terminal,
    check_program,
    find_program,
    own_tools,
    unseen_arguments,
)
from ergosphere.cli.safe import safe_line
from ergosphere.cli.words import job_name, plural

if TYPE_CHECKING:
    from ergosphere.core.launcher import Launch
    from ergosphere.wire.jobs import JobSpec, Mount

ALWAYS_EXPORTED: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG")  # what a login would set
_SCRIPT_HEAD_BYTES: Final = 1024
# Keys to the service and to its store stay with the submitter.
_OURS: Final = frozenset({"ERGO_TOKEN", "ERGO_URL", "ERGO_HOME", "ERGO_KEY", "ERGO_KEY_FILE"})


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who submits, from where. `near`: the nodes are on this machine, so what is missing here is missing there."""

    environment: Mapping[str, str]
    folder: Path
    home: Path
    near: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job ready to submit but for the copy of its working directory."""

    spec: JobSpec
    notes: tuple[str, ...]


def prepare(draft: Draft, submitter: Submitter) -> Prepared:
    """Everything that is fixed at submission. Raises CliError for whatever is certain to fail."""
    if not draft.command:
        raise CliError("no command to run", "write `ergo run -- COMMAND …`, or `run:` in the file", ExitCode.USAGE)
    _check_text(draft)
    check_signal(draft.signal, draft.grace_s)
    check_no_terminal(draft.command)
    workdir = _workdir(draft.workdir, submitter)
    mounts = tuple(_mount(text, submitter.folder) for text in draft.mounts)
    env, notes = exported(draft.export, submitter.environment)
    env = {**env, **draft.env, "PWD": str(workdir)}
    _check_workdir(workdir, env.get("HOME"))
    ground = Ground(workdir, tuple(Path(m.path) for m in mounts), (submitter.home,))
    if submitter.near:
        shown = own_tools(draft.command, env, ground)
        mounts += tuple(_mount(str(path), submitter.folder) for path in shown)
        notes += tuple(f"{path} is shown to the job, read-only: it has its own /{path.parts[1]}" for path in shown)
        ground = Ground(workdir, tuple(Path(m.path) for m in mounts), (submitter.home,))
        check_program(draft.command, env.get("PATH"), ground)
        notes += unseen_arguments(draft.command, ground)
    launch = _launch(draft, env, ground)
    spec = _spec(draft, launch, env, workdir, mounts)
    notes += launch.notes + saving_notes(spec.command, spec.grace_s)
    return Prepared(spec, notes + gpu_notes(draft.gpus, spec.ranks))


def exported(export: str | None, environment: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The submitter's environment narrowed as `sbatch --export` narrows it, with notes about what cannot travel.

    `all` (the default), `none`, or `NAME,NAME=VALUE,…`; narrowed ones keep ALWAYS_EXPORTED. `all,NAME=VALUE` adds.
    """
    words = [w for w in (export or "all").split(",") if w]
    wanted: set[str] = set(ALWAYS_EXPORTED)
    values: dict[str, str] = {}
    for word in words:
        name, is_set, value = word.partition("=")
        if name.lower() == "all":
            wanted |= environment.keys()
        elif name.lower() not in ("none", "nil"):
            wanted.add(name)
            values |= {name: value} if is_set else {}
    named = {n for n in wanted if n in environment and n not in _OURS}
    kept = {n: environment[n] for n in named if _travels(n + environment[n])}
    notes = tuple(f"the variable {n!a} is not UTF-8 and was left out" for n in sorted(named - kept.keys()))
    return kept | values, notes


def _travels(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _check_text(draft: Draft) -> None:
    """Messages are UTF-8; names of files in the working directory need not be."""
    said = {
        "the command": draft.command,
        **{f"the variable {safe_line(name)}": (name, value) for name, value in draft.env.items()},
        **{f"--{flag}": tuple(filter(None, (getattr(draft, flag),))) for flag in ("name", "project")},
        "--after": draft.after,
        "--export": (draft.export or "",),
    }
    for what, words in said.items():
        odd = next((word for word in words if not _travels(word)), None)
        if odd is not None:
            remedy = "write it in UTF-8; files of the working directory may have any name"
            raise CliError(f"{what}: '{safe_line(odd)}' is not UTF-8", remedy, ExitCode.USAGE)


def _check_path(what: str, path: str) -> None:
    if not _travels(path):
        remedy = "rename it, or give it a second name: ln -s"
        raise CliError(f"{what} {safe_line(path)} has a name that is not UTF-8", remedy, ExitCode.USAGE)


def _workdir(named: str | None, submitter: Submitter) -> Path:
    workdir = Path(os.path.realpath(submitter.folder / Path(named or ".").expanduser()))
    _check_path("the working directory", str(workdir))
    if not is_folder(workdir):
        what = "not a directory" if is_there(workdir) else "not there, or in a folder that is closed to you"
        raise CliError(f"the working directory {workdir} is {what}", "name one with --workdir", ExitCode.USAGE)
    if not os.access(workdir, os.R_OK | os.X_OK):
        raise CliError(f"the working directory {workdir} cannot be read", "check its permissions", ExitCode.USAGE)
    if workdir.is_relative_to(submitter.home):
        raise CliError(f"{workdir} lies in the service's own folder", "work somewhere else", ExitCode.USAGE)
    return workdir


def _check_workdir(workdir: Path, home: str | None) -> None:
    """What no node would accept is not even scanned: a home directory, or /tmp, may be large."""
    from ergosphere.core.workdir import refusal

    refused = refusal(str(workdir), os.path.realpath(home) if home else None)
    if refused is not None:
        raise CliError(refused.error, f"{refused.remedy}, or name it with --workdir", ExitCode.USAGE)


def _mount(text: str, folder: Path) -> Mount:
    from ergosphere.wire.jobs import Mount

    path, colon, mode = text.rpartition(":")
    if not colon or "/" in mode:
        path, mode = text, "ro"
    if mode not in ("rw", "ro"):
        raise CliError(f"--mount {text}: {mode!r} is no mode", "write PATH, PATH:ro or PATH:rw", ExitCode.USAGE)
    whole = os.path.normpath(folder / Path(path).expanduser())
    _check_path("--mount: the path", whole)
    if not is_there(Path(whole)):
        raise CliError(f"--mount {text}: {whole} is not there", "create it first", ExitCode.USAGE)
    return Mount(path=whole, writable=mode == "rw")


def _launch(draft: Draft, env: Mapping[str, str], ground: Ground) -> Launch:
    from ergosphere.core.launcher import Refusal, read_command

    launch = read_command(draft.command, env, lambda program: _interpreter(program, env, ground))
    if isinstance(launch, Refusal):
        raise CliError(launch.error, launch.remedy, ExitCode.USAGE)
    if draft.ranks and launch.ranks and launch.ranks != draft.ranks:
        cause = f"--ranks {draft.ranks}, but the command itself starts {launch.ranks}"
        raise CliError(cause, "leave --ranks out", ExitCode.USAGE)
    return launch


def _interpreter(program: str, env: Mapping[str, str], ground: Ground) -> str | None:
    """The Python that a script on the submitter's PATH names in its first lines."""
    from ergosphere.core.launcher import script_interpreter

    try:
        with find_program(program, env.get("PATH"), ground.workdir).open("rb") as script:
            return script_interpreter(os.fsdecode(script.read(_SCRIPT_HEAD_BYTES)))
    except (OSError, CliError):
        return None


def _spec(draft: Draft, launch: Launch, env: dict[str, str], workdir: Path, mounts: tuple[Mount, ...]) -> JobSpec:
    from pydantic import ValidationError

    from ergosphere.wire.jobs import JobSpec

    said = {
        "project": draft.project,
        "tier": draft.tier,
        "network": draft.network,
        "threads": draft.threads,
        "snapshot_every_s": draft.snapshot_every_s,
        "max_restarts": draft.max_restarts,
        "hold_s": draft.hold_s,
        "grace_s": draft.grace_s,
        "signal": draft.signal,
        "after": draft.after or None,
        "array": draft.array or None,
        "replicas": draft.replicas,
        "deadline_s": draft.deadline_s,
        "min_devices": draft.min_devices,
        "exact": draft.exact,
        "keep_snapshots": draft.keep_snapshots,
        "types": draft.types or None,
        "regions": draft.regions or None,
        "data": draft.data,
    }
    fixed = {
        "command": launch.command,
        "name": draft.name or job_name(draft.command),
        "ranks": draft.ranks or launch.ranks or 1,
        "launcher": launch.launcher,
        "rank_env": launch.variables,
        "env": env,
        "workdir": str(workdir),
        "mounts": mounts,
    }
    ranks = fixed["ranks"]
    if draft.min_devices and isinstance(ranks, int) and draft.min_devices > ranks:
        cause = f"--min-devices {draft.min_devices} is more than its {plural(ranks, 'rank')} could use"
        raise CliError(cause, f"at most {ranks}", ExitCode.USAGE)
    try:
        return JobSpec.model_validate(fixed | {k: v for k, v in said.items() if v is not None})
    except ValidationError as fault:
        raise _invalid(fault.errors()[0]["loc"], fault.errors()[0]["msg"]) from None


_SAID_AS: Final = {
    "snapshot_every_s": "snapshot-every",
    "keep_snapshots": "keep-snapshots",
    "hold_s": "hold",
    "grace_s": "grace",
    "deadline_s": "deadline",
    "env": "env",
    "command": "command",
}
_REMEDIES: Final = {
    "name": "letters, digits, dots, dashes and underscores, 63 at most",
    "tier": "premium, standard or basic",
    "network": "private, host or none",
    "ranks": "a whole number from 1",
    "exact": "auto, on or off",
    "signal": "TERM, INT, HUP, QUIT, USR1 or USR2",
}


def _invalid(where: tuple[int | str, ...], message: str) -> CliError:
    field = str(where[0]) if where else "job"
    flag = _SAID_AS.get(field, field.replace("_", "-"))
    return CliError(f"--{flag}: {message[0].lower()}{message[1:]}", _REMEDIES.get(field, ""), ExitCode.USAGE)
