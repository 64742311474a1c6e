"""`ergo snapshot …` in front of a real server with nodes of paper: what it says, and its noes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Ergo
from tests.control.conftest import User, wait_for


@pytest.fixture
def running(ergo: Ergo, user: User) -> str:
    job = ergo("submit", "-n", "shelf", "-o", "json", "--", "count", "0").json["id"]
    user.until(job, "running")
    return str(job)


def remote(ergo: Ergo, ref: str) -> None:
    def look() -> bool:
        return any(one["durability"] == "remote" for one in ergo("snapshot", "ls", "shelf", "-o", "json").json)

    wait_for(look, f"{ref} is remote")


def newest_is_remote(ergo: Ergo) -> bool:
    listed = ergo("snapshot", "ls", "shelf", "-o", "json").json
    return bool(max(listed, key=lambda one: one["number"])["durability"] == "remote")


def test_a_snapshot_is_taken_by_its_old_and_its_new_command(ergo: Ergo, running: str) -> None:
    first = ergo("snapshot", "shelf", "-o", "json").json["snapshot"]
    second = ergo("snapshot", "create", "--name", "good", "-o", "json", "shelf").json["snapshot"]
    third = ergo("snapshot", "-o", "json", "shelf").json["snapshot"]
    kept = ergo("snapshot", "ls", "shelf", "-o", "json").json
    assert [one["id"] for one in kept][-2:] == [second, third] and first
    assert [one["name"] for one in kept][-2:] == ["good", ""]
    remote(ergo, third)
    said = ergo("snapshot", "ls").out
    assert "good" in said and "remote" in said and "DURABILITY" in said
    assert ergo("snapshot", "show", "shelf@good").out.count("good")
    assert "good" in ergo("show", "shelf").out
    again = ergo("snapshot", "create", "shelf", "--name", "good")
    assert again.code == 6 and "called good already" in again.err and "ergo snapshot rm" in again.err


def test_a_job_is_rolled_back_and_snapshots_are_removed(ergo: Ergo, user: User, running: str) -> None:
    ergo("snapshot", "create", "shelf", "-n", "early")
    ergo("snapshot", "create", "shelf")
    rolled = ergo("snapshot", "restore", "shelf@early", "-y", "-o", "json").json
    assert rolled["done"] and rolled["job"]["incarnation"] == 2
    assert user.job(running)["lost_s"] == 0
    relied_on = ergo("snapshot", "rm", "shelf@early", "-y")
    assert relied_on.code == 6 and "did not change since" in relied_on.err and "take another first" in relied_on.err
    ergo("pause", "shelf")
    wait_for(lambda: newest_is_remote(ergo), "the newest is remote")
    assert ergo("snapshot", "rm", "shelf@early", "-y").code == 0
    assert ergo("snapshot", "show", "shelf@early").code == 3
    last = [one["id"] for one in ergo("snapshot", "ls", "shelf", "-o", "json").json]
    for name in last[:-1]:
        assert ergo("snapshot", "rm", f"shelf@{name}", "-y").code == 0
    only = ergo("snapshot", "rm", "shelf@latest", "-y")
    assert only.code == 6 and "all there is" in only.err
    named = ergo("snapshot", "create", "shelf", "-n", "kept", "-o", "json").json
    assert named["snapshot"] == last[-1], "a frozen job's newest is given the name"
    other = ergo("snapshot", "create", "shelf", "-n", "other")
    assert other.code == 6 and "is called kept already" in other.err
    assert ergo("snapshot", "show", "shelf@kept").code == 0


def test_a_reference_that_names_nothing_and_a_command_of_others_do_nothing(ergo: Ergo, running: str) -> None:
    ergo("snapshot", "create", "shelf")
    for verb in ("rm", "show", "restore"):
        empty = ergo("snapshot", verb, "shelf@", *(["-y"] if verb != "show" else []))
        assert empty.code == 3 and "names no snapshot" in empty.err
    assert len(ergo("snapshot", "ls", "shelf", "-o", "json").json) == 1
    typed = ergo("snapshot", "delete", "shelf@1")
    assert typed.code == 2 and "it is `ergo snapshot rm`" in typed.err


def test_named_snapshots_outlive_their_job_and_keep_snapshots_says_how_many_others(ergo: Ergo, user: User) -> None:
    job = ergo("submit", "-n", "shelf", "--keep-snapshots", "4", "-o", "json", "--", "count", "0").json["id"]
    user.until(job, "running")
    ergo("snapshot", "create", "shelf", "-n", "first")
    for _ in range(6):
        ergo("snapshot", "shelf")
    kept = ergo("snapshot", "ls", "shelf", "-o", "json").json
    assert [one["number"] for one in kept] == [1, 4, 5, 6, 7]
    ergo("cancel", "shelf", "-y", "--grace", "0")
    assert [one["name"] for one in ergo("snapshot", "ls", job, "-o", "json").json] == ["first"]
    refused = ergo("snapshot", "restore", f"{job}@first", "-y")
    assert refused.code == 6 and "ergo snapshot fork" in refused.err
    ergo("snapshot", "rm", f"{job}@first", "-y")
    listed = ergo("snapshot", "ls", job)
    assert "shelf has ended" in listed.out + listed.err and f"ergo fetch {job}" in listed.out + listed.err
    assert "create" not in listed.out + listed.err, "of an ended job there is nothing to take"
    shown = ergo("snapshot", "show", f"{job}@latest")
    assert shown.code == 3 and "has ended" in shown.err and "create" not in shown.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("snapshot", "no-such-job"), 3, "no-such-job"),
        (("snapshot", "show", "nothing"), 3, "JOB@SNAPSHOT"),
        (("snapshot", "show", "shelf@9999"), 3, "ergo snapshot create shelf"),
        (("snapshot", "create", "shelf", "--name", "7up"), 2, "letter"),
        (("snapshot", "create", "shelf", "--name", "latest"), 2, "means the newest one"),
        (("snapshot", "export", "shelf@latest", "no/such/x.ergo"), 3, "there is no folder"),
        (("snapshot", "export", "shelf@latest", "x.ergo", "--key", "no/such/key"), 3, "there is no folder"),
        (("snapshot", "fork", "shelf@latest"), 2, "--name"),
        (("snapshot", "fork", "shelf@latest", "--name", "a b"), 2, "--name"),
        (("snapshot", "fork", "shelf@latest", "--name", "ok", "-e", "1x=2"), 2, "no variable name"),
        (("snapshot", "import", "nothing.ergo", "--name", "x"), 3, "nothing.ergo"),
        (("snapshot", "ls", "--al"), 2, "--al"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    ergo: Ergo, running: str, words: tuple[str, ...], code: int, said: str
) -> None:
    ended = ergo(*words)
    assert ended.code == code and said in ended.err, (ended.code, ended.err)
    assert "Traceback" not in ended.err


def test_an_import_without_its_key_says_which_key_is_needed(ergo: Ergo, work: Path) -> None:
    (work / "out.ergo").write_bytes(b"an archive")
    refused = ergo("snapshot", "import", "out.ergo", "--name", "again")
    assert refused.code == 3 and f"{work}/out.ergo.key" in refused.err and "--key FILE" in refused.err
    assert "openssl" not in refused.err


def test_jobs_on_the_hosts_network_and_with_shared_files_are_not_forked(ergo: Ergo, user: User) -> None:
    job = ergo("submit", "-n", "open", "--network", "host", "-o", "json", "--", "count", "0").json["id"]
    user.until(job, "running")
    ergo("snapshot", "open")
    refused = ergo("snapshot", "fork", "open@latest", "-n", "second")
    assert refused.code == 6 and "ports" in refused.err and "--network private" in refused.err
