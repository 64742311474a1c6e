"""The parts of sharing on their own: the table, memory shared and left, records, and who may step for others."""

from __future__ import annotations

import ctypes
import errno
import functools
import math
import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ergosphere.shim.ergo_shim import arena, handing, mates, own_work, pages, record, table, together
from ergosphere.shim.ergo_shim.proof import Proof
from ergosphere.shim.ergo_shim.record import Record
from ergosphere.shim.ergo_shim.sharer import Sharer
from ergosphere.shim.ergo_shim.splice import Splice

SIZE = 1 << 20


@pytest.fixture
def opened(tmp_path):
    """A file of SIZE bytes in memory, open."""
    path = f"/dev/shm/ergo-test-{os.getpid()}"
    descriptor = pages.create(path, SIZE)
    os.unlink(path)
    yield descriptor
    os.close(descriptor)


def test_a_table_comes_back_as_it_was_written(tmp_path):
    written = table.Table(3, "auto", "/run/ergo/shared", 1, ["a", "a", "b"], ["a/0", "a/0", "b/0"])
    table.write(str(tmp_path / "control"), written)
    assert table.read(str(tmp_path / "control")) == written
    assert written.mates() == [0, 1]
    assert table.read(str(tmp_path / "other")) is None


def test_a_table_that_cannot_be_is_refused(tmp_path):
    for hosts, devices, exact in ((["a", "b"], ["x", "x"], "auto"), (["a"], ["x", "y"], "auto"), (["a"], ["x"], "yes")):
        with pytest.raises(ValueError):
            table.write(str(tmp_path / "control"), table.Table(1, exact, "", 0, hosts, devices))


@pytest.mark.parametrize("can_scan", [True, False])
def test_a_write_to_a_private_page_is_seen_and_stays_private(opened, can_scan):
    writes = pages.Writes()
    writes._can_scan = writes._can_scan and can_scan
    shared, own = pages.map_file(opened, SIZE, shared=True), pages.map_file(opened, SIZE, shared=False)
    ctypes.memset(shared, 7, SIZE)
    assert ctypes.string_at(own + 5000, 1) == b"\7"
    assert not writes.any(own, SIZE)
    ctypes.memset(own + 5000, 9, 1)
    assert writes.any(own, SIZE)
    assert not pages.equal(own, shared, SIZE)
    assert ctypes.string_at(shared + 5000, 1) == b"\7"
    for address in (shared, own):
        pages.unmap(address, SIZE)


@pytest.mark.parametrize("still", [True, False])
def test_who_leaves_keeps_content_and_address_and_no_mapping(opened, still):
    tensors = [torch.randn(300, 7), torch.randn(5).t(), torch.arange(12.0).reshape(3, 4).t()]
    plan = arena.plan(tensors)
    place = arena.create(f"/dev/shm/ergo-test-arena-{os.getpid()}", tensors, plan)
    os.unlink(f"/dev/shm/ergo-test-arena-{os.getpid()}")
    assert arena.holds(place, tensors, plan)
    region = arena.Region(plan, place)
    views = region.tensors()
    views[0][3] = 1.5
    expected = [view.clone() for view in views]
    addresses = [view.data_ptr() for view in views]
    region.leave_when_still() if still else region.leave()
    assert all(torch.equal(a, b) for a, b in zip(views, expected))
    assert [view.data_ptr() for view in views] == addresses
    assert all(a.stride() == b.stride() for a, b in zip(views, tensors))
    assert "ergo-test-arena" not in open("/proc/self/maps").read()
    region.join(place)
    assert torch.equal(views[0], tensors[0])
    os.close(place)


def test_memory_under_another_name_is_not_moved():
    lone, seen, part = torch.randn(10), torch.randn(10), torch.randn(10)[2:]
    view = seen.numpy()
    assert arena.is_alone(lone)
    assert not arena.is_alone(seen) and view is not None
    assert not arena.is_alone(part)


