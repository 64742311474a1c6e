"""`ergo snapshot …`: snapshots as things: taken, named, listed, forked, compared, taken out and brought in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from ergosphere.cli import screen
from ergosphere.cli.desk import desk
from ergosphere.cli.draft import parse_pairs
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.forms import Form, Job, NoWait, Output, answer, next_steps
from ergosphere.cli.habits import snapshot_command_of
from ergosphere.cli.meanwhile import saying

if TYPE_CHECKING:
    from ergosphere.wire.snapshots import FsckReport, ImportRequest

WAIT_S: Final = 600.0  # as long as one request may block
HELP: Final = """Snapshots: take, list, name, roll back, fork, compare, export. `ergo snapshot JOB` takes one.

A snapshot is named JOB@SNAPSHOT: by its id, name or number, or as JOB@latest."""

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; where there is no terminal nobody is asked.")]
Snap = Annotated[str, typer.Argument(metavar="JOB@SNAPSHOT", help="Its id, name or number, or `latest`.")]


class JobFirst(TyperGroup):
    """`ergo snapshot JOB` means `ergo snapshot create JOB`, as long as the job is not called like a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and (meant := snapshot_command_of(args[0])):
            remedy = f"it is `ergo snapshot {meant}`; of a job of that name: ergo snapshot create {args[0]}"
            raise CliError(f"there is no command `ergo snapshot {args[0]}`", remedy, ExitCode.USAGE)
        if args and args[0] not in {*self.commands, "--help", "-h"}:
            args = ["create", *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(cls=JobFirst, help=HELP, no_args_is_help=True)


@app.command()
def create(
    job: Job,
    name: Annotated[str, typer.Option("--name", "-n", help="Keep it under this name until it is removed.")] = "",
    no_wait: NoWait = False,
    form: Output = Form.TABLE,
) -> None:
    """Take a snapshot now; the job goes on. Of a frozen job the newest one is given the name."""
    from ergosphere.cli.jobs import ask_verb
    from ergosphere.wire.snapshots import SnapshotRequest

    request = SnapshotRequest(name=_named(name), wait_s=0 if no_wait else WAIT_S)
    ask_verb(job, "snapshot", request, form)
    next_steps(form, f"its snapshots: ergo snapshot ls {job}")


@app.command("ls")
def list_all(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job's id or name; all jobs without.")] = None,
    form: Output = Form.TABLE,
) -> None:
    """Every snapshot that is kept: when, why, how big, and how far it has come to the shared store."""
    from ergosphere.cli import asking
    from ergosphere.cli.jobs import dumped
    from ergosphere.cli.snapshot_views import list_view, none_listed

    here = desk()
    with here.client() as client:
        found = asking.snapshots(client, job)
        names = {one.id: one.name for one in asking.jobs(client, ended=True)}
        owner = asking.job(client, job) if job and not found else None
    if not found and form in (Form.TABLE, Form.WIDE):
        said, hint = none_listed(owner)
        screen.say(said)
        screen.hint(hint)
        return
    width = screen.width() if form is Form.TABLE else screen.WIDE
    answer(form, lambda: dumped(found), lambda: list_view(found, names, here.clock.now(), width))
    next_steps(form, "one of them: ergo snapshot show JOB@SNAPSHOT")


@app.command()
def show(snapshot: Snap, form: Output = Form.TABLE) -> None:
    """What is in a snapshot by kind, how many bytes are its alone, what it needs, and which nodes can thaw it."""
    from ergosphere.cli import asking
    from ergosphere.cli.snapshot_views import detail_view

    here = desk()
    with here.client() as client:
        found = asking.snapshot(client, snapshot)
    answer(form, lambda: found.model_dump(mode="json"), lambda: detail_view(found, here.clock.now()))
    ref = f"{found.job_name}@{found.name or found.id}"
    whole = not (found.damaged or found.trouble)
    next_steps(form, f"a second job from there: ergo snapshot fork {ref} --name NAME" if whole else "")


@app.command("rm")
def remove(
    snapshot: Snap,
    yes: Yes = False,
    form: Output = Form.TABLE,
) -> None:
    """Let a snapshot go, named or not. What nothing else needs of it goes with the next sweeps."""
    from ergosphere.cli import asking

    if not yes and screen.can_ask() and not typer.confirm(f"remove {snapshot}?", err=True):
        raise CliError("not removed", "", ExitCode.FAILED)
    with desk().client() as client:
        asking.remove_snapshot(client, snapshot)
    answer(form, lambda: {"removed": snapshot}, lambda: f"{snapshot} is removed")
    next_steps(form, "its bytes go with the next sweeps: ergo snapshot gc --dry-run")


@app.command()
def restore(
    snapshot: Snap,
    yes: Yes = False,
    no_wait: NoWait = False,
    form: Output = Form.TABLE,
) -> None:
    """Roll a job back to one of its snapshots: files, memory and logs are what they were then."""
    from ergosphere.cli import asking
    from ergosphere.cli.jobs import print_verb

    question = f"roll back to {snapshot}? what came after is lost"
    if not yes and screen.can_ask() and not typer.confirm(question, err=True):
        raise CliError("not rolled back", "", ExitCode.FAILED)
    with desk().client() as client:
        result = asking.restore(client, snapshot, 0 if no_wait else WAIT_S)
    print_verb(result, form)
    next_steps(form, f"its output: ergo logs -f {result.job.id}")


@app.command()
def fork(
    snapshot: Snap,
    name: Annotated[str, typer.Option("--name", "-n", help="The second job's name.")],
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="Told to its processes; repeatable.")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Let both jobs write to what was mounted with --mount PATH:rw.")
    ] = False,
    form: Output = Form.TABLE,
) -> None:
    """Start a second job from the same instant: files and memory are its own from then on.

    Its processes run already, so -e cannot change the environment they were started with: they find it in
    /run/ergo/fork.json and /run/ergo/fork.env, and Python ranks with torch.distributed in os.environ as well.
    """
    from ergosphere.cli import asking
    from ergosphere.wire.snapshots import ForkRequest

    here = desk()
    pairs = parse_pairs(tuple(env or ()), here.environment)
    wish = _checked(ForkRequest, name=name, env=pairs, share=share, wait_s=WAIT_S)
    with here.client() as client:
        result = asking.fork(client, snapshot, wish)
    job = result.job
    answer(
        form,
        lambda: result.model_dump(mode="json"),
        lambda: f"{job.name} ({job.id}) begins where {snapshot} stood",
    )
    if form in (Form.TABLE, Form.WIDE):
        for text in result.notes:
            screen.note(text)
    next_steps(form, f"its output: ergo logs -f {job.id}   what it was given: ergo show {job.id}")


