"""The process group a program gets: an ordinary `ProcessGroup` in Python around the real one of torch's own making.

In steady state it adds a count and a look at a flag to each operation. The real group can be dropped and built anew
while the program keeps this one. What an operation *does* is not touched here."""

from __future__ import annotations

import threading
from itertools import islice
from typing import Any, Callable, Final, NamedTuple, Optional

from .seam import Seam, Sequence
from .untraced import leave_alone
from .work import COLLECTIVE, FROM_ANYONE, PAIRWISE, peer_is_gone, work_class

NAME: Final = "ergosphere"  # what C++ sees: a wrapper that called itself "gloo" would be taken for the real thing
PRUNED_PER_LAUNCH: Final = 2  # finished works let go of at each launch: more than one, so that they cannot pile up

COLLECTIVES: Final = (
    "_allgather_base",
    "_reduce_scatter_base",
    "all_gather_single",
    "all_gather_single_coalesced",
    "all_to_all_single",
    "allgather",
    "allgather_coalesced",
    "allgather_into_tensor_coalesced",
    "allreduce",
    "allreduce_coalesced",
    "alltoall",
    "alltoall_base",
    "barrier",
    "broadcast",
    "gather",
    "monitored_barrier",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_single_coalesced",
    "reduce_scatter_tensor_coalesced",
    "scatter",
)
BLOCKING: Final = ("barrier", "monitored_barrier")  # those that may wait before they give a handle
# Asked of the real group, once it is there.
DELEGATED: Final = (
    "_backend_id",
    "_enable_collectives_timing",
    "_get_backend",
    "_get_backend_name",
    "_get_sequence_number_for_group",
    "_has_hooks",
    "_register_backend",
    "_register_on_completion_hook",
    "_set_default_backend",
    "_set_sequence_number_for_group",
    "_wait_for_pending_works",
    "merge_remote_group",
    "name",
    "set_timeout",
    "split_group",
)


class Birth(NamedTuple):
    """What a group is made of."""

    key: str
    real: Any
    store: Any
    rank: int
    size: int
    members: "list[int]"  # ranks of the world, in group order
    build: Callable[[str], Any]  # a real group like the first one, met under a prefix of the store


