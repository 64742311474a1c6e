"""What a rank sees of its host and what of that it may write, when it is launched and after two moves."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.keeperkit import Machine, wait_for

from ergosphere.agent import hostmounts, rootfs
from ergosphere.agent.hostmounts import HostMount
from ergosphere.agent.rootfs import Mount, RootPlan

HOST = (
    HostMount("/", "ext4"),
    HostMount("/data", "xfs"),
    HostMount("/data/big", "nfs4"),
    HostMount("/dev", "devtmpfs"),
    HostMount("/dev/shm", "tmpfs"),
    HostMount("/net", "autofs"),
    HostMount("/run/user/1000", "tmpfs"),
    HostMount("/srv/ergo/disk", "ext4"),
    HostMount("/sys/fs/cgroup", "cgroup2"),
    HostMount("/var/lib/docker/overlay2/ab12/merged", "overlay"),
)


def test_whose_file_it_is_that_a_rank_finds_is_told_by_the_mount_that_shows_it() -> None:
    plan = RootPlan(
        (
            Mount("tmpfs", "/tmp", writable=True),
            Mount("bind", "/tmp/data", "/tmp/data"),
            Mount("bind", "/tmp/data/out", "/tmp/data/out", writable=True),
            Mount("bind", "/etc/hosts", "@rank/hosts"),
            Mount("bind", "/home/me/project", "@work", writable=True),
            Mount("bind", "/home/me/project/.venv", "/home/me/project/.venv"),
        )
    )
    shown = ("/usr/lib/libc.so", "/tmp/data/x.bin", "/home/me/project/.venv/bin/python", "/tmp/database")
    assert [rootfs.is_hosts(plan, path, writable=False) for path in shown] == [True, True, True, False]
    own = ("/tmp/x", "/etc/hosts", "/home/me/project/train.py")
    assert not any(rootfs.is_hosts(plan, path, writable=may) for path in own for may in (True, False))
    assert rootfs.is_hosts(plan, "/tmp/data/out/log", writable=True)
    assert not rootfs.is_hosts(plan, "/tmp/data/out/log", writable=False)


# Tries to write everywhere, says where it could; what it holds open must come back too.
LOOK = """
import os, sys, time
def may(path):
    try:
        open(path, "x").close(); os.unlink(path); return True
    except OSError:
        return False
main, side = os.openpty()
held = [open(path) for path in ("/etc/hosts", "/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled",
                                "kept/venv.txt", os.ttyname(side))]
held += [open(path, "w") for path in ("/dev/null", "/tmp/mine", "/run/mine", "/dev/shm/mine", "mine")]
rounds = 0
while True:
    rounds += 1
    for name in ("mine", "/tmp/mine"):
        with open(name, "a") as file:
            file.write("x")
    seen = [path for path in sys.argv[1:] if may(path + "/new")]
    print(rounds, "may write:", " ".join(seen), "| hidden:", os.listdir(os.environ["HIDDEN"]), flush=True)
    time.sleep(0.02)
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.remove()


def plan_of(workdir: Path | str, **asked: object) -> dict[str, rootfs.Mount]:
    spec = {"hidden": ("/srv/ergo",), "home": "/home/someone", "cache": False, **asked}
    plan = rootfs.make_plan(rootfs.RootSpec(str(workdir), **spec), HOST)  # type: ignore[arg-type]
    return {mount.target: mount for mount in plan.mounts}


def test_real_mounts_are_mirrored_read_only_and_the_kernels_views_are_not(tmp_path: Path) -> None:
    mounts = plan_of("/home/someone/project")
    assert mounts["/data/big"] == rootfs.Mount("bind", "/data/big", "/data/big")
    assert not {"/net", "/run/user/1000", "/sys/fs/cgroup"} & set(mounts)
    assert not [target for target in mounts if "docker" in target]
    assert mounts["/dev/shm"].kind == "tmpfs" and mounts["/sys"].writable is False


def test_the_home_of_ergo_is_hidden_with_every_mount_below_it() -> None:
    mounts = plan_of("/home/someone/project")
    assert mounts["/srv/ergo"].source == rootfs.EMPTY and "/srv/ergo/disk" not in mounts


def test_parents_come_before_children() -> None:
    targets = list(plan_of("/data/big/project", bound=()))
    assert targets.index("/data") < targets.index("/data/big") < targets.index("/data/big/project")
    assert targets.index("/dev") < targets.index("/dev/pts") < targets.index("/dev/ptmx")


def test_only_ignored_paths_and_opened_ones_shine_through_the_working_copy(tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "data").mkdir()
    mounts = plan_of(tmp_path, bound=("venv", "gone"), opened=((f"{tmp_path}/data", True),))
    below = {target: mounts[target].writable for target in mounts if target.startswith(str(tmp_path))}
    assert below == {str(tmp_path): True, f"{tmp_path}/venv": False, f"{tmp_path}/data": True}


def test_an_opened_path_is_opened_with_what_is_mounted_below_it() -> None:
    mounts = plan_of("/home/someone/project", opened=(("/usr", True), ("/", False))[:1])
    assert mounts["/usr"].writable
    with pytest.raises(rootfs.RootError, match="no such path"):
        plan_of("/home/someone/project", opened=(("/no/where", True),))
    with pytest.raises(rootfs.RootError, match="each rank has its own /proc"):
        plan_of("/home/someone/project", opened=(("/proc", False),))