@app.command()
def diff(
    a: Snap,
    b: Snap,
    form: Output = Form.TABLE,
) -> None:
    """What changed from one snapshot to another: files, logs, and how much of the memory is the same."""
    from ergosphere.cli import asking
    from ergosphere.cli.snapshot_views import diff_view

    with desk().client() as client:
        found = asking.snapshot_diff(client, a, b)
    answer(form, lambda: found.model_dump(mode="json"), lambda: diff_view(found))
    next_steps(form, f"what is in one: ergo snapshot show {b}")


@app.command()
def export(
    snapshot: Snap,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its key; FILE.key by default.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Do not encrypt it.")] = False,
    form: Output = Form.TABLE,
) -> None:
    """Write a snapshot as one portable file. It holds the job's memory and files, secrets included."""
    from ergosphere.cli import asking
    from ergosphere.cli.words import bytes_text
    from ergosphere.wire.snapshots import ExportRequest

    here = desk()
    with here.client() as client:
        _near(client.door.local, "export")
        path = (here.folder / file).absolute()
        key_file = "" if plain else str(_key_path(here.folder, path, key))
        _check_folders(path, Path(key_file or path))
        fresh_key = Path(key_file) if key_file and not Path(key_file).exists() else None
        try:
            if fresh_key:
                _make_key(fresh_key)
            with saying(here, "writing", lambda _: _written(path)):
                found = asking.export_snapshot(client, snapshot, ExportRequest(path=str(path), key_file=key_file))
        except CliError:
            if fresh_key:  # a key of nothing
                fresh_key.unlink(missing_ok=True)
            raise
    answer(form, lambda: found.model_dump(mode="json"), lambda: f"{found.path}: {bytes_text(found.bytes)}")
    for text in (*found.contents, *([f"its key is {key_file}: keep the two apart"] if key_file else [])):
        screen.note(text)
    next_steps(form, f"on another fleet: ergo snapshot import {file} --name NAME")