def group_class(c10d: Any) -> Any:
    """The class of our groups, a subclass of torch's `ProcessGroup`."""
    from . import calls  # only now: most programs that import torch never come here
    from .own_work import flush_with_backward, own_work_class

    base = c10d.ProcessGroup
    held_work = work_class(c10d.Work)
    own_work = own_work_class(c10d.Work)

    class HeldGroup(base):  # type: ignore[misc,valid-type]
        """A process group whose operations can be held, and whose real group can be dropped and rebuilt."""

        def __init__(self, seam: Seam, birth: Birth, sequence: Sequence) -> None:
            base.__init__(self, birth.rank, birth.size)  # the constructor that takes a store makes no Python subclass
            self.seam = seam
            self.outstanding: "dict[int, Any]" = {}
            self._birth = birth._replace(real=None)
            self._real = birth.real
            self._sequence = sequence
            self._timeouts: "dict[Any, Any]" = {}
            self._prefix: Optional[str] = None
            self._coalescing: Optional[int] = None
            self._types = birth.real._device_types
            self._name: str = birth.real.group_name
            self._description: str = birth.real.group_desc
            if birth.real.bound_device_id is not None:
                self.bound_device_id = birth.real.bound_device_id

        # -- what torch calls

        def getBackendName(self) -> str:
            return NAME

        # The names C++ asks for, and those Python does: torch keeps both in the backends, of which we have none.
        def getGroupName(self) -> str:
            return self._name

        def setGroupName(self, name: str) -> None:
            self._name = name

        def getGroupDesc(self) -> str:
            return self._description

        def setGroupDesc(self, description: str) -> None:
            self._description = description

        group_name = property(getGroupName)
        group_desc = property(getGroupDesc)
        _set_group_name = setGroupName
        _set_group_desc = setGroupDesc

        @property
        def _device_types(self) -> Any:
            return self._types

        def get_group_store(self) -> Any:
            return self._birth.store

        def send(self, tensors: Any, rank: int, tag: int) -> Any:
            return self._launch_pairwise("send", rank, tag, (tensors, rank, tag))

        def recv(self, tensors: Any, rank: int, tag: int) -> Any:
            return self._launch_pairwise("recv", rank, tag, (tensors, rank, tag))

        def recv_anysource(self, tensors: Any, tag: int) -> Any:
            return self._launch_pairwise("recv", None, tag, (tensors, tag))

        def _start_coalescing(self, device: Any) -> None:
            self.seam.enter(self._sequence, "a coalesced batch")
            self._coalescing = threading.get_ident()
            try:
                self._whole()._start_coalescing(device)
            except BaseException:
                self._coalescing = None
                self.seam.leave(self._sequence, launched=False)
                raise

        def _end_coalescing(self, device: Any) -> Any:
            try:
                return self._handle(self._real._end_coalescing(device), COLLECTIVE)
            finally:
                self._coalescing = None
                self.seam.leave(self._sequence, launched=True)

        def shutdown(self) -> None:
            self._end("shutdown")

        def abort(self) -> None:
            self._end("abort")

        # -- what the control thread calls

        def settle(self) -> bool:
            """Whether no operation of this group is in flight any more; helps those that are done to be let go."""
            in_flight = [work for work in list(self.outstanding.values()) if not work.settle()]
            return not in_flight

        def drop(self) -> None:
            """Lets go of the real group, and with it of its sockets and threads."""
            real, self._real = self._real, None
            if real is not None:
                self._timeouts = _timeouts(real)

        def rebuild(self, prefix: str, later: bool) -> None:
            """Builds the real group anew; `later` at its first use, where members have left for good."""
            self._prefix = prefix
            if not later:
                self._revive()

        def limit_s(self) -> Optional[float]:
            """The group's own timeout in seconds; None while a cut is wanted, which must not count against it."""
            if self.seam.is_held:
                return None
            real = self._real
            found = (self._timeouts if real is None else _timeouts(real)).values()
            return min((timeout.total_seconds() for timeout in found), default=None)

        # -- within

        def _launch(self, name: str, args: Any, kwargs: Any) -> Any:
            if self._coalescing is not None and self._coalescing == threading.get_ident():
                return getattr(self._real, name)(*args, **kwargs)
            seam = self.seam
            seam.enter(self._sequence, name)
            launched = False
            try:
                own = None if seam.elastic.table is None else self._reduce(name, args, kwargs)
                if own is not None:
                    launched = True
                    return own
                if name in BLOCKING:
                    seam.elastic.give()
                work = getattr(self._real or self._revive(), name)(*args, **kwargs)
                launched = True
                return self._handle(work, COLLECTIVE)
            except Exception as error:
                launched = launched or self._judged(error)
                raise
            finally:
                seam.leave(self._sequence, launched)

        def _reduce(self, name: str, args: Any, kwargs: Any) -> Any:
            """The handle of a reduction that is done by ourselves; None where torch does it."""
            if name not in calls.NAMES:
                return None
            birth = self._birth
            sums = self.seam.elastic.sums_of(birth.key, birth.members, birth.rank)
            asked = None if sums is None else calls.read(name, args, kwargs, birth.rank, birth.size)
            if sums is None or asked is None:
                return None
            if self._real is None and self._prefix is None:
                raise RuntimeError("this process group was destroyed")
            operation = sums.launch(asked, self.limit_s)
            work = own_work(self, sums, operation, [tensor for _, tensor in asked.gives])
            self.outstanding[id(work)] = work
            if not flush_with_backward(work) and sums.spans_hosts:
                self.seam.elastic.carry_on()
            return work

        def _launch_pairwise(self, name: str, rank: Optional[int], tag: int, args: Any) -> Any:
            call = "recv_anysource" if rank is None else name
            if self._coalescing is not None and self._coalescing == threading.get_ident():
                return getattr(self._real, call)(*args)
            sequence = self._way(name, rank)
            self.seam.enter(sequence, call, tag)
            launched = False
            try:
                work = getattr(self._real or self._revive(), call)(*args)
                launched = True
                return self._handle(work, FROM_ANYONE if rank is None else PAIRWISE)
            except Exception as error:
                launched = launched or self._judged(error)
                raise
            finally:
                self.seam.leave(sequence, launched, tag)

        def _way(self, kind: str, rank: Optional[int]) -> Sequence:
            peer = -1 if rank is None else self._birth.members[rank]
            id = "%s/%s%d" % (self._birth.key, kind, peer)
            return self.seam.sequence(id, self._birth.key, kind, [], peer)

        def _handle(self, real: Any, kind: str) -> Any:
            if real is None:
                return None
            if self.outstanding:
                for known in list(islice(self.outstanding.values(), PRUNED_PER_LAUNCH)):
                    known.let_go_if_done()
            work = held_work(self, real, kind)
            self.outstanding[id(work)] = work
            return work

        def _judged(self, error: BaseException) -> bool:
            if not peer_is_gone(error):
                return False
            self.seam.judge(str(error))
            return True

        def _whole(self) -> Any:
            self.seam.when_whole()
            return self._real or self._revive()

        def _revive(self) -> Any:
            if self._prefix is None:
                raise RuntimeError("this process group was destroyed")
            real = self._birth.build(self._prefix)
            for device, timeout in self._timeouts.items():
                real._get_backend(device)._set_default_timeout(timeout)
            self._real = real
            return real

        def _end(self, how: str) -> None:
            # A thread that is taking a real group apart is inside it: no cut before it is out.
            self.seam.step_in()
            try:
                self.seam.retire(self._birth.key)
                self._prefix = None
                self._end_real(how)
            finally:
                self.seam.step_out()

        def _end_real(self, how: str) -> None:
            real, self._real = self._real, None
            if real is not None:
                getattr(real, how)()

    for name in COLLECTIVES:
        if hasattr(base, name):
            setattr(HeldGroup, name, _collective(name))
    for name in DELEGATED:
        if hasattr(base, name):
            setattr(HeldGroup, name, _delegated(name))
    leave_alone(HeldGroup, held_work, own_work, Seam)
    return HeldGroup


def _collective(name: str) -> Any:
    def launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._launch(name, args, kwargs)

    launch.__name__ = name
    return launch


def _delegated(name: str) -> Any:
    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._whole(), name)(*args, **kwargs)

    ask.__name__ = name
    return ask


def _timeouts(real: Any) -> "dict[Any, Any]":
    found = {}
    for device in real._device_types:
        try:
            found[device] = real._get_backend(device).options._timeout
        except Exception:
            pass  # a backend without options keeps the timeout it is built with
    return found
