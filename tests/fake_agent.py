"""Nodes that speak the wire protocol at a real port and run programs of paper: no process, no CRIU, no network.

A program is a counter: each tick, every rank writes the line "rank R line N". A `World` is what all its nodes share
(cells, snapshots), a `FakeAgent` is one node. What can go wrong is set on the world, in the words of the wire.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from ergosphere.snapshots.gather import CellFiles
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.results import save_result
from ergosphere.snapshots.store import FolderStore
from ergosphere.wire.agents import (
    AgentReport,
    Answer,
    CellState,
    EndOrder,
    FreezeOrder,
    InboxPage,
    LifePlan,
    LogChunk,
    Mail,
    Order,
    RankState,
    ReportReply,
    ResizeOrder,
    SnapshotState,
    StartOrder,
    ThawOrder,
)

LOOK_S = 0.2  # between looks for news; who has some reports at once, as an agent does
REPORT_S = 0.8  # between reports without news: seven in a lease of the test's servers, for a busy machine
TICK_S = 0.02


def line(rank: int, number: int) -> str:
    return f"rank {rank} line {number}\n"


@dataclass
class Program:
    """What a job's command means here: ["count", LINES, EXIT_CODE]; LINES 0 runs for ever."""

    lines: int
    exit_code: int

    @staticmethod
    def of(command: tuple[str, ...]) -> Program:
        return Program(int(command[1]), int(command[2]) if len(command) > 2 else 0)


@dataclass
class Life:
    """All cells of one life: a thread that counts."""

    plan: LifePlan
    number: int  # lines written
    base: dict[str, int] = field(default_factory=dict)  # log lengths it began with
    ended: dict[int, RankState] = field(default_factory=dict)  # rank → how
    frozen: bool = False
    over: bool = False
    held: bool = False  # a freeze holds it

    @property
    def key(self) -> tuple[str, int]:
        return self.plan.job, self.plan.incarnation


@dataclass
class Snapshot:
    id: str
    job: str
    number: int
    lengths: dict[str, int]
    nodes: tuple[str, ...]


