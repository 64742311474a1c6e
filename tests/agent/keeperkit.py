"""A keeper with ranks, for tests: real processes, groups, mounts and networks, all removed at the end."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.agent.small_rank import tool

from ergosphere.agent import cgroups, criu, keepers, network, rootfs
from ergosphere.system import short_id

AGENT = Path(rootfs.__file__).parent
INIT = AGENT / "init" / f"init-{os.uname().machine}"


def wait_for(what: Callable[[], object], limit_s: float = 20.0) -> None:
    """Until `what()` is true; a limit only so that a broken test ends."""
    until = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < until, f"waited {limit_s:g} s in vain"
        time.sleep(0.005)


class Machine:
    """One node's worth of folders, groups and networks."""

    def __init__(self, version: int | None = None) -> None:
        self.id = short_id()
        self.base = Path(tempfile.mkdtemp(prefix="ergo-test-", dir="/var/tmp"))
        self.run = Path(tempfile.mkdtemp(prefix="ergo-test-", dir="/dev/shm"))
        self.hierarchy = cgroups.choose(version)
        self.group = f"ergo-test-{self.id}"
        cgroups.freezer(f"{self.group}/keepers", self.hierarchy).create()
        self.workdir = self.base / "home" / "project"
        self.workdir.mkdir(parents=True)
        self.home = self.base / "ergo"
        (self.home / "secret").mkdir(parents=True)
        self.fleet: network.Fleet | None = None
        self.lives: list[Life] = []

    @functools.cached_property
    def criu(self) -> criu.Criu:
        found = tool()
        return criu.stage(found.argv_prefix, found.private_root, self.run / "criu")

    def plan(self, **asked: object) -> rootfs.RootPlan:
        spec = {"workdir": str(self.workdir), "hidden": (str(self.home),), "home": str(self.base / "home"), **asked}
        return rootfs.make_plan(rootfs.RootSpec(**spec))  # type: ignore[arg-type]

    def with_fleet(self, nft: tuple[str, ...] | None) -> network.Fleet:
        subnet = network.choose_subnet(self.id, self.base / "network.json")
        self.fleet = network.Fleet(self.id[:8], subnet, nft)
        network.ensure_fleet(self.fleet)
        return self.fleet

    def life(self, incarnation: int = 1, net: network.CellNet | None = None, lease_s: float = 0.0) -> Life:
        life = Life(self, incarnation, net, lease_s)
        self.lives.append(life)
        return life

    def net(self, name: str, address: str, kind: network.Kind = "private", held: bool = False) -> network.CellNet:
        assert self.fleet is not None
        net = network.cell_net(self.fleet, name, address, kind, self.run / "net")
        network.make(self.fleet, net, held)
        return net

    def remove(self) -> None:
        top = cgroups.freezer(self.group, self.hierarchy)
        top.kill()
        for life in self.lives:
            if life.net is not None:
                network.remove(life.net)
        if self.fleet is not None:
            network.remove_fleet(self.fleet)
        top.remove()
        shutil.rmtree(self.base)
        shutil.rmtree(self.run)


