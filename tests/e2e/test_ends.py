"""How jobs end: exit codes, first causes, and what can never start; each said with cause and remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.fleet import PYTHON, Fleet, Job, counter, python

from ergosphere.cli.errors import ExitCode
from ergosphere.wire.jobs import JobSpec


def raw(fleet: Fleet, folder: Path, *command: str) -> Job:
    """A job handed in past the command line's own checks."""
    spec = JobSpec(command=command, name="raw", workdir=str(folder), env={"PATH": "/usr/bin:/bin"})
    return Job(fleet, fleet.post("/v1/jobs", json.loads(spec.model_dump_json()), 201)["job"]["id"])


@pytest.mark.parametrize(("program", "code"), [("exit 7", 7), ("kill -KILL $$", 137)])
def test_run_ends_with_the_code_of_the_job(fleet: Fleet, folder: Path, program: str, code: int) -> None:
    ended = fleet.ergo("run", "--max-restarts", "0", "--", "/bin/sh", "-c", f"echo hello; {program}", folder=folder)
    assert (ended.returncode, ended.stdout) == (code, "hello\n"), ended.stderr


def test_run_brings_home_what_the_job_wrote(fleet: Fleet, folder: Path) -> None:
    ended = fleet.ergo("run", "--", "/bin/sh", "-c", "echo made > made.txt; echo warned >&2", folder=folder)
    assert ended.returncode == 0, ended.stderr
    assert (folder / "made.txt").read_text() == "made\n" and "warned" in ended.stderr


def test_a_rank_that_exits_with_a_code_or_raises_has_failed_and_is_not_recovered(fleet: Fleet, folder: Path) -> None:
    exits = fleet.submit(counter(each="if number == 9 and os.environ['RANK'] == '1': sys.exit(7)"), folder, ranks=2)
    each = "if number == 9 and os.environ['RANK'] == '0': raise ValueError('no such luck')"
    raises = fleet.submit(counter(each=each), folder, ranks=2)
    ended = exits.ended("failed")
    assert (ended["exit_code"], ended["recoveries"], ended["incarnation"]) == (7, 0, 1)
    assert "rank 1 ended by itself with status 7" in ended["reason"]
    ended = raises.ended("failed")
    assert (ended["exit_code"], ended["recoveries"]) == (1, 0)
    assert "ValueError: no such luck" in raises.err(0)


def test_a_failure_is_explained_with_the_last_words_of_the_rank_that_failed_first(fleet: Fleet, folder: Path) -> None:
    bar = "'\\r'.join(f'{n} %' for n in range(900))"
    says = f"os.write(2, ({bar} + '\\n' + 'x' * 999 + '\\x1b[2J end\\n\\n').encode()); raise ValueError('no such luck')"
    each = f"if number == 9 and os.environ['RANK'] == '1': {says}"
    job = fleet.submit(counter(each=each), folder, ranks=2)
    job.ended("failed")
    told = fleet.get(f"/v1/jobs/{job.id}/explain")["last_words"]
    assert told["rank"] == 1 and told["lines"][-1] == "ValueError: no such luck"
    assert len(told["lines"]) == 3 and all(len(line) <= 300 for line in told["lines"])
    typed = fleet.ergo("explain", job.id, folder=folder)
    assert "rank 1: " in typed.stdout and "ValueError: no such luck" in typed.stdout
    loud = fleet.submit(("/bin/sh", "-c", f'{PYTHON} -c "import sys; sys.stderr.write({bar})"; exit 3'), folder)
    loud.ended("failed")
    assert fleet.get(f"/v1/jobs/{loud.id}/explain")["last_words"]["lines"] == ["897 %", "898 %", "899 %"]
    quiet = fleet.submit(("/bin/sh", "-c", "exit 3"), folder)
    quiet.ended("failed")
    assert fleet.get(f"/v1/jobs/{quiet.id}/explain")["last_words"] is None