def test_memory_that_torch_does_not_own_or_has_shared_is_not_moved(tmp_path):
    array, file = numpy.ones(4), tmp_path / "checkpoint"
    torch.save({"weight": torch.randn(1000)}, file)
    assert not arena.is_alone(torch.from_numpy(array))
    assert not arena.is_alone(torch.randn(4).share_memory_())
    assert not arena.is_alone(torch.load(file, mmap=True)["weight"])
    assert arena.is_alone(torch.load(file)["weight"]), "who resumes from a checkpoint may share"
    assert arena.is_alone(torch.tensor(array))


def test_a_tensor_of_a_region_may_be_moved_to_another_one(opened):
    tensors = [torch.nn.Parameter(torch.randn(30)), torch.tensor(1.0)]
    views = arena.Region(arena.plan(tensors), opened).tensors()
    for tensor, view in zip(tensors, views):
        tensor.data = view
    assert all(arena.is_alone(tensor, is_ours=True) for tensor in tensors)
    seen = tensors[0].detach().numpy()
    assert not arena.is_alone(tensors[0], is_ours=True) and seen is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_file_for_which_there_is_no_room_is_refused_and_not_left(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], check=True)
    try:
        with pytest.raises(OSError) as raised:
            pages.create(str(tmp_path / "large"), 2 << 20)
        assert raised.value.errno == errno.ENOSPC
        assert os.listdir(tmp_path) == []
        path = str(tmp_path / "small")
        handing.create(path)
        parameter, optimizer = _stepper(1 << 20)
        handed = _handed(optimizer, path, lambda: parameter.grad.mul_(2))
        other, copy = _stepper(1 << 20)
        assert _taken(copy, path, [other]) == handed == 7
        assert torch.equal(other.grad, torch.full((1 << 20,), 2.0)), "what does not fit into memory goes by disk"
        handing.remove(path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


FAULTS = """
import ctypes, resource, sys
from ergosphere.shim.ergo_shim import pages
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "keep":
    pages.keep_freed()
for _ in range(12):
    first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [libc.malloc(16 << 20) for _ in range(6)]
    for each in held:
        ctypes.memset(each, 1, 16 << 20)
    for each in held:
        libc.free(each)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
pages.trim()
print(open("/proc/self/statm").read().split()[1])
"""


def test_memory_that_every_step_frees_does_not_come_back_page_by_page():
    def faults(*words, **environment):
        command = [sys.executable, "-c", FAULTS, *words]
        said = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
        return [int(word) for word in said.stdout.split()]

    own, kept, asked = faults("leave"), faults("keep"), faults("keep", MALLOC_TRIM_THRESHOLD_="100000")
    assert own[0] > 4000 > 100 > kept[0]
    assert asked[0] > 4000, "what the environment says goes first"
    assert kept[1] < own[1] + 4000, "and it is given back at a cut"


TURN = """
import os, sys, time
from ergosphere.shim.ergo_shim import turn as turns
from ergosphere.shim.ergo_shim.bell import Bell
from ergosphere.shim.ergo_shim.turn import Turn
turns.ORDER_S, turns.QUANTUM_S = 15.0, 60.0  # on a busy machine too: the order is what is looked at
folder, seat, is_first = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "first"
bell = Bell(folder + "/bell", seat)
turn = Turn(folder + "/turn", bell, seat, 4)
while not is_first and not os.path.exists(folder + "/taken"):
    time.sleep(0.001)
print("ready", flush=True)
turn.take()
os.write(os.open(folder + "/order", os.O_WRONLY | os.O_APPEND | os.O_CREAT), b"%d" % seat)
if is_first:
    open(folder + "/taken", "w").close()
    others = [each for each in range(4) if each != seat]
    while not (os.path.exists(folder + "/enough") and all(turn._is_wanted(each, each + 1) for each in others)):
        time.sleep(0.001)
turn.give()
"""


@pytest.mark.parametrize("first", range(4))
def test_ranks_that_want_their_turn_get_it_in_their_order(tmp_path, first):
    def begin(seat):
        command = [sys.executable, "-c", TURN, str(tmp_path), str(seat), "first" if seat == first else ""]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    ranks = [begin(seat) for seat in (3, 0, 2, 1)]
    for rank in ranks:
        assert rank.stdout.readline() == "ready\n"
    (tmp_path / "enough").touch()
    assert [rank.wait(20) for rank in ranks] == [0] * 4
    assert (tmp_path / "order").read_text() == "".join(str((first + at) % 4) for at in range(4))


WAITER = """
import sys, time
from ergosphere.shim.ergo_shim.bell import Bell
from ergosphere.shim.ergo_shim.turn import Turn

class Counted(Bell):
    looks = 0

    def wait(self, seen, timeout_s):
        self.looks += 1
        Bell.wait(self, seen, timeout_s)

folder, seat = sys.argv[1], int(sys.argv[2])
bell = Counted(folder + "/bell", seat)
turn = Turn(folder + "/turn", bell, seat, 2)
if seat == 0:
    turn.take()
    print("mine", flush=True)
    while not turn._is_wanted(1, 2):
        time.sleep(0.01)
    time.sleep(1.5)
    print(time.monotonic(), flush=True)
    turn.give()
else:
    turn.take()
    print(time.monotonic(), bell.looks, flush=True)
    turn.give()
"""


def test_who_waits_for_a_turn_sleeps_until_it_is_given(tmp_path):
    """Each look costs the rank that computes: on one core four ranks that wait look as often as they are let."""

    def begin(seat):
        return subprocess.Popen(
            [sys.executable, "-c", WAITER, str(tmp_path), str(seat)], stdout=subprocess.PIPE, text=True
        )

    first = begin(0)
    assert first.stdout.readline() == "mine\n"
    second = begin(1)
    given_s = float(first.stdout.readline())
    taken_s, looks = second.stdout.readline().split()
    assert first.wait() == second.wait() == 0
    assert float(taken_s) > given_s
    assert 1 <= int(looks) <= 12


def test_what_a_flush_has_given_up_on_others_look_after_while_it_waits_for_the_next():
    attended, seen = [0, 0], []

    class Launched:
        def __init__(self, number):
            self.number = number

        def attend(self, more):
            attended[self.number] += more

        def flush(self):
            seen.append(list(attended))
            if self.number == 1:
                raise RuntimeError("a peer is gone")

    flush = own_work.Flush()
    flush.works += [Launched(0), Launched(1)]
    with pytest.raises(RuntimeError, match="a peer is gone"):
        flush()
    assert seen == [[1, 1], [0, 1]] and attended == [0, 0]


def _stepper(count=6):
    parameter = torch.nn.Parameter(torch.ones(count))
    parameter.grad = torch.ones(count)
    return parameter, torch.optim.SGD([parameter], lr=0.1)


def _handed(optimizer, path, step, answer=7):
    opened = handing.open_for(path)
    before = handing.snapshot(optimizer, thorough=True)
    step()
    told = handing.changes(optimizer, before, thorough=True)
    handing.hand_over(opened, told._replace(answer=handing.told_of(answer)), optimizer)
    os.close(opened)
    return answer


def _taken(optimizer, path, tensors):
    opened = handing.open_for(path)
    try:
        return handing.take_over(optimizer, opened, tensors)
    finally:
        os.close(opened)


@pytest.fixture
def path(tmp_path):
    """A file that hands over."""
    path = str(tmp_path / "handed")
    handing.create(path)
    return path


def test_what_a_step_did_to_gradients_is_adopted(path):
    def forget(parameter):
        parameter.grad = None

    def renew(parameter):
        parameter.grad = torch.arange(6.0).reshape(2, 3).t().reshape(6)

    for step in (lambda p: p.grad.add_(p, alpha=0.5), lambda p: p.grad.data.neg_(), forget, renew, lambda p: None):
        (mine, optimizer), (theirs, adopting) = _stepper(), _stepper()
        _handed(optimizer, path, lambda mine=mine, step=step: step(mine))
        assert _taken(adopting, path, [theirs]) == 7
        assert (mine.grad is None) == (theirs.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad)


def test_a_step_that_was_not_finished_or_cannot_be_handed_over_is_adopted_by_nobody(path):
    parameter, optimizer = _stepper()
    opened = handing.open_for(path)
    handing.begin(opened)
    with pytest.raises(handing.Lost):
        handing.take_over(optimizer, opened, [parameter])
    os.close(opened)
    for answer in (object(), parameter, [parameter.grad]):
        with pytest.raises(handing.Lost):
            handing.told_of(answer)
    before = handing.snapshot(optimizer, thorough=True)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    with pytest.raises(handing.Lost):
        handing.changes(optimizer, before, thorough=True)


def test_a_link_where_a_step_should_lie_is_not_followed(path):
    parameter, optimizer = _stepper()
    _handed(optimizer, path, lambda: None)
    os.rename(path, path + "s")
    handing.create(path)
    with open(path, "r+b") as file:
        file.write(handing.HEAD.pack(handing.ELSEWHERE))
    os.symlink(path + "s", handing._spare(path))
    with pytest.raises(handing.Lost):
        _taken(optimizer, path, [parameter])
    handing.remove(path)
    os.symlink(path + "s", path)
    with pytest.raises(OSError):
        handing.open_for(path)


def test_what_lies_in_the_way_of_a_step_is_said_in_words(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    parameter, optimizer = _stepper(1 << 15)
    os.mkdir(handing._spare(path))
    try:
        with pytest.raises(handing.Lost, match="cannot be handed over: .*File exists"):
            _handed(optimizer, path, lambda: parameter.grad.mul_(2))
    finally:
        os.rmdir(handing._spare(path))


def test_where_no_more_files_may_be_open_a_rank_steps_by_itself(path, monkeypatch):
    parameter, optimizer = _stepper()
    sharer, splice = Sharer(0, optimizer), Splice(SimpleNamespace(is_held=False, publish=lambda: None, launched=0))
    sharer.is_joined, sharer.path, answer = True, path, []
    met = SimpleNamespace(is_first=True, counts=True, meet=lambda round, digest, agrees, called_off: agrees)
    met.done = lambda round: None
    monkeypatch.setattr(together, "changed", lambda *_: None)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        splice._together(met, sharer, type(optimizer).step, optimizer, answer)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert answer == [] and not sharer.is_joined and torch.equal(parameter, torch.ones(6))
    assert splice.told()["why"] == "nothing can be handed over: Too many open files"


def test_who_has_gone_past_a_meeting_is_not_waited_for():
    met = mates.Round(3, 40)
    assert met.is_passed_by(met.word) and met.is_passed_by(mates.Round(3, 44).word)
    assert not met.is_passed_by(mates.Round(3, 36).word) and not met.is_passed_by(mates.Round(4, 44).word)
    assert not met.is_passed_by(0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99_999), st.integers(0, 31), st.integers(0, 20), st.sampled_from([100_000, 7, 40_001]))
def test_one_other_bit_in_a_gradient_gives_another_record(at, bit, number, count):
    one = torch.randn(count)
    other = one.clone()
    other.view(torch.int32)[at % count] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
    digests = []
    for tensor in (one, one.clone(), other):
        digests.append(_digest(tensor, number))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("number", range(4))
def test_an_exchange_of_values_or_of_signs_gives_another_record(number):
    one, long = torch.randn(4 * 16382), torch.randn(4 * 8191, dtype=torch.float64)
    pairs = [(one, one.flip(0)), (one, torch.roll(one, 1)), (long, -long), (one, -one)]
    for width in {width for widths in (*record.WIDTHS, *record.WIDTHS_LARGE) for width in widths}:
        pairs.extend(((one, one.roll(width)), (one, one.roll(2 * width)), (long, long.roll(width))))
    for kind in (torch.bfloat16, torch.complex64):
        pairs.append((one.to(kind), -one.to(kind)))
    pairs.append((pairs[-1][0], pairs[-1][0].conj().resolve_conj()))
    halves = torch.cat([one, -one])
    pairs.append((halves, -halves))
    for this, that in pairs:
        assert _digest(this, number) != _digest(that, number)


def _digest(tensor, number):
    made = Record(number)
    made.add_tensor(tensor)
    return made.digest()


class Plain(torch.optim.SGD):
    """What people write: a part of its own, a constant of the module, a helper, a closure passed on."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["mean"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                self.scale(p, max(group["lr"], EPSILON))
        return super().step(closure)

    def scale(self, p, by):
        p.grad.mul_(helped(p.grad.norm().item()) * math.sqrt(by))


EPSILON = 1e-8


def helped(norm):
    return 1.0 / (norm + EPSILON) if norm > 1 else 1.0


class Imports(Plain):
    def step(self, closure=None):
        import random

        return random.random()


class Dynamic(Plain):
    def step(self, closure=None):
        return getattr(self, "sc" + "ale")(None, 1)


class Marking(Plain):
    def scale(self, p, by):
        p.marked = by


class Watched(Plain):
    def __setattr__(self, name, value):
        super().__setattr__(name, value)


class Sets(Plain):
    def scale(self, p, by):
        for each in {p, p.grad}:
            each.mul_(by)


def wrapping(step):
    @functools.wraps(step)
    def wrapper(self, *args):
        print("a step")
        return step(self, *args)

    return wrapper


class Wrapped(Plain):
    @wrapping
    def step(self, closure=None):
        return super().step(closure)


class Property(Plain):
    @property
    def factor(self):
        return os.getpid()

    def scale(self, p, by):
        p.mul_(self.factor)


class Default(Plain):
    def scale(self, p, by, seen=[]):  # noqa: B006
        seen.append(by)


class Storing(Plain):
    def scale(self, p, by):
        self.param_groups = []


class Numbers(Plain):
    def scale(self, p, by):
        p.grad.add_(torch.randn(1))


def test_steps_that_could_do_more_than_compute_are_not_shared():
    parameter = [torch.nn.Parameter(torch.ones(2))]
    assert Proof(torch.optim.AdamW(parameter)).why is None
    plain = Proof(Plain(parameter, lr=0.1))
    assert plain.why is None and plain.outside().count(EPSILON) == 2
    assert "LBFGS" in Proof(torch.optim.LBFGS(parameter)).why
    refused = {Imports: "import", Dynamic: "getattr", Marking: "marked", Watched: "__setattr__", Wrapped: "print"}
    refused |= {Sets: "a set", Property: "os", Default: "default", Storing: "param_groups", Numbers: "randn"}
    for kind, word in refused.items():
        assert word in (Proof(kind(parameter, lr=0.1)).why or ""), kind


def test_what_a_step_takes_from_outside_is_looked_at_again(monkeypatch):
    made = Proof(Plain([torch.nn.Parameter(torch.ones(2))], lr=0.1))
    before = made.outside()
    monkeypatch.setitem(globals(), "EPSILON", 0.5)
    assert made.outside() != before
    monkeypatch.setitem(globals(), "EPSILON", [0.5])
    assert made.outside() is None
    monkeypatch.setitem(globals(), "EPSILON", 1e-8)
    monkeypatch.setitem(globals(), "helped", lambda norm: norm)
    assert made.outside() is None


def test_classes_of_one_name_and_other_code_are_told_apart():
    parameter = [torch.nn.Parameter(torch.ones(2))]
    kinds = [type("Same", (Plain,), {"scale": scale}) for scale in (lambda self, p, by: p, lambda self, p, by: p.neg())]
    assert len({Proof(kind(parameter, 0.1)).name for kind in kinds}) == 2
