"""The example programs alone, without Ergosphere: what later runs are compared with must itself be reproducible."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN_S_MAX = 120.0  # a hundred times the work, for a busy machine
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@contextmanager
def started(command: tuple[str, ...], directory: Path) -> Iterator[subprocess.Popen[str]]:
    directory.mkdir()
    with open(directory / "stderr", "w") as errors:
        program = subprocess.Popen(
            command, cwd=directory, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    try:
        yield program
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
        program.communicate()


def run_twice(first: tuple[str, ...], second: tuple[str, ...], directory: Path) -> tuple[list[str], list[str]]:
    """Both at once, each in a directory of its own; their output lines after both ended well."""
    with started(first, directory / "first") as one, started(second, directory / "second") as other:
        outputs = [program.communicate(timeout=RUN_S_MAX)[0].splitlines() for program in (one, other)]
        for name, program in (("first", one), ("second", other)):
            assert program.returncode == 0, (directory / name / "stderr").read_text()
    return outputs[0], outputs[1]


def results(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "stderr"}


def assert_same_files(directory: Path, names: set[str]) -> None:
    first, second = results(directory / "first"), results(directory / "second")
    assert first.keys() == second.keys() == names
    assert [name for name in names if first[name] != second[name]] == []


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_command(port: int, *more: str) -> tuple[str, ...]:
    return (sys.executable, str(EXAMPLES / "serve.py"), "--steps", "30", "--port", str(port), *more)


def wait_until_serving(program: subprocess.Popen[str]) -> None:
    assert program.stdout is not None
    while line := program.stdout.readline():
        if line.startswith("serving"):
            return
    raise AssertionError("the server ended before it served")


def ask(connection: http.client.HTTPConnection, question: object) -> tuple[int, dict[str, object]]:
    connection.request("POST", "/predict", json.dumps(question))
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_two_runs_of_the_digits_classifier_are_equal_rank_by_rank(tmp_path: Path) -> None:
    command = (*TORCHRUN, str(EXAMPLES / "digits_ddp.py"), "--steps", "12")
    first, second = run_twice(command, command, tmp_path)
    for lines in (first, second):
        lines.sort(key=lambda line: line.startswith("rank"))  # stable: the order within each rank is kept
    assert first == second
    assert len({line.split()[-1] for line in first if "digest" in line}) == 1, "replicas differ"
    assert_same_files(tmp_path, {"digits.pt"})


def test_two_runs_of_the_character_gpt_are_equal(tmp_path: Path) -> None:
    command = (sys.executable, str(EXAMPLES / "chargpt.py"), "--steps", "12", "--save-every", "5", "--sample", "40")
    first, second = run_twice(command, command, tmp_path)
    assert first == second
    assert first[-1].startswith("digest ")
    assert_same_files(tmp_path, {"chargpt.pt", "losses.tsv"})


def test_two_servers_give_equal_answers_to_their_own_clients(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    first, second = run_twice(*(serve_command(port, "--requests", "20") for port in ports), tmp_path)
    assert [line for line in first if "port" not in line] == [line for line in second if "port" not in line]
    assert first[-2] == "answered 20 requests"
    assert_same_files(tmp_path, {"answers.jsonl"})


def test_two_runs_of_the_shell_pipeline_are_equal(tmp_path: Path) -> None:
    command = ("sh", str(EXAMPLES / "primes.sh"), "--steps", "20", "--block", "10000")
    first, second = run_twice(command, command, tmp_path)
    assert first == second
    assert sum(line.startswith("step ") for line in first) == 20
    assert_same_files(tmp_path, {"blocks.tsv", "gaps.tsv"})


def test_the_server_counts_good_requests_refuses_bad_ones_and_ends_at_sigterm(tmp_path: Path) -> None:
    port = free_port()
    with started(serve_command(port), tmp_path / "served") as program:
        wait_until_serving(program)
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=RUN_S_MAX)) as connection:
            status, first = ask(connection, {"index": 12})
            assert (status, first["request"]) == (200, 1)
            for bad in ({"index": 99999}, {"pixels": [1, 2]}, {"pixels": "x"}, [], {}):
                assert ask(connection, bad)[0] == 400
            assert ask(connection, {"index": 12})[1] == {**first, "request": 2}
        program.send_signal(signal.SIGTERM)
        output, _ = program.communicate(timeout=RUN_S_MAX)
        assert program.returncode == 0
        assert "answered 2 requests\ndigest " in output


@pytest.mark.parametrize(
    "path", sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")), ids=lambda path: path.name
)
def test_examples_import_nothing_of_ours(path: Path) -> None:
    assert "ergo" not in path.read_text().lower()