class Life:
    """One cell of one life: its folders and its keeper."""

    def __init__(self, machine: Machine, incarnation: int, net: network.CellNet | None, lease_s: float) -> None:
        self.machine, self.net = machine, net
        self.name = f"j1.{incarnation}.0"
        self.folder = machine.home / "lives" / f"{self.name}-{len(machine.lives)}"
        for name in ("root", "empty", "work", "cache"):
            (self.folder / name).mkdir(parents=True)
        self.spec = keepers.KeeperSpec(
            job="j1",
            incarnation=incarnation,
            cell=0,
            socket=machine.run / "k" / f"{self.name}-{len(machine.lives)}",
            state=self.folder / "keeper.json",
            log=self.folder / "keeper.log",
            keepers_group=str(cgroups.freezer(f"{machine.group}/keepers", machine.hierarchy).path),
            lease_s=lease_s,
            netns=net.netns if net else None,
            link=net.link if net else None,
        )
        self.keeper = keepers.start_keeper(self.spec)

    def places(self, rank: int) -> rootfs.Places:
        at = self.folder
        return rootfs.Places(at / "root", at / "empty", at / "work", at / "ranks" / str(rank), at / "cache")

    def freezer(self, rank: int) -> cgroups.Freezer:
        return cgroups.freezer(f"{self.machine.group}/{self.folder.name}/rank{rank}", self.machine.hierarchy)

    def order(self, argv: Sequence[str], rank: int = 0, plan: rootfs.RootPlan | None = None) -> keepers.LaunchRank:
        places = self.places(rank)
        address = self.net.address if self.net else "127.0.0.1"
        rootfs.prepare_rank(places.rank, INIT, {f"j1-{rank}": address}, private_network=self.net is not None)
        return keepers.LaunchRank(
            rank=rank,
            argv=tuple(argv),
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self.machine.base / "home")},
            cwd=str(self.machine.workdir),
            root_plan=rootfs.places_to_keeper(plan or self.machine.plan(), places),
            cgroup=str(self.freezer(rank).path),
            status=str(places.rank / "status"),
            hostname=f"j1-{rank}",
            netns=self.net.netns if self.net else None,
        )

    def launch(self, *commands: Sequence[str]) -> dict[int, int]:
        return self.keeper.launch([self.order(command, rank) for rank, command in enumerate(commands)])

    def out(self, rank: int = 0) -> str:
        return (self.places(rank).rank / "out.log").read_text()

    def err(self, rank: int = 0) -> str:
        return (self.places(rank).rank / "err.log").read_text()

    def kept(self, rank: int = 0) -> keepers.KeptRank:
        return next(kept for kept in self.keeper.state().ranks if kept.rank == rank)

    def exited(self, rank: int = 0) -> keepers.KeptRank:
        wait_for(lambda: self.kept(rank).state == "exited")
        return self.kept(rank)

    def images(self, rank: int) -> Path:
        return self.machine.run / "images" / self.folder.name / str(rank)

    def dump(self, plan: rootfs.RootPlan, rank: int = 0) -> keepers.Ran:
        images = self.images(rank)
        images.mkdir(parents=True)
        inode = os.stat(self.net.netns).st_ino if self.net and self.net.netns else None
        order = criu.Dump(
            pid=self.kept(rank).pid,
            images=images,
            group=self.freezer(rank).path,
            mounts=tuple(rootfs.dump_externals(plan)),
            netns_inode=inode,
        )
        ran = self.keeper.dump(rank, self.machine.criu.dump_argv(order), str(images), 60.0)
        assert ran.rc == 0, _errors(images / "dump.log")
        return ran

    def restore_order(self, plan: rootfs.RootPlan, images: Path, rank: int = 0) -> keepers.RestoreRank:
        places = self.places(rank)
        net_fd = 300 if self.net and self.net.netns else None
        order = criu.Restore(
            images=images,
            pidfile=images / "pid",
            mounts=tuple(rootfs.restore_externals(plan, places)),
            net_fd=net_fd,
        )
        return keepers.RestoreRank(
            rank=rank,
            argv=tuple(self.machine.criu.restore_argv(order)),
            pidfile=str(images / "pid"),
            root_plan=rootfs.places_to_keeper(plan, places),
            cgroup=str(self.freezer(rank).path),
            status=str(places.rank / "status"),
            log=str(images / "criu.out"),
            fds={net_fd: self.net.netns} if net_fd and self.net and self.net.netns else {},
        )

    def restore(self, freeze_id: str, plan: rootfs.RootPlan, before: Life, ranks: Sequence[int] = (0,)) -> None:
        """Brings the ranks of the life before back here, suspended."""
        self.take_over(before)
        orders = [self.restore_order(plan, before.images(rank), rank) for rank in ranks]
        try:
            self.keeper.restore(freeze_id, orders, 60.0)
        except keepers.KeeperRefused as error:
            logs = [f"{_errors(before.images(rank) / 'restore.log')}" for rank in ranks]
            raise AssertionError(f"{error}\n" + "\n".join(logs)) from error

    def take_over(self, before: Life) -> None:
        """What the agent does at a thaw: the working copy, the cache and the ranks' folders, at other host paths."""
        for name in ("work", "cache", "ranks"):
            shutil.copytree(before.folder / name, self.folder / name, symlinks=True, dirs_exist_ok=True)


def _errors(log: Path) -> str:
    if not log.exists():
        return (log.parent / "criu.out").read_text()
    return "\n".join(line for line in log.read_text().splitlines() if "Error" in line or "Warn" in line)
