import os
from pathlib import Path

import pytest

from ergosphere.cli.draft import Draft, overlay, parse_pairs
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.habits import parting_of, saving_notes, tier_of
from ergosphere.cli.submission import Submitter, exported, prepare


@pytest.fixture
def submitter(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/root", "PWD": "/elsewhere", "LR": "0.1", "ERGO_TOKEN": "secret"}
    return Submitter(environment, work, tmp_path / "home", near=True)


def refusal(draft, submitter):
    with pytest.raises(CliError) as caught:
        prepare(draft, submitter)
    return caught.value


def script(path: Path, text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_what_is_fixed_at_submission_is_recorded(submitter):
    spec = prepare(Draft(command=("sh", "-c", "true"), env={"A": "b"}), submitter).spec
    assert spec.command == ("sh", "-c", "true")
    assert spec.workdir == str(submitter.folder)
    assert spec.env == {"PATH": "/usr/bin:/bin", "HOME": "/root", "PWD": spec.workdir, "LR": "0.1", "A": "b"}
    assert (spec.ranks, spec.launcher, spec.name) == (1, "plain", "sh")


def test_a_torchrun_command_line_says_its_ranks(submitter):
    script(submitter.folder / "torchrun", "#!/usr/bin/python3\n")
    submitter.environment["PATH"] += f":{submitter.folder}"
    spec = prepare(Draft(command=("torchrun", "--nproc-per-node", "4", "train.py")), submitter).spec
    assert (spec.ranks, spec.launcher, spec.name) == (4, "torchrun", "train")
    fault = refusal(Draft(command=("torchrun", "--nproc-per-node", "4", "train.py"), ranks=2), submitter)
    assert "--ranks 2" in fault.cause


def test_the_environment_is_narrowed_as_sbatch_narrows_it():
    here = {"PATH": "/bin", "HOME": "/root", "A": "1", "B": "2", "ERGO_TOKEN": "x"}
    assert exported(None, here)[0] == {"PATH": "/bin", "HOME": "/root", "A": "1", "B": "2"}
    assert exported("none", here)[0] == {"PATH": "/bin", "HOME": "/root"}
    assert exported("A,C", here)[0] == {"PATH": "/bin", "HOME": "/root", "A": "1"}
    assert exported("ALL,B=3", here)[0]["B"] == "3"


def test_a_variable_that_is_no_text_is_left_out_and_said():
    kept, notes = exported(None, {"ODD": os.fsdecode(b"\xff"), "EVEN": "x"})
    assert kept == {"EVEN": "x"}
    assert "ODD" in notes[0]


def test_a_command_that_is_not_there_is_refused_at_once(submitter):
    fault = refusal(Draft(command=("no-such-program", "x")), submitter)
    assert fault.code == ExitCode.NOT_FOUND
    assert "command not found" in fault.cause


def test_a_script_of_this_folder_without_a_slash_gets_a_hint(submitter):
    script(submitter.folder / "go.sh")
    assert refusal(Draft(command=("go.sh",)), submitter).remedy == "did you mean ./go.sh?"


def test_a_command_that_cannot_be_executed_is_refused_at_once(submitter):
    script(submitter.folder / "go.sh", mode=0o644)
    if os.access(submitter.folder / "go.sh", os.X_OK):
        pytest.skip("this file system makes every file executable")
    fault = refusal(Draft(command=("./go.sh",)), submitter)
    assert fault.code == ExitCode.NOT_EXECUTABLE


def test_a_script_whose_interpreter_is_gone_is_refused_at_once(submitter):
    script(submitter.folder / "go", "#!/no/such/python\n")
    fault = refusal(Draft(command=("./go",)), submitter)
    assert "/no/such/python" in fault.cause


def test_what_a_command_needs_of_tmp_is_shown_to_the_job_read_only(submitter, tmp_path):
    tool = script(tmp_path / "bin" / "tool")
    data = script(tmp_path / "data" / "table.csv")
    assert str(tool).startswith("/tmp/")  # of which each job has its own
    prepared = prepare(Draft(command=(str(tool), f"--file={data}")), submitter)
    assert [(mount.path, mount.writable) for mount in prepared.spec.mounts] == [
        (str(tool.parent), False),
        (str(data.parent), False),
    ]
    assert any(str(data.parent) in note and "read-only" in note for note in prepared.notes)


def test_a_virtual_environment_in_tmp_is_shown_whole(submitter, tmp_path):
    tool = script(tmp_path / "venv" / "bin" / "tool")
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    mounts = prepare(Draft(command=(str(tool),)), submitter).spec.mounts
    assert [mount.path for mount in mounts] == [str(tmp_path / "venv")]


def test_a_program_in_the_services_own_folder_is_refused(submitter):
    tool = script(submitter.home / "tool")
    assert "will not see" in refusal(Draft(command=(str(tool),)), submitter).cause


@pytest.mark.parametrize(
    "command",
    [("vim", "a.py"), ("python",), ("bash", "-i"), ("/usr/bin/less", "x"), ("python3.11",), ("sh", "-l"),
     ("python", "-i"), ("python", "-iu"), ("python3.11", "-i", "x.py"), ("python", "-i", "-c", "1")],
)  # fmt: skip
def test_a_program_that_needs_a_terminal_is_refused_at_once(command, submitter):
    assert "needs a terminal" in refusal(Draft(command=command), submitter).cause


@pytest.mark.parametrize(
    "command", [("bash", "-ic", "true"), ("sh", "-c", "true"), ("bash", "--version"), ("python3", "-u", "-c", "-i")]
)
def test_a_program_that_has_something_to_do_is_let_through(command, submitter):
    prepare(Draft(command=command, env={"PATH": os.environ["PATH"]}), submitter)


@pytest.mark.parametrize(
    ("said", "ranks", "notes"),
    [
        ("A100:1", None, ("--gpus A100: this fleet's devices have no types; any will do",)),
        ("2", 2, ()),
        ("8", None, ("--gpus 8: every rank gets one device, so this job asks for 1; --ranks 8 asks for 8",)),
    ],
)
def test_gpus_are_what_its_ranks_ask_for_and_what_is_not_is_said(said, ranks, notes, submitter):
    prepared = prepare(Draft(command=("true",), gpus=said, ranks=ranks), submitter)
    assert prepared.notes == notes and prepared.spec.ranks == (ranks or 1)


@pytest.mark.parametrize("said", ["", ":", "A100:none", "A100:0", "a b:1", "-1"])
def test_gpus_that_cannot_be_meant_are_refused(said, submitter):
    assert refusal(Draft(command=("true",), gpus=said), submitter).cause.startswith("--gpus")


@pytest.mark.parametrize(
    ("said", "tier"), [("high", "premium"), ("normal", "standard"), ("LOW", "basic"), ("basic", "basic")]
)
def test_a_priority_is_a_tier(said, tier):
    assert tier_of(None, said) == tier


def test_a_priority_that_is_no_tier_or_another_one_is_refused():
    with pytest.raises(CliError) as caught:
        tier_of(None, "100")
    assert "high (premium), normal (standard), low (basic)" in caught.value.remedy
    with pytest.raises(CliError):
        tier_of("basic", "high")
    assert tier_of("basic", "low") == tier_of("basic", None) == "basic"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ({"workdir": "nowhere"}, "not there"),
        ({"tier": "gold"}, "--tier"),
        ({"network": "wifi"}, "--network"),
        ({"name": "a b"}, "--name"),
        ({"mounts": ("/data-that-is-not-there",)}, "is not there"),
        ({"mounts": ("/usr:rx",)}, "'rx' is no mode"),
        ({"ranks": 1_000_000}, "--ranks"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(said, cause, submitter):
    assert cause in refusal(Draft(command=("true",), **said), submitter).cause


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ({"workdir": "/"}, "the whole machine cannot be copied"),
        ({"workdir": "~"}, "is or holds your home directory"),
        ({"workdir": "/usr", "env": {"HOME": "/usr/share"}}, "is or holds your home directory"),
        ({"workdir": "/tmp"}, "is made anew for each rank"),
        ({"workdir": "/dev/shm"}, "is made anew for each rank"),
        ({"workdir": "/proc/self/net"}, "is made anew for each rank"),
    ],
)
def test_a_working_directory_that_no_node_would_accept_is_refused_before_it_is_scanned(
    said, cause, submitter, monkeypatch
):
    monkeypatch.setenv("HOME", submitter.environment["HOME"])
    fault = refusal(Draft(command=("true",), **said), submitter)
    assert cause in fault.cause and fault.code == ExitCode.USAGE
    assert fault.remedy == "start the job from the folder that holds its program, or name it with --workdir"


def test_a_home_that_is_not_said_is_nobodys_working_directory(submitter):
    prepare(Draft(command=("true",), env={"HOME": ""}), submitter)


def test_flags_go_before_the_file():
    below = Draft(command=("a",), name="file", tier="basic", env={"A": "1", "B": "1"}, mounts=("/x",))
    above = Draft(name="flag", env={"B": "2"}, mounts=("/y",), max_restarts=0)
    both = overlay(below, above)
    assert (both.command, both.name, both.tier, both.max_restarts) == (("a",), "flag", "basic", 0)
    assert both.env == {"A": "1", "B": "2"}
    assert both.mounts == ("/x", "/y")


def test_variables_are_given_or_taken_from_here():
    assert parse_pairs(("A=1=2", "HOME"), {"HOME": "/root"}) == {"A": "1=2", "HOME": "/root"}
    for wrong in ("1A=2", "MISSING"):
        with pytest.raises(CliError):
            parse_pairs((wrong,), {})


@pytest.mark.parametrize(
    ("said", "grace_s", "meant"),
    [
        (None, None, (None, None)),
        ("TERM", 30.0, ("TERM", 30.0)),
        ("sigusr1", 5.0, ("USR1", 5.0)),
        ("B:USR1@60", None, ("USR1", 60.0)),
        ("HUP", None, ("HUP", None)),
    ],
)
def test_the_signal_is_read_as_people_write_it(said, grace_s, meant):
    assert parting_of(said, grace_s) == meant


def test_a_signal_that_reaches_no_program_and_two_grace_periods_are_refused():
    for said, words in (("KILL", "'KILL' is no signal"), ("TERM@60", "gives 60 s")):
        with pytest.raises(CliError, match=words) as caught:
            parting_of(said, 30.0)
        assert caught.value.code is ExitCode.USAGE


def test_a_signal_without_a_grace_period_means_nothing(submitter):
    fault = refusal(Draft(command=("sh", "-c", "true"), signal="USR1"), submitter)
    assert "--signal USR1" in fault.cause and "--grace" in fault.remedy
    spec = prepare(Draft(command=("sh", "-c", "true"), signal="USR1", grace_s=30.0), submitter).spec
    assert (spec.grace_s, spec.signal) == (30.0, "USR1")
    too_long = refusal(Draft(command=("sh", "-c", "true"), grace_s=1e6), submitter)
    assert too_long.cause.startswith("--grace:")


@pytest.mark.parametrize(
    ("command", "warned"),
    [
        (("bash", "-c", "cd x\npython train.py"), True),
        (("bash", "-c", "cd x\nexec python train.py"), False),
        (("sh", "-c", "python train.py"), False),
        (("python", "-c", "a; b"), False),
    ],
)
def test_a_script_whose_shell_would_end_first_is_told_so(command, warned):
    assert bool(saving_notes(command, 30.0)) is warned
    assert saving_notes(command, None) == ()
