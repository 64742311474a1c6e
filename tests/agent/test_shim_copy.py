"""Ranks get the shim compiled: their own Python need not do it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ergosphere.agent import shim_copy


def _modules_compiled(folder: Path) -> set[str]:
    """Of the shim in a rank's folder, the modules that Python reads from compiled code."""
    command = [sys.executable, "-B", "-v", "-c", "import ergo_shim.patch"]
    told = subprocess.run(command, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True).stderr
    found = (line.split()[1] for line in told.splitlines() if " matches " in line)
    return {Path(name).name.split(".")[0] for name in found if name.startswith(str(folder))}


def test_a_rank_reads_what_the_agent_has_compiled(tmp_path: Path) -> None:
    shim_copy.give(tmp_path, tmp_path / "early")
    assert _modules_compiled(tmp_path / "early") == set(), "an agent that has just begun gives it as it is"
    shim_copy.compile_for(tmp_path)
    shim_copy.compile_for(tmp_path)  # as a second agent process does
    shim_copy.give(tmp_path, tmp_path / "rank")
    assert {"sitecustomize", "hook", "patch", "steps"} <= _modules_compiled(tmp_path / "rank")
    (tmp_path / "shim-0123").mkdir()
    shim_copy.compile_for(tmp_path)
    assert len(list(tmp_path.glob("shim-*"))) == 1, "an older version's copy goes"
