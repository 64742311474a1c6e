"""One copy of tensors that are equal on the ranks of a device: a file in memory that all map privately, the first also
shared. What is written through that one shows at once in every page that a rank has not written to itself.

A tensor that was moved here keeps its address for life: leaving puts ordinary memory with its view in that place."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
import weakref
from typing import Any, Final, NamedTuple, Optional

from . import pages

ALIGN_BYTES: Final = 64
HANDLE_WORDS: Final = 8  # of a storage's handle that are looked at: it is larger in every version of torch
STILL_S_MAX: Final = 20.0  # until the other threads of the process stand still for a moment
STILL_LOOK_S: Final = 0.002


class Plan(NamedTuple):
    """Where each tensor lies in the arena, and what it is."""

    places: "tuple[int, ...]"
    shapes: "tuple[Any, ...]"
    size: int  # bytes, whole pages


def is_alone(tensor: Any, is_ours: bool = False) -> bool:
    """Whether nothing else looks into a tensor's memory: then it can be moved.

    `is_ours`: it is memory of a region, of which one more view is held; any other memory that torch did not itself
    set up, or that it has shared with other processes, may be in use by somebody whom it does not count."""
    torch = sys.modules["torch"]
    storage = tensor.untyped_storage()
    if storage.nbytes() != tensor.numel() * tensor.dtype.itemsize or tensor.storage_offset() != 0:
        return False
    if not is_ours and tensor.numel() and (storage.is_shared() or not _is_torchs(storage, tensor.data_ptr())):
        return False
    probe = torch.empty(1)
    usual = torch._C._storage_Use_Count(probe.untyped_storage()._cdata)
    return bool(torch._C._storage_Use_Count(storage._cdata) <= usual + int(is_ours))


def _is_torchs(storage: Any, address: int) -> bool:
    # torch says so of memory that it may resize. Tensors that come out of a checkpoint may not be, and are its own all
    # the same: their memory goes back to where that of ordinary ones does.
    if storage.resizable():
        return True
    torch = sys.modules["torch"]
    probe, foreign = torch.empty(1), torch.frombuffer(bytearray(4), dtype=torch.float32)
    ordinary = _owner(probe.untyped_storage(), probe.data_ptr())
    known = ordinary is not None and ordinary != _owner(foreign.untyped_storage(), foreign.data_ptr())
    return known and _owner(storage, address) == ordinary


def _owner(storage: Any, address: int) -> "Optional[int]":
    """What frees a storage's memory, by its handle: behind the address come who frees it and what he is told, which is
    the address itself where it is torch's own allocator. None where it does not look like that."""
    words = (ctypes.c_uint64 * HANDLE_WORDS).from_address(storage._cdata)
    at = next((place for place in range(HANDLE_WORDS - 2) if words[place] == address), None)
    return int(words[at + 1]) if at is not None and words[at + 2] == address else None


def is_plain(tensor: Any) -> bool:
    """Whether a tensor is an ordinary one in host memory, without gaps."""
    torch = sys.modules["torch"]
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_conj()
        and not tensor.is_neg()
        and is_dense(tensor)
    )


def is_dense(tensor: Any) -> bool:
    """Whether the elements fill a stretch of memory, in whatever order."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape)):
        if length == 0:
            return True
        if length > 1 and stride != expected:
            return False
        expected *= length
    return True


def plan(tensors: "list[Any]") -> Plan:
    """An arena for these tensors."""
    places, shapes, at = [], [], 0
    for tensor in tensors:
        places.append(at)
        shapes.append((tuple(tensor.shape), tensor.stride(), tensor.dtype))
        size = tensor.numel() * tensor.dtype.itemsize
        at += -(-size // ALIGN_BYTES) * ALIGN_BYTES
    return Plan(tuple(places), tuple(shapes), pages.whole(at))


class Region:
    """This rank's own view of an arena. Its memory is there as long as a tensor lives in it, whoever holds that."""

    def __init__(self, plan: Plan, opened: int) -> None:
        self.plan = plan
        self.address = pages.map_file(opened, plan.size, shared=False)
        self.is_joined = True
        self._memory: Any = lambda: self

    def tensors(self) -> "list[Any]":
        """Tensors that live in it; to be asked for once, at the beginning: until then nothing holds the memory."""
        memory = (ctypes.c_char * self.plan.size).from_address(self.address)
        self._memory = weakref.ref(memory)
        weakref.finalize(memory, pages.unmap, self.address, self.plan.size)
        return _tensors(memory, self.plan)

    @property
    def is_gone(self) -> bool:
        """Whether the last tensor in it has died."""
        return self._memory() is None

    def join(self, opened: int) -> None:
        """Looks into another file of the same plan from now on."""
        pages.map_file(opened, self.plan.size, shared=False, at=self.address)
        self.is_joined = True

    def leave(self) -> None:
        """Ordinary memory with the same content, at the same address. Nobody may be writing meanwhile."""
        if self.is_joined and self._memory() is not None:
            pages.make_private(self.address, self.plan.size)
        self.is_joined = False

    def leave_when_still(self) -> None:
        """As `leave`, while other threads may be running: at a moment when none of them does."""
        if self.is_joined and self._memory() is not None:
            _when_still(lambda still: pages.replace(self.address, self.plan.size, still))
        self.is_joined = False


