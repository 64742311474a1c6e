"""What people do: run, look, pause, move, cancel, bring home, through a real server with nodes of paper."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.cli.conftest import Ergo, in_background
from tests.control.conftest import Service, User, wait_for
from tests.fake_agent import World, line


def lines(rank: int, count: int) -> str:
    return "".join(line(rank, n) for n in range(1, count + 1))


def test_run_shows_the_output_brings_the_files_home_and_returns_the_exit_code(ergo: Ergo, work: Path) -> None:
    said = ergo("run", "-n", "first", "--", "count", "30", "7")
    assert said.code == 7
    assert said.out == lines(0, 30)
    assert "first (j" in said.err and "1 rank; copy of" in said.err
    assert (work / "result.txt").read_text().startswith("job j")
    assert "error: rank 0 ended by itself with status 7" in said.err


def test_several_ranks_speak_behind_their_number(ergo: Ergo) -> None:
    said = ergo("run", "--ranks", "2", "--no-fetch", "--quiet", "count", "10")
    assert said.code == 0
    for rank in (0, 1):
        mine = [text for text in said.out.splitlines() if text.startswith(f"[rank {rank}] ")]
        assert mine == [f"[rank {rank}] rank {rank} line {n}" for n in range(1, 11)]


def test_a_file_is_run_and_flags_go_before_it(ergo: Ergo, work: Path) -> None:
    (work / "job.yaml").write_text("name: filed\ntier: basic\nrun: count 3\n")
    assert ergo("run", "--no-fetch", "job.yaml").code == 0
    behind = ergo("run", "job.yaml", "--tier", "premium")
    assert behind.code == 2 and "ergo run --tier premium job.yaml" in behind.err
    assert ergo("submit", "--file", "job.yaml", "--tier", "premium", "-o", "json").json["tier"] == "premium"
    assert [job["name"] for job in ergo("ps", "--all", "-o", "json").json][-2:] == ["filed", "filed"]


def test_everything_can_be_looked_at_during_and_after_a_job(ergo: Ergo, world: World, user: User) -> None:
    job = ergo("submit", "-n", "seen", "-o", "json", "--", "count", "0").json["id"]
    user.until(job, "running")
    assert "seen" in ergo("ps").out and "running" in ergo("queue").out
    assert "seen" in ergo("nodes").out and "1 running" in ergo("status").out
    world.finish(job)
    assert ergo("logs", "-f", "seen").out == lines(0, world.ends[job])
    user.until(job, "ended")
    assert ergo("logs", "--tail", "2", "seen").out == "".join(line(0, world.ends[job] - n) for n in (1, 0))
    for words in (("show", "seen"), ("events", job), ("explain", "seen"), ("events",)):
        said = ergo(*words)
        assert said.code == 0 and said.out, said
        assert ergo(*words, "-o", "json").json
    assert "succeeded" in ergo("show", "seen").out
    assert ergo("show", "seen", "-o", "yaml").out.startswith("id: ")


@pytest.mark.parametrize("words", [("ps", "--watch"), ("show", "-w", "watched"), ("nodes", "-w")], ids=" ".join)
def test_what_is_watched_is_seen_again_as_it_changes(
    ergo: Ergo, service: Service, user: User, work: Path, words: tuple[str, ...]
) -> None:
    job = ergo("submit", "-n", "watched", "-o", "json", "--", "count", "0").json["id"]
    user.until(job, "running")
    change, back, seen = ("drain", "undrain", b"draining") if "nodes" in words else ("pause", "resume", b"paused")
    hit = "node-0" if "nodes" in words else "watched"
    process = in_background(service.server.home, work, *words)
    try:
        assert process.stdout is not None
        assert any(b"watched" in text for text in process.stdout)
        assert ergo(change, hit).code == 0
        assert any(seen in text for text in process.stdout)
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert ergo(back, hit).code == 0


def test_the_newest_and_the_youngest_can_be_asked_for(ergo: Ergo, user: User) -> None:
    for name in ("one", "two", "three"):
        user.until(ergo("submit", "-n", name, "-o", "json", "count", "1").json["id"], "ended")
    assert [job["name"] for job in ergo("ps", "-a", "--limit", "2", "-o", "json").json] == ["two", "three"]
    assert ergo("ps", "-a", "--limit", "0", "-o", "json").json == []
    assert len(ergo("ps", "-a", "--since", "1h", "--limit", "3", "-o", "json").json) == 3
    assert ergo("ps", "-a", "--since", "0s", "-o", "json").json == []
    assert [event["kind"] for event in ergo("events", "three", "--tail", "1", "-o", "json").json] == ["ended-succeeded"]
    assert len(ergo("events", "three", "--limit", "2", "--since", "1h", "-o", "json").json) == 2
    assert ergo("events", "--since", "0s", "-o", "json").json == []
    wrong = ergo("events", "--since", "often")
    assert wrong.code == 2 and wrong.err.startswith("error: --since")


def test_the_last_lines_of_a_job_that_goes_on_are_no_more_than_asked_for(ergo: Ergo, user: User) -> None:
    job = ergo("submit", "-n", "talks", "-o", "json", "--", "count", "0").json["id"]
    user.until(job, "running")
    wait_for(lambda: len(user.log(job).splitlines()) > 20, "it has written")
    for _ in range(10):
        assert len(ergo("logs", "--tail", "2", "talks").out.splitlines()) == 2
    assert ergo("logs", "--tail", "0", "talks").out == ""
    shown = ergo("logs", "talks").out
    assert shown and lines(0, 100_000).startswith(shown)


def test_results_that_do_not_come_home_have_a_code_of_their_own(
    ergo: Ergo, service: Service, world: World, work: Path
) -> None:
    process = in_background(service.server.home, work, "run", "-n", "homeless", "--", "count", "0")
    assert process.stdout is not None
    assert process.stdout.readline() == line(0, 1).encode()
    work.rename(work.with_name("gone"))
    work.touch()
    world.finish(service.user.job("homeless")["id"])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 7, err
    assert b"error: the results did not come home" in err and b"homeless succeeded" in err


def test_every_command_ends_with_what_to_do_next_but_not_for_machines(ergo: Ergo) -> None:
    assert "ergo logs -f" in ergo("submit", "-n", "next", "--", "count", "0").err
    assert "ergo show" in ergo("ps").err
    assert ergo("ps", "-o", "json").err == ""


def test_a_job_is_paused_resumed_moved_saved_and_cancelled(ergo: Ergo, user: User) -> None:
    job = ergo("submit", "-n", "verbs", "-o", "json", "--", "count", "0").json["id"]
    user.until(job, "running")
    assert ergo("pause", "verbs").code == 0
    assert "paused" in ergo("ps").out
    assert ergo("resume", "verbs", "-o", "json").json["done"]
    before = user.job(job)["nodes"]
    assert ergo("migrate", "verbs").code == 0
    assert user.job(job)["nodes"] != before
    assert ergo("snapshot", "verbs", "-o", "json").json["snapshot"]
    assert ergo("cancel", "--grace", "0", "verbs", "-o", "json").json["job"]["phase"] == "cancelled"
    refused = ergo("pause", "verbs")
    assert refused.code == 6 and refused.err.startswith("error: ")


def test_a_node_is_drained_and_taken_back(ergo: Ergo, user: User) -> None:
    user.until(ergo("submit", "-o", "json", "count", "0").json["id"], "running")
    assert ergo("drain", "node-0").code == 0
    assert "draining" in ergo("nodes").out
    assert ergo("undrain", "node-0").code == 0
    assert "draining" not in ergo("nodes").out


def test_the_plan_is_shown_and_nothing_is_done(ergo: Ergo, user: User) -> None:
    busy = ergo("submit", "-n", "busy", "--tier", "basic", "--ranks", "4", "-o", "json", "count", "0").json["id"]
    user.until(busy, "running")
    said = ergo("run", "--dry-run", "--tier", "premium", "-n", "urgent", "--", "count", "1")
    assert said.code == 0
    for words in ("nothing has been done", "premium", "copy of", "busy (basic) from 4 to 2 devices"):
        assert words in said.out, said.out
    assert [job["name"] for job in user.get("/v1/jobs")] == ["busy"]
    assert ergo("run", "--dry-run", "-o", "json", "count", "1").json["job"]["name"] == "count"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "no-such-job"), 3, "no-such-job"),
        (("drain", "node-9"), 3, "node-9"),
        (("ps", "--al"), 2, "did you mean --all?"),
        (("run", "--teir", "basic", "ls"), 2, "did you mean --tier?"),
        (("pss",), 2, "did you mean ps?"),
        (("run", "--ranks", "99", "count", "1"), 6, "4"),
        (("run", "--tty", "count", "1"), 2, "no terminal"),
        (("run",), 2, "no command to run"),
        (("run", "no-such-program"), 127, "command not found"),
        (("run", "--snapshot-every", "often", "count", "1"), 2, "--snapshot-every"),
        (("logs", "--rank", "x", "y"), 2, "--rank"),
        (("ps", "-o", "xml"), 2, "'xml'"),
    ],
)
def test_every_no_names_its_cause_and_has_its_code(ergo: Ergo, words: tuple[str, ...], code: int, said: str) -> None:
    answer = ergo(*words)
    assert answer.code == code, answer
    assert answer.err.startswith("error: ") and said in answer.err
    assert answer.out == ""


def test_a_mistyped_name_is_answered_with_the_nearest(ergo: Ergo) -> None:
    ergo("submit", "-n", "digits", "count", "0")
    assert "digits" in ergo("show", "digist").err


def test_a_wrong_token_is_told_where_it_came_from(ergo: Ergo, environment: dict[str, str]) -> None:
    environment["ERGO_TOKEN"] = "wrong"
    said = ergo("ps")
    assert said.code == 5 and "ERGO_TOKEN" in said.err


def test_without_a_server_the_way_to_one_is_told(typed: Ergo, environment: dict[str, str]) -> None:
    said = typed("ps")
    assert said.code == 4 and "ergo up" in said.err
    environment |= {"ERGO_URL": "http://127.0.0.1:9", "ERGO_TOKEN": "x"}
    assert typed("ps").code == 4


def test_what_was_edited_at_home_meanwhile_is_not_overwritten(ergo: Ergo, work: Path, tmp_path: Path) -> None:
    assert ergo("run", "--no-fetch", "-n", "edited", "count", "2").code == 0
    (work / "result.txt").write_text("my own")
    said = ergo("fetch", "edited")
    assert "left alone" in said.err and (work / "result.txt").read_text() == "my own"
    assert ergo("fetch", "edited", "result.txt", "--to", str(tmp_path / "there")).code == 0
    assert (tmp_path / "there" / "result.txt").read_text().startswith("job j")
    assert ergo("fetch", "edited", "reslut.txt").err.count("did you mean result.txt?") == 1
    assert ergo("fetch", "--force", "edited").code == 0
    assert (work / "result.txt").read_text().startswith("job j")


def test_a_directory_that_is_too_big_is_refused_with_the_biggest_offenders(ergo: Ergo, work: Path) -> None:
    with (work / "huge.bin").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 600_000_000)
    said = ergo("submit", "count", "1")
    assert said.code == 6
    assert "huge.bin 600 MB" in said.err and ".ergoignore" in said.err
    (work / ".ergoignore").write_text("huge.bin\n")
    assert "read-only from their place: huge.bin" in ergo("submit", "count", "1").err


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(ergo: Ergo, service: Service, work: Path) -> None:
    process = in_background(service.server.home, work, "run", "-n", "left", "--", "count", "0")
    assert process.stdout is not None
    assert process.stdout.readline() == line(0, 1).encode()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"left left (j" in err and b"ergo logs -f j" in err
    assert service.user.job("left")["phase"] == "running"


def test_a_server_that_dies_and_comes_back_leaves_no_gap_and_repeats_nothing(own: Service, work: Path) -> None:
    process = in_background(own.server.home, work, "run", "--no-fetch", "-n", "long", "--", "count", "0")
    assert process.stdout is not None
    first = process.stdout.readline()
    own.server.kill()
    own.server.start()
    job = own.user.job("long")["id"]
    wait_for(lambda: own.user.get("/v1/status")["nodes_ready"] == 2, "both nodes report again")
    total = own.world.finish(job, more=20)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert (first + out).decode() == lines(0, total)
    assert b"the server does not answer; the job runs on" in err and b"the server is back" in err
