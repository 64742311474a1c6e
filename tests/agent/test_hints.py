"""What a failed job's last words say that its owner can do something about."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ergosphere.agent.hints import hint_of


def hint(tmp_path: Path, text: str) -> str | None:
    log = tmp_path / "rank0.err"
    log.write_text(text)
    return hint_of([tmp_path / "there is none", log])


def test_a_path_that_is_read_only_is_told_with_the_flag_that_opens_it(tmp_path: Path) -> None:
    assert "--mount /usr:rw" in (hint(tmp_path, "sh: 1: cannot create /usr/x: Read-only file system\n") or "")


@pytest.mark.parametrize(
    "text",
    [
        "sh: 1: cannot open /dev/tty: No such device or address\n",
        "OSError: [Errno 6] No such device or address: '/dev/tty'\n",
        "termios.error: (25, 'Inappropriate ioctl for device')\n",
        "stty: 'standard input': Inappropriate ioctl for device\nand then it gave up\n",
    ],
)
def test_a_program_that_asked_for_a_terminal_is_told_that_jobs_have_none(tmp_path: Path, text: str) -> None:
    assert "terminal" in (hint(tmp_path, text) or "")


def test_a_program_that_asked_for_a_line_of_input_is_told_that_it_is_empty(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "input('name? ')"]
    asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert "a job's input is empty" in (hint(tmp_path, asked.stderr) or "")


def test_the_last_cause_is_the_one_that_is_told(tmp_path: Path) -> None:
    told = hint(tmp_path, "stty: Inappropriate ioctl for device\ntouch: '/usr/x': Read-only file system\n")
    assert told is not None and "--mount" in told


@pytest.mark.parametrize("text", ["ValueError: loss is nan\n", "EOFError: Ran out of input\n"])
def test_other_last_words_have_no_hint(tmp_path: Path, text: str) -> None:
    assert hint(tmp_path, text) is None
