"""Names that are no text, folders that cannot be read: said in one sentence, and never in the way of the rest."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.cli.conftest import Ergo
from tests.control.conftest import SOURCE, User
from tests.fake_agent import World

from ergosphere.cli.api import Client
from ergosphere.cli.main import main

BAD = os.fsdecode(b"bad\xffname")


def test_a_file_whose_name_is_no_text_comes_home_like_every_other(ergo: Ergo, world: World, work: Path) -> None:
    world.leaves = {BAD: "odd", "50%.txt": "even"}
    said = ergo("run", "-n", "odd", "--", "count", "2")
    assert said.code == 0 and "bad\\xffname" in said.err, said
    assert (work / BAD).read_text() == "odd" and (work / "50%.txt").read_text() == "even"
    assert (work / "result.txt").exists()
    assert ergo("fetch", "odd", BAD, "--to", "there", "-o", "json").json["written"] == ["bad%FFname"]
    assert "bad\\xffnam" in ergo("fetch", "odd", BAD[:-1]).err


def test_the_api_names_such_a_file_so_that_it_can_be_asked_for(world: World, user: User) -> None:
    world.leaves = {BAD: "odd", "50%.txt": "even", "caf\xe9": "text"}
    job = user.submit(lines=1)
    user.until(job, "ended")
    files = [file["path"] for file in user.get(f"/v1/jobs/{job}/results")["copies"][0]["files"]]
    assert files == ["50%25.txt", "bad%FFname", "caf\xe9", "result.txt"]
    contents = [
        user.server.client().get(f"/v1/jobs/{job}/results/file", params={"path": path}).content for path in files[:3]
    ]
    assert contents == [b"even", b"odd", b"text"]


def test_an_ignored_path_whose_name_is_no_text_is_left_out_and_said(ergo: Ergo, work: Path) -> None:
    (work / f"{BAD}.dat").touch()
    (work / "seen.dat").touch()
    (work / ".gitignore").write_text("*.dat\n")
    said = ergo("run", "--no-fetch", "--", "count", "1")
    assert said.code == 0 and "read-only from their place: seen.dat" in said.err
    assert "bad\\xffname.dat is not visible to the job: its name is not UTF-8" in said.err


def test_a_working_directory_whose_path_is_no_text_is_refused(ergo: Ergo, work: Path) -> None:
    (work / BAD).mkdir()
    said = ergo("submit", "--workdir", BAD, "--", "count", "1")
    assert said.code == 2 and said.err.startswith("error: the working directory") and "bad\\xffname" in said.err


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--", "count", BAD), "the command: 'bad\\xffname' is not UTF-8"),
        (("-e", f"A={BAD}", "--", "count", "1"), "the variable A"),
        (("--export", f"A={BAD}", "--", "count", "1"), "--export"),
        (("--name", BAD, "--", "count", "1"), "--name"),
        (("--after", BAD, "--", "count", "1"), "--after"),
        (("--project", BAD, "--", "count", "1"), "--project"),
    ],
)
def test_what_is_no_text_and_must_be_is_refused(ergo: Ergo, words: tuple[str, ...], cause: str) -> None:
    said = ergo("submit", *words)
    assert said.code == 2 and said.err.startswith("error: ") and cause in said.err, said


def test_arguments_too_long_to_be_paths_are_no_paths(ergo: Ergo) -> None:
    assert ergo("submit", "--dry-run", "--", "count", "1", "0", "/" + "x" * 5000).code == 0


def test_what_nobody_foresaw_is_one_line_and_its_details_are_kept(
    ergo: Ergo, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LookupError("nobody foresaw this")

    monkeypatch.setattr(Client, "get", broken)
    assert main(["ps"]) == 70
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "error: ergo itself failed: LookupError: nobody foresaw this" and len(said) == 2
    details = Path(next(word for word in said[1].split() if word.startswith("/")).rstrip(";,"))
    assert "Traceback" in details.read_text() and "raise LookupError" in details.read_text()
    details.unlink()


_AS_NOBODY = """
import os, sys
from pathlib import Path
from ergosphere.cli.draft import Draft
from ergosphere.cli.errors import CliError
from ergosphere.cli.submission import Submitter, prepare
from ergosphere.cli.workcopy import scan_directory
from ergosphere.core import launcher
from ergosphere.snapshots import ignore, scan
from ergosphere.wire import jobs
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
where = Path(sys.argv[1])
submitter = Submitter({"PATH": f"{where / 'closed'}:/bin:/usr/bin"}, where, where / "home", near=True)
for folder in sys.argv[2:]:
    try:
        prepared = prepare(Draft(command=("true",), workdir=folder), submitter)
        print(len(scan_directory(Path(prepared.spec.workdir), submitter.home).tree.entries))
    except CliError as fault:
        print(fault.cause)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_folders_that_are_closed_to_us_are_refused_in_a_sentence() -> None:
    with tempfile.TemporaryDirectory() as made:
        where = Path(made)
        for folder in ("closed/inner", "holder/theirs", "open"):
            (where / folder).mkdir(parents=True)
        for folder, mode in (("", 0o755), ("closed", 0o700), ("holder/theirs", 0o700)):
            (where / folder).chmod(mode)
        words = [sys.executable, "-c", _AS_NOBODY, made, "closed/inner", "closed", "holder", "open"]
        said = subprocess.run(words, env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == [
        f"the working directory {made}/closed/inner is not there, or in a folder that is closed to you",
        f"the working directory {made}/closed cannot be read",
        f"{made}/holder/theirs cannot be read: Permission denied",
        "1",
    ]