class Shared:
    """The first rank's way to write into an arena for all."""

    def __init__(self, plan: Plan, opened: int) -> None:
        address = pages.map_file(opened, plan.size, shared=True)
        self._finalizer: Any = None
        memory = (ctypes.c_char * plan.size).from_address(address)
        self.tensors: "list[Any]" = _tensors(memory, plan)
        self._finalizer = weakref.finalize(memory, pages.unmap, address, plan.size)

    def drop(self) -> None:
        """Takes the way away."""
        self.tensors = []


def create(path: str, tensors: "list[Any]", plan: Plan) -> int:
    """A file with the content of these tensors, open."""
    opened = pages.create(path, plan.size)
    try:
        address = pages.map_file(opened, plan.size, shared=True)
    except OSError:
        os.close(opened)
        raise
    for tensor, at in zip(tensors, plan.places):
        ctypes.memmove(address + at, tensor.data_ptr(), tensor.numel() * tensor.dtype.itemsize)
    pages.unmap(address, plan.size)
    return opened


def holds(opened: int, tensors: "list[Any]", plan: Plan) -> bool:
    """Whether the file has exactly the content of these tensors."""
    if os.fstat(opened).st_size != plan.size:
        return False
    address = pages.map_file(opened, plan.size, shared=True)
    try:
        return all(
            pages.equal(address + at, tensor.data_ptr(), tensor.numel() * tensor.dtype.itemsize)
            for tensor, at in zip(tensors, plan.places)
        )
    finally:
        pages.unmap(address, plan.size)


def _tensors(memory: Any, plan: Plan) -> "list[Any]":
    torch = sys.modules["torch"]
    made = []
    for at, (shape, stride, dtype) in zip(plan.places, plan.shapes):
        count = 1
        for length in shape:
            count *= length
        if count == 0:
            made.append(torch.empty_strided(shape, stride, dtype=dtype))
        else:
            made.append(torch.frombuffer(memory, dtype=dtype, count=count, offset=at).as_strided(shape, stride).data)
    return made


def _when_still(replace: Any) -> None:
    interval_s, until_s = sys.getswitchinterval(), time.monotonic() + STILL_S_MAX
    try:
        while True:
            # From here to the end of `replace` no other thread runs Python: none may be running anything else either.
            sys.setswitchinterval(1000.0)
            if replace(_Stillness()):
                return
            sys.setswitchinterval(interval_s)
            if time.monotonic() > until_s:
                raise RuntimeError("the program does not stand still, so what it shares cannot be taken apart")
            time.sleep(STILL_LOOK_S)
    finally:
        sys.setswitchinterval(interval_s)


class _Stillness:
    """Whether all other threads sleep, and have slept since this was made. Asked without letting other threads run."""

    def __init__(self) -> None:
        own = threading.get_native_id()
        # Listing lets other threads run: one that begins after it is found missing by its creator having run.
        self._tasks = [int(name) for name in os.listdir("/proc/self/task") if int(name) != own]
        self._ran = self._read()

    def holds(self) -> bool:
        """Whether it still does."""
        return self._ran is not None and self._read() == self._ran

    def _read(self) -> "Optional[list[bytes]]":
        ran = []
        for task in self._tasks:
            state = pages.held_read(b"/proc/self/task/%d/stat" % task)
            if state.rpartition(b")")[2].split()[:1] == [b"R"]:
                return None
            ran.append(pages.held_read(b"/proc/self/task/%d/schedstat" % task).split(b" ")[0])
        return ran
