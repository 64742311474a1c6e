"""Where one node keeps things: every path and group name of an agent, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ergosphere import system


@dataclass(frozen=True, slots=True)
class CellKey:
    """One cell of one life, as folders, sockets and groups are named after it."""

    job: str
    incarnation: int
    cell: int

    def __str__(self) -> str:
        return f"{self.job}.{self.incarnation}.{self.cell}"

    @classmethod
    def parse(cls, text: str) -> CellKey:
        """The inverse of str(); raises ValueError when the text is not one."""
        job, incarnation, cell = text.rsplit(".", 2)
        return cls(job, int(incarnation), int(cell))


@dataclass(frozen=True, slots=True)
class Place:
    """One node of one home."""

    home: Path
    node: str

    @property
    def node_dir(self) -> Path:
        return self.home / "nodes" / self.node

    @property
    def lives(self) -> Path:
        return self.node_dir / "lives"

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def memory(self) -> Path:
        """Folder in memory: fresh images and keeper sockets of this node."""
        return system.memory_folder(self.home) / self.node

    @property
    def credentials(self) -> Path:
        """What an object store wants to know of whoever asks; in memory only, for keepers at their deadline."""
        return self.memory / "credentials.json"

    @property
    def disk_images(self) -> Path:
        """Where images go when memory could not hold them beside the newcomer."""
        return self.node_dir / "images"

    @property
    def memory_pools(self) -> Path:
        """A folder for each cell: contents of its files on their way to the shared store."""
        return self.memory / "pool"

    @property
    def disk_pools(self) -> Path:
        """Where a cell's pool goes with its images; while it is here it is the cell's pool."""
        return self.node_dir / "pool"

    @property
    def group(self) -> str:
        """The cgroup of the whole node, relative to the freezer's root."""
        return f"ergo-{system.fleet_id(self.home)}/{self.node}"

    def life(self, key: CellKey) -> Path:
        return self.lives / str(key)

    @property
    def shared_root(self) -> Path:
        """In memory: a folder for each life here whose ranks share something."""
        return self.memory / "share"

    def shared(self, job: str, incarnation: int) -> Path:
        """What the ranks of one life share on this node."""
        return self.shared_root / f"{job}.{incarnation}"

    def keeper_socket(self, key: CellKey) -> Path:
        return self.memory / "k" / str(key)

    def rank_group(self, key: CellKey, rank: int) -> str:
        return f"{self.group}/{key}/rank{rank}"

    def other(self, node: str) -> Place:
        """The same home's other node: how nodes of the local engine reach each other's memory."""
        return Place(self.home, node)