class World:
    """What nodes share. Set `freeze_fails`, `start_fails` … to answers, add to `damaged`."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home = home
        self.folder = folder
        self.lock = threading.RLock()
        self.lives: dict[tuple[str, int], Life] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.agents: dict[str, FakeAgent] = {}
        self.damaged: set[str] = set()
        self.freeze_fails: dict[str, object] | None = None
        self.start_fails: dict[str, object] | None = None
        self.thaw_fails: dict[str, object] | None = None
        self.resize_fails: dict[str, object] | None = None
        self.freeze_s = self.resize_s = 0.0
        self.unfreezable: str | None = None  # the name of a job whose freezes fail
        self.leaves: dict[str, str] = {}  # name → text of files that every job leaves besides result.txt
        self.orders: list[Order] = []  # every order that was carried out
        self.ends: dict[str, int] = {}  # job → lines after which its program ends
        self.stopping = threading.Event()

    # -- what tests do to it

    def node(self, name: str, devices: int = 2, cores: int = 4) -> FakeAgent:
        agent = FakeAgent(self, name, devices, cores)
        self.agents[name] = agent
        agent.start()
        return agent

    def running(self, job: str) -> Life:
        with self.lock:
            return max((life for life in self.lives.values() if life.plan.job == job), key=lambda one: one.key)

    def finish(self, job: str, more: int = 10) -> int:
        """Let a job that runs for ever end after so many more lines; gives how many that will be in all."""
        with self.lock:
            self.ends[job] = self.running(job).number + more
            return self.ends[job]

    def heal(self) -> None:
        """Nothing goes wrong any more, and every node is there."""
        self.freeze_fails = self.start_fails = self.thaw_fails = self.resize_fails = None
        self.freeze_s = self.resize_s = 0.0
        self.unfreezable, self.leaves = None, {}
        for agent in self.agents.values():
            agent.slow_answers.set()
            agent.memory_bytes = agent.rank_bytes = 0
            if not agent.alive:
                agent.come_back()

    def kill_rank(self, job: str, rank: int, signal: int = 9) -> None:
        with self.lock:
            self._end(self.running(job), rank, signal)

    def close(self) -> None:
        self.stopping.set()
        for agent in list(self.agents.values()):
            agent.stop()

    # -- lives

    def begin(self, plan: LifePlan, number: int, base: dict[str, int]) -> None:
        life = Life(plan, number, base)
        with self.lock:
            self.lives[life.key] = life
        threading.Thread(target=self._count, args=(life,), daemon=True).start()

    def _count(self, life: Life) -> None:
        program = Program.of(life.plan.spec.command)
        while not self.stopping.wait(TICK_S):
            with self.lock:
                if life.over or life.ended:
                    return
                if life.held or not all(self.agents[cell.node].alive for cell in life.plan.cells):
                    continue
                last = self.ends.get(life.plan.job, program.lines)
                if last and life.number >= last:
                    for rank in range(life.plan.spec.ranks):
                        self._end(life, rank, program.exit_code << 8)
                    return
                life.number += 1

    def _end(self, life: Life, rank: int, status: int, asked: bool = False) -> None:
        life.ended.setdefault(
            rank,
            RankState(rank=rank, state="exited", wait_status=status, exited_at_s=time.time(), asked=asked),
        )

    def log(self, life: Life, rank: int) -> bytes:
        return "".join(line(rank, n) for n in range(1, life.number + 1)).encode()


class FakeAgent:
    """One node: reports, polls, carries out orders as coordinator, ships logs."""

    def __init__(self, world: World, name: str, devices: int, cores: int) -> None:
        self.world, self.name, self.devices, self.cores = world, name, devices, cores
        self.boot = f"{name}-{time.monotonic_ns()}"
        self.alive = False
        self.after = 0
        self.answered: dict[str, Answer] = {}
        self.mail: list[Mail] = []
        self.sent: dict[tuple[str, int, str], int] = {}
        self.forgotten: set[tuple[str, int]] = set()
        self.dropped: set[str] = set()
        self.memory_bytes = 0
        self.rank_bytes = 0
        self.reported: AgentReport | None = None  # what the server has heard last; None: it may know nothing
        self.reported_s = 0.0
        self.telling = threading.Lock()  # two threads report, and what was true last is said last
        self.slow_answers = threading.Event()
        self.slow_answers.set()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    # -- life of the agent

    def start(self) -> None:
        self.alive = True
        self._stop.clear()
        for run in (self._reporting, self._polling):
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """The agent process ends; its ranks run on."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=12)
        self._threads.clear()

    def vanish(self) -> None:
        """The machine is gone: agent, keepers and ranks."""
        self.alive = False
        self.stop()

    def come_back(self) -> None:
        """A machine that was cut off is there again, with what it had, its ranks suspended by their lease."""
        self.boot = f"{self.name}-{time.monotonic_ns()}"
        self.after = 0
        self.start()

    def restart(self) -> None:
        """Agent killed and started anew: it remembers nothing but what lies on disk (lives)."""
        self.stop()
        self.answered.clear()
        self.come_back()

    # -- HTTP

    def call(self, method: str, path: str, body: str | None = None, timeout: float = 15.0) -> httpx.Response | None:
        try:
            url = json.loads((self.world.home / "server/server.json").read_text())["url"]
            token = (self.world.home / "server/token").read_text().strip()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            response = httpx.request(method, url + path, content=body, headers=headers, timeout=timeout, verify=False)
        except (OSError, ValueError, httpx.HTTPError):
            self.reported = None  # the next server knows nothing
            return None
        if response.status_code == 503:
            return None  # it is shutting down
        assert response.status_code < 400 or response.status_code == 404, response.text
        return response

    # -- reports

    def _reporting(self) -> None:
        self.reported = None
        while not self._stop.wait(LOOK_S):
            if self.told() != self.reported or time.monotonic() - self.reported_s >= REPORT_S:
                self.report()
            self.ship()

    def report(self) -> None:
        with self.telling:
            told = self.told()
            reply = self.call("POST", f"/v1/agents/{self.name}/report", told.model_dump_json())
            self.reported, self.reported_s = told if reply is not None else None, time.monotonic()
        if reply is None:
            return
        parsed = ReportReply.model_validate_json(reply.content)
        self.dropped.update(parsed.drop_snapshots)
        with self.world.lock:
            for cell in parsed.forget:
                self.forgotten.add((cell.job, cell.incarnation))
                life = self.world.lives.get((cell.job, cell.incarnation))
                if life is not None:
                    life.over = True

    def told(self) -> AgentReport:
        with self.world.lock:
            cells = tuple(
                self._cell(life, cell.index)
                for life in self.world.lives.values()
                for cell in life.plan.cells
                if cell.node == self.name and life.key not in self.forgotten
            )
            held = tuple(
                SnapshotState(snapshot=one.id, job=one.job, durability="remote")
                for one in self.world.snapshots.values()
                if self.name in one.nodes
            )
        return AgentReport(
            node=self.name,
            boot=self.boot,
            devices=self.devices,
            cores=self.cores,
            memory_bytes=self.memory_bytes,
            cells=cells,
            snapshots=held,
        )

    def _cell(self, life: Life, index: int) -> CellState:
        state = "gone" if life.frozen else "running"
        ranks = tuple(
            life.ended.get(rank) or RankState(rank=rank, state=state, bytes=self.rank_bytes)
            for rank in life.plan.cells[index].ranks
        )
        phase = "ended" if life.over or life.frozen else "live"
        job, incarnation = life.key
        return CellState(job=job, incarnation=incarnation, cell=index, phase=phase, ranks=ranks, keeper_alive=True)

    def ship(self) -> None:
        """Logs of the ranks here."""
        with self.world.lock:
            due = [
                (life, rank, self.world.log(life, rank))
                for life in self.world.lives.values()
                for cell in life.plan.cells
                if cell.node == self.name and life.key not in self.forgotten
                for rank in cell.ranks
            ]
        for life, rank, text in due:
            self.ship_one(life, f"rank{rank}.out", text)

    def ship_one(self, life: Life, name: str, text: bytes) -> None:
        """The first chunk of a life, even if empty, begins where its snapshot's log ended."""
        job, incarnation = life.key
        key = (job, incarnation, name)
        while key not in self.sent or self.sent[key] < len(text):
            begin = self.sent.get(key, life.base.get(name, 0))
            data = base64.b64encode(text[begin : begin + 100_000]).decode()
            chunk = LogChunk(job=job, incarnation=incarnation, name=name, offset=begin, data=data)
            reply = self.call("POST", f"/v1/agents/{self.name}/logs", chunk.model_dump_json())
            if reply is None or reply.json()["stale"]:
                return
            self.sent[key] = reply.json()["length"]

    # -- orders

    def _polling(self) -> None:
        while not self._stop.is_set():
            reply = self.call("GET", f"/v1/agents/{self.name}/inbox?after={self.after}&wait_s=0.5")
            if reply is None:
                self._stop.wait(0.1)
                continue
            page = InboxPage.model_validate_json(reply.content)
            self.after = page.seq
            self.mail += page.mail
            for order in page.orders:
                self._obey(order)

    def _obey(self, order: Order) -> None:
        self.slow_answers.wait(20)
        if self._stop.is_set():
            return
        if order.order_id not in self.answered:
            self.world.orders.append(order)
            self.answered[order.order_id] = self._carry_out(order)
        self.report()
        self.ship()
        self.call("POST", f"/v1/agents/{self.name}/answers", self.answered[order.order_id].model_dump_json())

    def _carry_out(self, order: Order) -> Answer:
        match order:
            case StartOrder():
                return self._start(order)
            case ThawOrder():
                return self._thaw(order)
            case FreezeOrder():
                return self._freeze(order)
            case ResizeOrder():
                return self._resize(order)
            case EndOrder():
                return self._end(order)

    def _start(self, order: StartOrder) -> Answer:
        if self.world.start_fails is not None:
            return _no(order, self.world.start_fails)
        self.world.begin(order.life, 0, {})
        return _yes(order)

    def _thaw(self, order: ThawOrder) -> Answer:
        if self.world.thaw_fails is not None:
            return _no(order, self.world.thaw_fails)
        damaged = tuple(one for one in order.snapshots if one in self.world.damaged)
        whole = [self.world.snapshots[one] for one in order.snapshots if one not in damaged]
        if not whole:
            return _no(order, {"error": "no snapshot is whole", "damaged": damaged})
        self.world.begin(order.life, whole[0].number, whole[0].lengths)
        return _yes(order, snapshot=whole[0].id, damaged=damaged, log_lengths=whole[0].lengths, took_s=0.2)

    def _freeze(self, order: FreezeOrder) -> Answer:
        if self.world.freeze_fails is not None:
            return _no(order, self.world.freeze_fails)
        if order.life.spec.name == self.world.unfreezable:
            time.sleep(self.world.freeze_s + 0.5)
            return _no(order, {"error": "no room"})
        with self.world.lock:
            life = self.world.lives.get((order.life.job, order.life.incarnation))
            if life is None or life.ended or life.over:
                return _no(order, {"error": "a rank has ended meanwhile"})
            life.held = True
        time.sleep(self.world.freeze_s)
        with self.world.lock:
            lengths = {f"rank{rank}.out": len(self.world.log(life, rank)) for rank in range(life.plan.spec.ranks)}
            nodes = tuple(cell.node for cell in life.plan.cells)
            taken = Snapshot(order.order_id, order.life.job, life.number, lengths, nodes)
            self.world.snapshots[taken.id] = taken
            life.frozen = life.over = order.release
            life.held = False
        return _yes(
            order, snapshot=taken.id, bytes=1000, taken_s=time.time(), stopped_s=0.01, took_s=0.1, log_lengths=lengths
        )

    def _resize(self, order: ResizeOrder) -> Answer:
        time.sleep(self.world.resize_s)
        if self.world.resize_fails is not None:
            return _no(order, self.world.resize_fails)
        with self.world.lock:
            life = self.world.lives.get((order.life.job, order.life.incarnation))
            if life is None or life.ended or life.over:
                return _no(order, {"error": "a rank has ended meanwhile"})
            life.plan = order.life
        return _yes(order, stopped_s=0.02)

    def _end(self, order: EndOrder) -> Answer:
        with self.world.lock:
            life = self.world.lives.get((order.life.job, order.life.incarnation))
            if life is None:
                return _yes(order)
            for rank in range(life.plan.spec.ranks):
                self.world._end(life, rank, 15, asked=True)
            life.over = True
        if not order.collect:
            return _yes(order)
        self.ship()
        return _yes(order, results=self._results(order.life))

    def _results(self, plan: LifePlan) -> str:
        store, key = FolderStore(self.world.home / "store"), ""
        for cell in plan.cells:
            folder = self.world.folder / f"{plan.job}.{plan.incarnation}.{cell.index}"
            (folder / "work").mkdir(parents=True)
            (folder / "work/result.txt").write_text(f"job {plan.job} cell {cell.index}\n")
            for name, text in self.world.leaves.items():
                (folder / "work" / name).write_text(text)
            pool = Pool.create(folder / "pool")
            files = CellFiles(folder / "work", None, {})
            key = save_result((plan.job, plan.incarnation, cell.index), files, store, pool)
        return key


def _yes(order: Order, **rest: object) -> Answer:
    return Answer.model_validate(
        {"order_id": order.order_id, "job": order.life.job, "incarnation": order.life.incarnation, "ok": True, **rest}
    )


def _no(order: Order, rest: dict[str, object]) -> Answer:
    return _yes(order).model_copy(update={"ok": False, **rest})