@pytest.mark.parametrize(
    ("workdir", "cause"),
    [
        ("/", "the whole machine cannot be copied"),
        ("/home/someone", "is or holds your home directory"),
        ("/home", "is or holds your home directory"),
        ("/tmp", "made anew for each rank"),
        ("/run/user/1000", "made anew for each rank"),
        ("/etc/passwd", "is not a folder"),
    ],
)
def test_a_working_directory_that_cannot_be_copied_is_refused(workdir: str, cause: str) -> None:
    with pytest.raises(rootfs.RootError, match=cause) as refused:
        plan_of(workdir)
    assert refused.value.remedy == "start the job from the folder that holds its program"


def test_an_ignored_path_outside_is_refused() -> None:
    with pytest.raises(rootfs.RootError, match="not below the working directory"):
        plan_of("/usr", bound=("../etc",))


def test_a_plan_survives_its_way_through_a_manifest(machine: Machine) -> None:
    plan = machine.plan()
    assert rootfs.plan_from_json(rootfs.plan_to_json(plan)) == plan


def test_a_plan_names_no_place_of_one_node(machine: Machine) -> None:
    plan = machine.plan()
    assert not [mount for mount in plan.binds if str(machine.home) in mount.source]
    places = rootfs.Places(*(machine.home / name for name in ("root", "empty", "work", "rank", "cache")))
    assert set(rootfs.missing_sources(plan, places)) == {
        str(machine.home / name) for name in ("empty", "work", "rank", "rank/hosts", "cache")
    }


def test_mounts_of_this_host_are_those_paths_lead_to() -> None:
    targets = [mount.target for mount in hostmounts.read_mounts()]
    assert targets[0] == "/" and len(set(targets)) == len(targets)
    for mount in hostmounts.read_mounts():
        assert os.path.lexists(mount.target)


def test_a_mount_under_another_one_and_names_in_octal_are_understood(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    real = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == "/")
    under = real.replace(" / / ", " / /no/such\\040place ", 1)
    mountinfo.write_text(f"{under}\n{real}\n")
    assert [mount.target for mount in hostmounts.read_mounts(mountinfo)] == ["/"]
    assert hostmounts._unescaped("/a\\040b\\134c") == "/a b\\c"


@pytest.mark.criu
def test_a_rank_that_moved_twice_sees_and_may_write_what_it_could_before(machine: Machine) -> None:
    (machine.workdir / "kept").mkdir()
    (machine.workdir / "kept" / "venv.txt").write_text("ignored by git")
    (machine.base / "scratch").mkdir()
    plan = machine.plan(bound=("kept",), opened=((f"{machine.base}/scratch", True),))
    home = f"{machine.base}/home"
    writable = [str(machine.workdir), f"{home}/.cache", f"{machine.base}/scratch", "/tmp", "/dev/shm", "/run"]
    readonly = [f"{machine.workdir}/kept", home, str(machine.home), "/", "/etc", "/dev", "/sys", "/proc/sys"]
    life = machine.life(1)
    order = life.order(["python3", "-c", LOOK, *writable, *readonly], plan=plan)
    order.env["HIDDEN"] = str(machine.home)
    life.keeper.launch([order])
    expected = f"may write: {' '.join(writable)} | hidden: []"
    wait_for(lambda: "\n3 may" in life.out() or life.err())
    assert not life.err()
    for incarnation in (2, 3):
        life.keeper.suspend("f", 60.0, ["false"], "kill")
        life.dump(plan)
        life.keeper.kill("f")
        moved = machine.life(incarnation)
        moved.restore("f", plan, life)
        shutil.rmtree(life.folder / "work")
        rounds = len(life.out().splitlines())
        life = moved
        life.keeper.release("f")
        wait_for(lambda: len(life.out().splitlines()) > rounds + 2 or life.err())
        assert not life.err()
    lines = life.out().splitlines()
    assert lines == [f"{number} {expected}" for number in range(1, len(lines) + 1)]
    life.keeper.kill()
    assert len((life.folder / "work" / "mine").read_text()) in (len(lines), len(lines) + 1)


def test_names_resolve_when_resolv_conf_is_a_link_into_run(machine: Machine) -> None:
    life = machine.life()
    plan = rootfs.RootPlan(machine.plan().mounts, (("/run/resolver/stub.conf", f"{rootfs.RANK_AT}/resolv.conf"),))
    life.keeper.launch([life.order(["sh", "-c", "cat /run/resolver/stub.conf; getent hosts j1-0"], plan=plan)])
    life.exited()
    assert Path(rootfs.RESOLV_CONF).read_text() in life.out()
    assert "127.0.0.1" in life.out().splitlines()[-1]


@pytest.fixture(scope="session")
def below() -> Iterator[Path]:
    """A place to mount to. It stays: ranks of tests beside this one see it, and may be restored with it later."""
    place = Path(tempfile.mkdtemp(prefix="ergo-test-", dir="/var/tmp"))
    yield place
    place.rmdir()


def test_a_working_directory_in_tmp_or_below_another_mount_is_at_its_path(
    machine: Machine, tmp_path: Path, below: Path
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    try:
        for workdir in (tmp_path / "job", below / "job"):
            workdir.mkdir()
            life = machine.life()
            (life.folder / "work" / "inside.txt").write_text("copied")
            machine.workdir = workdir
            life.launch(["sh", "-c", "pwd; ls; touch new"])
            life.exited()
            assert (life.out().split(), life.err()) == ([str(workdir), "inside.txt"], "")
            assert (life.folder / "work" / "new").exists() and not (workdir / "new").exists()
            life.keeper.leave()
    finally:
        subprocess.run(["umount", below], check=True)