@app.command("import")
def take_in(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    name: Annotated[str, typer.Option("--name", "-n", help="The job that begins with it.")],
    project: Annotated[str, typer.Option("--project", "-p", help="Its project.")] = "default",
    allow_mount: Annotated[
        list[str] | None, typer.Option("--allow-mount", metavar="PATH", help="A mount that it may have; repeatable.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its key; FILE.key by default.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="In the clear: nothing proves who wrote it.")] = False,
    form: Output = Form.TABLE,
) -> None:
    """Begin a job with a snapshot from elsewhere. For administrators: its images set user ids, capabilities, mounts."""
    from ergosphere.cli import asking, service
    from ergosphere.cli.words import bytes_text
    from ergosphere.wire.snapshots import ImportRequest

    here = desk()
    if not service.is_root():
        cause = "importing is an administrator's act: the images set user ids, capabilities and mounts"
        raise CliError(cause, "run it as root on the server's machine", ExitCode.DENIED)
    path = (here.folder / file).absolute()
    if not path.is_file():
        raise CliError(f"there is no file {path}", "check its name and folder", ExitCode.UNKNOWN)
    mounts = tuple(allow_mount or ())
    key_file = "" if plain else str(_key_path(here.folder, path, key))
    if key_file and not Path(key_file).is_file():
        cause = f"there is no key {key_file}, and {file} can be read only with the key it was exported with"
        remedy = "bring that key and name it with --key FILE; --plain, if it was exported with --plain"
        raise CliError(cause, remedy, ExitCode.UNKNOWN)
    fields = {"path": str(path), "key_file": key_file, "name": name, "project": project, "allow_mounts": mounts}
    wish: ImportRequest = _checked(ImportRequest, **fields)
    with here.client() as client:
        _near(client.door.local, "import")
        with saying(here, "reading", lambda _: f"{path.name}, {bytes_text(path.stat().st_size)}"):
            result = asking.import_snapshot(client, wish)
    job = result.job
    answer(form, lambda: result.model_dump(mode="json"), lambda: f"{job.name} ({job.id}) begins with {file}")
    for text in result.notes:
        screen.note(text)
    next_steps(form, f"why it waits: ergo explain {job.id}")


@app.command()
def fsck(
    quick: Annotated[bool, typer.Option("--quick", help="Look only whether all is there; read no content.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended; nothing good is removed.")] = False,
    form: Output = Form.TABLE,
) -> int:
    """Check the whole store: what is missing, damaged or nobody's, and which snapshots that concerns."""
    from ergosphere.cli import asking
    from ergosphere.cli.snapshot_views import fsck_view

    here = desk()
    looking = "is all there?" if quick else "is every byte what was written?"
    with here.client() as client, saying(here, "checking", lambda _: looking):
        report: FsckReport = asking.fsck(client, read=not quick, repair=repair)
    answer(form, lambda: report.model_dump(mode="json"), lambda: fsck_view(report))
    next_steps(form, "" if report.ok else "what to do: docs/operations/store-damaged.md")
    return ExitCode.OK if report.ok else ExitCode.FAILED


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    form: Output = Form.TABLE,
) -> None:
    """Remove from the store what no job needs any more; it happens by itself every quarter of an hour."""
    from ergosphere.cli import asking
    from ergosphere.cli.snapshot_views import gc_view

    here = desk()
    with here.client() as client, saying(here, "sweeping", lambda _: "what does any job still need?"):
        report = asking.gc(client, dry_run=dry_run)
    answer(form, lambda: report.model_dump(mode="json"), lambda: gc_view(report))
    next_steps(form, "what is kept: ergo snapshot ls")


def _written(path: Path) -> str:
    """How far an export has come."""
    from ergosphere.cli.words import bytes_text

    return bytes_text(path.stat().st_size) if path.exists() else ""


def _key_path(folder: Path, file: Path, key: Path | None) -> Path:
    return (folder / key).absolute() if key else file.with_name(f"{file.name}.key")


def _check_folders(*files: Path) -> None:
    for file in files:
        if not file.parent.is_dir():
            raise CliError(
                f"there is no folder {file.parent}", f"make it, or name another place than {file}", ExitCode.UNKNOWN
            )


def _make_key(path: Path) -> None:
    from ergosphere.cli.store_choice import make_key

    try:
        make_key(path, "the key of an exported snapshot; whoever has both can read it")
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}", "name another place with --key FILE") from error


def _named(name: str) -> str:
    import re

    from ergosphere.wire.snapshots import RESERVED_NAMES, SNAPSHOT_NAME_PATTERN

    if name in RESERVED_NAMES:
        cause = f"--name {name} cannot name a snapshot: JOB@{name} means the newest one, whatever it is called"
        raise CliError(cause, "give it another name", ExitCode.USAGE)
    if re.fullmatch(SNAPSHOT_NAME_PATTERN, name) is None:
        remedy = "a letter first, then letters, digits, dots, dashes and underscores; 63 at most"
        raise CliError(f"--name {name!r} cannot name a snapshot", remedy, ExitCode.USAGE)
    return name


def _checked(kind: Any, **fields: Any) -> Any:
    """The request, or the first thing that is wrong with it."""
    from pydantic import ValidationError

    try:
        return kind(**fields)
    except ValidationError as fault:
        first = fault.errors()[0]
        if first["loc"] == ("name",):
            remedy = "a letter or digit first, then letters, digits, dots, dashes and underscores; 63 at most"
            raise CliError(f"--name {first['input']!r} cannot name a job", remedy, ExitCode.USAGE) from None
        raise CliError(f"--{first['loc'][0]}: {first['msg'].lower()}", "", ExitCode.USAGE) from None


def _near(local: bool, what: str) -> None:
    if not local:
        cause = f"{what} works on the server's own machine: the file is written and read there"
        raise CliError(cause, "", ExitCode.USAGE)
