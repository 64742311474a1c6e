"""The checks on this very machine, and each verdict for machines that are not like it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent import small_rank

from ergosphere.agent import check, provision


def test_every_check_has_a_name_a_detail_and_a_remedy_where_it_is_a_cross():
    found = check.checks(small_rank.criu_folder())
    assert len({one.name for one in found}) == len(found)
    for one in found:
        assert one.name and one.detail
        assert one.remedy or one.ok is not False, one


def test_where_the_other_tests_run_jobs_are_transparent():
    found = {one.name: one for one in check.checks(small_rank.criu_folder())}
    assert found["CRIU self-test"].ok and found["freezer"].ok and found["namespaces"].ok
    assert found["jobs here are"].ok and "transparent" in found["jobs here are"].detail


def test_looking_changes_nothing(tmp_path):
    def visible():
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        names = {line.split(": ")[1].partition("@")[0] for line in links.splitlines()}
        probes = [h.mount / f"ergo-probe-{os.getpid()}" for h in check.cgroups.hierarchies()]  # others' come and go
        return names & {"ergo0", "ergo1", "ergo2"}, [probe for probe in probes if probe.exists()]

    before = visible()
    check.checks(tmp_path)
    assert visible() == before and list(tmp_path.iterdir()) == []


def test_a_user_who_is_not_root_gets_crosses_and_no_traceback(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from ergosphere.agent import check\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); os.chdir('/')\n"
        "for one in check.checks(Path('/nonexistent')): print(one.ok, one.name, '|', one.detail, '|', one.remedy)"
    )
    source = str(Path(check.__file__).parents[2])
    said = subprocess.run([sys.executable, "-c", code, source], capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    assert "False privileges | not root | run as root" in said.stdout
    assert "restart: they run" in said.stdout


def test_without_criu_the_rung_is_restart_and_says_what_that_means_and_why():
    found = [check.criu_version(None), check.criu_self_test(None)]
    assert [one.ok for one in found] == [False, None]
    verdict = check.rung(found)
    assert verdict.ok is False and verdict.detail.startswith("restart") and "CRIU" in verdict.detail
    assert "cannot be paused or moved" in verdict.detail and "begin again" in verdict.detail


def test_what_is_only_nice_to_have_does_not_change_the_rung():
    assert check.rung([check.Check("soft-dirty", False, "absent", "none", required=False)]).ok


def test_an_old_criu_is_a_cross(monkeypatch):
    monkeypatch.setattr(check.platform, "release", lambda: "6.18.0")
    old = check.criu_version(provision.CriuTool(("criu",), "4.1.1", None, None, "found"))
    assert old.ok is False and "too old" in old.detail and "ergo setup" in old.remedy


def test_a_criu_that_fails_is_a_cross_with_its_cause():
    broken = check.criu_self_test(provision.CriuTool(("false",), "4.2", None, None, "found"))
    assert broken.ok is False and "dump failed" in broken.detail


def test_little_shared_memory_is_a_cross_but_no_obstacle(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path], check=True)
    try:
        found = check.shared_memory(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert (found.ok, found.required) == (False, False) and "0.0 GB" in found.detail
    assert check.shared_memory(tmp_path / "absent").ok is False


@pytest.mark.parametrize(
    ("answer", "oks", "words"),
    [
        ("0 12090 2 0 0\n", (True, True), "answers"),
        ("0 12040 1 -1 -1\n", (True, False), "not in this driver"),
        ("0 12080 1 801 -1\n", (True, False), "error 801"),
        ("100 12080 0 3 -1\n", (False, None), "cuInit gives 100"),
        ("", (False, None), "does not answer"),
    ],
)
def test_each_answer_of_a_cuda_driver_has_its_line(answer, oks, words):
    found = check._cuda_checks(*check._cuda_answer(lambda: answer))
    assert tuple(one.ok for one in found) == oks
    assert any(words in one.detail for one in found)


@pytest.mark.parametrize("answer", ["0 12090 2 0 0\n", "0 12040 1 -1 -1\n", "0 12080 1 801 -1\n"])
def test_nobody_is_sent_for_another_driver_while_no_driver_would_help(answer):
    _, interface = check._cuda_checks(*check._cuda_answer(lambda: answer))
    words = f"{interface.detail}; {interface.remedy}"
    assert "cannot be frozen" in words and "cooperative" not in words and "570" not in words


def test_before_the_set_up_the_network_is_mended_by_the_set_up(monkeypatch):
    monkeypatch.setattr(check, "_which", lambda name: None)
    monkeypatch.setattr(check, "_tried", lambda *argv: None)
    before = check.outside_network(None)
    assert (before.ok, before.required, before.remedy) == (False, False, "run `ergo setup`")
    after = check.outside_network(provision.CriuTool(("criu",), "4.2.1", None, None, "found at /usr/sbin/criu"))
    assert after.remedy == "apt-get install nftables", "a CRIU of the system's own comes without"


def test_a_cuda_driver_that_hangs_is_told_from_one_that_is_absent():
    def hang():
        raise subprocess.TimeoutExpired("python", 1)

    driver, _ = check._cuda_checks(*check._cuda_answer(hang))
    assert driver.ok is False and "does not answer" in driver.detail
