"""`ergo verify` as typed: real fleets, real kills, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.run import tools

from ergosphere import system
from ergosphere.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = Path(__file__).parents[2] / "src"
START_S = 60.0

Verify = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The submitter's folder with the examples, a home with tools, a folder for temporary files of its own."""
    folder, home, temporary = tmp_path / "work", tmp_path / "home", tmp_path / "tmp"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    home.mkdir(mode=0o700)
    temporary.mkdir()
    (home / "criu").symlink_to(tools())
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ERGO_HOME", str(home))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return folder


@pytest.fixture
def verify(places: Path, capfd: pytest.CaptureFixture[str]) -> Verify:
    def run(*words: str) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        code = main(["verify", "-o", "json", *words])
        out, err = capfd.readouterr()
        assert out, err
        return code, json.loads(out)

    return run


def free_port() -> int:
    """The undisturbed run has no network of its own."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def differing(verdict: dict[str, Any]) -> list[str]:
    return [finding["what"] for finding in verdict["findings"] if not finding["same"]]


def left_behind(places: Path) -> list[str]:
    """Folders of private fleets; their groups, memory and bridges have names that only they know."""
    return [path.name for path in (places.parent / "tmp").iterdir()]


def test_a_shell_script_comes_out_identical_after_kills_moves_and_pauses(verify: Verify, places: Path) -> None:
    code, verdict = verify("--seed", "1", "--events", "4", "--", "sh", "primes.sh", "--steps", "140")
    assert (code, differing(verdict)) == (0, []), json.dumps(verdict, indent=1)
    assert len(verdict["blows"]) + verdict["blows_too_late"] == 4 and len(verdict["blows"]) >= 3
    assert {"rank 0 stdout", "rank 0 stderr", "blocks.tsv", "gaps.tsv"} <= {f["what"] for f in verdict["findings"]}
    assert verdict["recoveries"] >= 1 and "without ergo" in verdict["against"] and verdict["masks"] == []
    assert left_behind(places) == []


def test_a_torch_program_with_data_loader_workers_comes_out_identical(verify: Verify, places: Path) -> None:
    words = ("python", "chargpt.py", "--steps", "60", "--save-every", "20", "--sample", "20")
    code, verdict = verify("--seed", "5", "--events", "3", "--", *words)
    assert (code, differing(verdict)) == (0, []), json.dumps(verdict, indent=1)
    assert {"losses.tsv", "chargpt.pt"} <= {finding["what"] for finding in verdict["findings"]}
    assert left_behind(places) == []


def test_four_ranks_that_are_resized_at_random_come_out_identical(verify: Verify, places: Path) -> None:
    words = ("torchrun", "--nproc-per-node", "4", "digits_ddp.py", "--steps", "60")
    code, verdict = verify("--seed", "5", "--events", "3", "--resize", "--", *words)
    assert (code, differing(verdict)) == (0, []), json.dumps(verdict, indent=1)
    assert "resize" in {blow["kind"] for blow in verdict["blows"] if blow["done"]} and verdict["resizes"] >= 1
    assert "under ergo" in verdict["against"], "beyond two ranks sums are folded in rank order"
    assert verdict["identical_without_ergo"] in (True, False), "both are shown"
    assert left_behind(places) == []


def test_a_server_and_its_client_over_one_connection_come_out_identical(verify: Verify, places: Path) -> None:
    words = ("python", "serve.py", "--port", str(free_port()), "--steps", "5", "--requests", "400")
    code, verdict = verify("--seed", "3", "--events", "2", "--", *words)
    assert (code, differing(verdict)) == (0, []), json.dumps(verdict, indent=1)
    assert {"rank 0 stdout", "answers.jsonl"} <= {finding["what"] for finding in verdict["findings"]}
    assert verdict["verdict"] == "identical" and "without ergo" in verdict["against"]
    assert left_behind(places) == []


def test_a_program_that_is_bound_to_differ_does_until_it_is_masked(verify: Verify, places: Path) -> None:
    words = ("--", "sh", "-c", "echo begins; echo took $(cat /proc/sys/kernel/random/uuid) s; echo done >file")
    code, verdict = verify("--events", "0", "--twice", *words)
    assert (code, differing(verdict), verdict["deterministic"]) == (1, ["rank 0 stdout"], False)
    first = next(finding["first_difference"] for finding in verdict["findings"] if not finding["same"])
    assert first["line"] == 2 and first["left"].startswith("took ") and first["left"] != first["right"]
    code, verdict = verify("--events", "0", "--against", "ergo", "--mask", "took .* s", *words)
    assert (code, verdict["identical"], verdict["masks"]) == (0, True, ["took .* s"])
    assert "under ergo" in verdict["against"] and left_behind(places) == []


def test_a_program_that_ends_before_the_first_blow_proves_nothing(verify: Verify, places: Path) -> None:
    code, verdict = verify("--", "true")
    assert (code, differing(verdict), verdict["verdict"], verdict["identical"]) == (8, [], "not disturbed", False)
    assert len(verdict["never_dealt"]) == 6 and not any(blow["done"] for blow in verdict["blows"])
    assert left_behind(places) == []


def test_a_program_that_fails_by_itself_is_said_to(places: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--", "sh", "-c", "echo no such thing >&2; exit 3"]) == 1
    said = capfd.readouterr().err
    assert "the undisturbed run failed (exit code 3)" in said and "no such thing" in said
    assert left_behind(places) == []


def test_an_interrupted_verification_leaves_nothing_behind(places: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(places.parent / "tmp")}
    command = [sys.executable, "-m", "ergosphere.cli.main", "verify", "--", "sh", "primes.sh", "--steps", "5000"]
    verifying = subprocess.Popen(command, cwd=places, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    assert verifying.stderr is not None
    while b"undisturbed" not in (line := verifying.stderr.readline()):
        assert line, "it ended before it had begun"
    fleets = [path for path in (places.parent / "tmp").iterdir() if (path / "server").exists()]
    verifying.send_signal(signal.SIGTERM)
    assert verifying.wait(timeout=START_S) == 130
    verifying.stderr.close()
    assert left_behind(places) == []
    for home in fleets:
        assert not system.memory_folder(home).exists()
        assert not Path("/sys/class/net", f"ergo{system.fleet_id(home)}"[:15]).exists()
        assert not list(Path("/sys/fs/cgroup").glob(f"**/ergo-{system.fleet_id(home)}"))
    assert fleets and not _processes_of(fleets[0])


def _processes_of(home: Path) -> list[str]:
    """Command lines that name the home; a killed process takes a moment to go."""
    end_s = time.monotonic() + START_S
    while found := _naming(os.fsencode(home)):
        if time.monotonic() > end_s:
            break
        time.sleep(0.1)
    return found


def _naming(words: bytes) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if words in line:
            found.append(line.decode(errors="replace"))
    return found
