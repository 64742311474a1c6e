"""What the shim does to programs that have no use for it: nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ergosphere import shim
from ergosphere.agent.cut import CutReached
from ergosphere.agent.cut_port import LocalRank
from ergosphere.agent.cut_view import RankState, RankView


@pytest.fixture
def shim_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(shim.__file__).parent, tmp_path / "shim"))


def run(code: str, shim_folder: Path, control: Path, *further: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(path) for path in (shim_folder, *further))
    environment = dict(os.environ, PYTHONPATH=paths, ERGO_CONTROL=str(control))
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_the_sitecustomize_that_would_have_run_runs(shim_folder, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("import sys; sys.chained = __file__\n")
    LocalRank.create(tmp_path / "control")
    code = "import sys, sitecustomize; print(sys.chained, sitecustomize.__file__)"
    ended = run(code, shim_folder, tmp_path / "control", tmp_path / "own")
    assert ended.stdout.split() == [str(tmp_path / "own" / "sitecustomize.py")] * 2
    assert ended.stderr == ""


def test_a_program_without_torch_loads_nothing_but_the_hook(shim_folder, tmp_path):
    LocalRank.create(tmp_path / "control")
    code = "import sys; print(sorted(name for name in sys.modules if name.startswith('ergo_shim')))"
    ended = run(code, shim_folder, tmp_path / "control")
    assert ended.stdout.strip() == "['ergo_shim', 'ergo_shim.hook']"


def test_a_program_that_only_imports_torch_has_no_thread_and_no_mapping(shim_folder, tmp_path):
    port = LocalRank.create(tmp_path / "control")
    code = "import torch.distributed, threading; print(threading.active_count(), open('/proc/self/maps').read())"
    ended = run(code, shim_folder, tmp_path / "control")
    assert ended.stdout.startswith("1 ")
    assert str(tmp_path / "control") not in ended.stdout
    assert port.view() == RankView(RankState.NONE)


def test_without_a_control_file_torch_is_not_touched(shim_folder, tmp_path):
    code = "import torch.distributed.distributed_c10d as c; print(c._new_process_group_helper.__module__)"
    assert run(code, shim_folder, tmp_path / "absent").stdout.strip() == "torch.distributed.distributed_c10d"


def test_several_members_in_one_tree_are_seen_and_left_to_be_frozen_where_they_stand(launch, tmp_path):
    job = launch("family.py", str(tmp_path), ranks=1)
    job.until(lambda: job.ports[0].view().others == 1)
    assert job.cut() == CutReached(parked=())
    (tmp_path / "enough").touch()
    assert job.exits() == [0], job.errors()
    assert sorted(job.outputs()[0].split("\n")) == ["", "0 3.0", "1 3.0"]