def test_a_command_that_is_not_there_fails_at_once_with_127(fleet: Fleet, folder: Path) -> None:
    ended = raw(fleet, folder, "no-such-program").ended("failed")
    assert ended["exit_code"] == 127, ended
    assert "no-such-program: command not found on this node" in ended["reason"] and "PATH was" in ended["reason"]
    typed = fleet.ergo("run", "--", "no-such-program", folder=folder)
    assert typed.returncode == 127 and "no-such-program" in typed.stderr


def test_a_command_that_is_not_executable_fails_at_once_with_126(fleet: Fleet, folder: Path) -> None:
    (folder / "script").write_text("#!/bin/sh\n")
    job = fleet.submit(("/bin/sh", "-c", "./script"), folder)
    assert job.ended("failed")["exit_code"] == 126
    typed = fleet.ergo("run", "--", "./script", folder=folder)
    assert typed.returncode == 126 and "chmod +x" in typed.stderr


def test_an_interpreter_that_is_not_there_fails_at_once_with_127(fleet: Fleet, folder: Path) -> None:
    (folder / "script").write_text("#!/no/such/interpreter\n")
    (folder / "script").chmod(0o755)
    job = fleet.submit(("/usr/bin/env", "./script"), folder)
    assert job.ended("failed")["exit_code"] == 127


def test_a_working_directory_that_is_too_big_is_refused_with_its_size(fleet: Fleet, folder: Path) -> None:
    with (folder / "huge.bin").open("wb") as huge:
        huge.truncate(600 << 20)
    typed = fleet.ergo("run", "--", "/bin/true", folder=folder)
    assert typed.returncode != 0 and "huge.bin" in typed.stderr and ".ergoignore" in typed.stderr


def test_more_ranks_than_the_fleet_could_hold_are_refused_with_the_most_that_fit(fleet: Fleet, folder: Path) -> None:
    typed = fleet.ergo("run", "--ranks", "1000", "--", "/bin/true", folder=folder)
    assert typed.returncode != 0 and " 8 " in typed.stderr, typed.stderr


def test_a_job_that_does_not_exist_is_named(fleet: Fleet, folder: Path) -> None:
    typed = fleet.ergo("show", "nobody", folder=folder)
    assert typed.returncode == ExitCode.UNKNOWN and "nobody" in typed.stderr
    assert fleet.api("GET", "/v1/jobs/nobody").status_code == 404


def test_a_wrong_token_is_refused(fleet: Fleet, folder: Path) -> None:
    assert fleet.api("GET", "/v1/jobs", token="wrong").status_code == 401
    typed = fleet.ergo("ps", folder=folder, env={"ERGO_TOKEN": "wrong"})
    assert typed.returncode != 0 and "does not know this token" in typed.stderr


def test_a_second_server_on_the_same_home_is_refused(fleet: Fleet, folder: Path) -> None:
    command = [sys.executable, "-m", "ergosphere.control.server", "--home", str(fleet.home)]
    second = subprocess.run(command, env=fleet.environment, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 3 and "another server already serves" in second.stderr
    assert fleet.get("/v1/status")["nodes_ready"] >= 2


def test_whatever_bytes_a_job_prints_are_stored_as_they_are_and_shown_safely(fleet: Fleet, folder: Path) -> None:
    odd = b"\x1b[31mred\x1b[0m \xff\xfe\x00 caf\xe9\r\nlast"
    job = fleet.submit(python(f"import os; os.write(1, {odd!r}); os.write(2, b'\\x1b]0;title\\x07')"), folder)
    job.ended()
    assert job.log() == odd and job.log(stream="err") == b"\x1b]0;title\x07"
    shown = fleet.ergo("logs", job.id, folder=folder)
    assert "\x1b" not in shown.stdout and "red" in shown.stdout and "last" in shown.stdout


def test_a_job_of_a_name_used_before_is_found_by_it_while_it_lives(fleet: Fleet, folder: Path) -> None:
    fleet.submit(("/bin/true",), folder, name="twice").ended()
    again = fleet.submit(counter(), folder, name="twice")
    assert fleet.get("/v1/jobs/twice")["id"] == again.id
    again.printed()
    again.finished_whole()
