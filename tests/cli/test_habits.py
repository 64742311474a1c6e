"""What people type who come from other systems."""

from __future__ import annotations

import pytest

from ergosphere.cli import habits
from ergosphere.cli.errors import ExitCode
from ergosphere.cli.main import main


@pytest.mark.parametrize(("typed", "ours"), [("squeue", "ergo ps"), ("Kill", "ergo cancel JOB"), ("cordon", "drain")])
def test_a_command_of_another_system_is_answered_with_ours(typed: str, ours: str, capsys) -> None:
    assert main([typed]) == ExitCode.USAGE
    told = capsys.readouterr().err
    assert f"unknown command {typed}" in told and ours in told


def test_what_is_named_there_is_a_command_and_what_is_a_command_is_not_renamed(capsys) -> None:
    for ours, theirs in habits._COMMANDS.items():
        assert main([ours.split()[1], "--help"]) == ExitCode.OK
        for word in theirs.split():
            assert main([word]) == ExitCode.USAGE
            assert "here it is" in capsys.readouterr().err


def test_a_slip_is_still_answered_with_the_nearest_command(capsys) -> None:
    assert main(["resum"]) == ExitCode.USAGE
    assert "did you mean resume?" in capsys.readouterr().err
    assert main(["report", "kill"]) == ExitCode.USAGE
    assert "ergo cancel" not in capsys.readouterr().err
