"""`ergo fetch`, and what `ergo run` does at its end: results from the server into a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ergosphere.cli import screen
from ergosphere.cli.desk import Desk, desk
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.forms import Form, Job, Output, answer, next_steps
from ergosphere.cli.words import did_you_mean

if TYPE_CHECKING:
    from ergosphere.cli.api import Client
    from ergosphere.cli.homecoming import Brought, Choice, Result
    from ergosphere.snapshots.tree import Entry, Tree


def fetch(
    job: Job,
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="Only this file or folder.", show_default=False)] = "",
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Into this folder, everything, not only changes.")
    ] = None,
    cell: Annotated[
        int | None, typer.Option("--cell", min=0, help="Only this node's copy (`ergo show` numbers them).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what was edited here meanwhile.")] = False,
    form: Output = Form.TABLE,
) -> None:
    """Bring a job's files home: what it changed, into the folder it was submitted from."""
    from ergosphere.cli import asking
    from ergosphere.wire.paths import to_text

    here = desk()
    with here.client() as client:
        detail = asking.job(client, job)
        folder = here.folder / (to or detail.workdir)
        if not to and not folder.is_dir():
            raise CliError(f"{folder} is not there any more", "name a folder with --to DIR", ExitCode.FAILED)
        wish = Wish(folder, path, cell, whole=to is not None, force=force)
        brought, choice = bring_home(here, client, detail.id, wish)
    told = {"written": brought.written, "kept": brought.kept, "removed": choice.removed}
    value = {"folder": str(folder), **{what: [to_text(path) for path in paths] for what, paths in told.items()}}
    if form in (Form.JSON, Form.YAML):
        answer(form, lambda: value, lambda: "")
        return
    report(brought, choice, folder, job)
    next_steps(form, f"its output: ergo logs {job}")


@dataclass(frozen=True, slots=True)
class Wish:
    """What to bring where. `path` "" and `cell` None: everything; `whole`: what the job did not change too."""

    folder: Path
    path: str = ""
    cell: int | None = None
    whole: bool = False
    force: bool = False


def bring_home(here: Desk, client: Client, job: str, wish: Wish) -> tuple[Brought, Choice]:
    """Write what the job changed into the wished folder. Raises CliError, and OSError when it cannot be written."""
    from ergosphere.cli.homecoming import bring
    from ergosphere.cli.safe import safe_line

    submitted, results = _load(client, job)
    choice = _chosen(submitted, results if wish.cell is None else _only(wish.cell, results), wish)
    wish.folder.mkdir(parents=True, exist_ok=True)
    with screen.progress("bringing results home", here.clock) as advance:
        done = 0

        def get(entry: Entry, dest: Path) -> None:
            nonlocal done
            save_blob(client, entry.digest, dest)
            done += 1
            advance(done, len(choice.picks), safe_line(entry.path))

        return bring(choice, submitted, wish.folder, get, wish.force), choice


def _chosen(submitted: Tree, results: tuple[Result, ...], wish: Wish) -> Choice:
    from ergosphere.cli.homecoming import Result, choose
    from ergosphere.cli.safe import safe_line
    from ergosphere.snapshots.tree import ROOT, Kind, Tree, subtree
    from ergosphere.snapshots.tree import Entry as TreeEntry

    path = wish.path.removeprefix("./").rstrip("/")
    if path:
        known = {name for result in results for name in result.tree.by_path}
        if path not in known:
            remedy = did_you_mean(path, known, "`ergo fetch JOB --to DIR` brings everything")
            raise CliError(f"the job has no {safe_line(path)}", safe_line(remedy), ExitCode.UNKNOWN)
        results = tuple(Result(r.cell, subtree(r.tree, path)) for r in results if path in r.tree.by_path)
        submitted = subtree(submitted, path) if path in submitted.by_path else submitted
    choice = choose(Tree((TreeEntry(ROOT, Kind.DIR),)) if wish.whole else submitted, results)
    return replace(choice, removed=()) if path or wish.whole else choice


def get_blob(client: Client, digest: str) -> bytes:
    """A blob of the store, checked against its name."""
    from ergosphere.snapshots.digests import digest_bytes

    data = client.get_bytes(f"/v1/blobs/{digest}")
    if digest_bytes(data) != digest:
        raise _something_else(digest)
    return data


def save_blob(client: Client, digest: str, dest: Path) -> None:
    """Likewise, however large it is, as a new file; on an error there is none."""
    from ergosphere.snapshots.digests import digest_file

    try:
        client.save(f"/v1/blobs/{digest}", dest)
        if digest_file(dest) != digest:
            raise _something_else(digest)
    except BaseException:
        dest.unlink(missing_ok=True)
        raise


def _something_else(digest: str) -> CliError:
    return CliError(f"the server sent something else than {digest[:12]}", "try again; server/server.log may say more")


def report(brought: Brought, choice: Choice, folder: Path, job: str) -> None:
    """Say what came home and what did not, and why."""
    from ergosphere.cli.homecoming import listed
    from ergosphere.cli.safe import safe_line
    from ergosphere.cli.words import plural

    count = plural(len(brought.written), "file")
    screen.say(
        f"{count} brought home to {folder}: {safe_line(listed(brought.written))}"
        if brought.written
        else "no file to bring home"
    )
    if brought.kept:
        screen.note(
            f"edited here meanwhile and left alone: {safe_line(listed(brought.kept))} (ergo fetch --force, or --to DIR)"
        )
    if choice.removed:
        screen.note(f"removed by the job, still here: {safe_line(listed(choice.removed))}")
    if choice.disputed:
        paths = safe_line(listed(choice.disputed))
        screen.note(
            f"differ between the nodes' copies: {paths} (the first came home; ergo fetch {job} --cell N --to DIR)"
        )
    if brought.skipped:
        screen.note(f"cannot be made here: {safe_line(listed(brought.skipped))}")


def _load(client: Client, job: str) -> tuple[Tree, tuple[Result, ...]]:
    """(the submitted tree, the copy of each cell)."""
    from ergosphere.cli import asking
    from ergosphere.cli.homecoming import Result
    from ergosphere.snapshots.tree import ROOT, Entry, Kind, Tree, parse_tree

    found = asking.results(client, job)
    results = tuple(Result(copy.cell, parse_tree(get_blob(client, copy.digest))) for copy in found.copies)
    if found.submitted is None:
        return Tree((Entry(ROOT, Kind.DIR),)), results
    return parse_tree(get_blob(client, found.submitted)), results


def _only(cell: int, results: tuple[Result, ...]) -> tuple[Result, ...]:
    found = tuple(result for result in results if result.cell == cell)
    if not found:
        cells = ", ".join(str(result.cell) for result in results)
        raise CliError(f"there is no copy {cell}", f"there are {cells}", ExitCode.UNKNOWN)
    return found
