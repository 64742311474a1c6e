"""Splicing: ranks of one device keep equal parameters and optimizer state once, and one of them steps for all.

Every step of every optimizer passes `Splice.step`. What cannot be shown to be equal is left to the rank itself: the
program's own step is then run as if nobody had asked. The order of things in a shared step:

    each rank    makes its record: gradients, values, that its tensors are where they were and unwritten
    all          meet; the first compares the records and decides
    the first    swaps its tensors for the shared ones, runs the program's own step, swaps back
    the others   see the new content in their own pages, and adopt what is no tensor
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
import weakref
from typing import Any, Callable, Final, Optional

from . import adopt, arena, handing, pages, together
from .mates import Mates
from .record import Record
from .sharer import ANSWER, OFFER, PERIODS, STEP, Sharer, lie_in, size_of, unfit

FORK_WAIT_S: Final = 60.0  # for a shared step to end, when another thread forks
NO_DIGEST: Final = b"\0" * 32
Step = Callable[..., Any]


class Splice:
    """All optimizers of this process."""

    def __init__(self, seam: Any) -> None:
        self._seam = seam
        self._sharers: "weakref.WeakKeyDictionary[Any, Sharer]" = weakref.WeakKeyDictionary()
        self._regions: "list[arena.Region]" = []  # also those whose optimizers are gone
        self._count = 0
        self._mates: Optional[Mates] = None
        self._place_count = 1
        self._writes = pages.Writes()
        self._lock = threading.RLock()
        self._sharing = threading.RLock()  # held while this rank does something together with its mates
        self._lost: Optional[handing.Lost] = None
        self._why: Optional[str] = None
        self._shared_steps = self._alone_steps = 0
        self._check_s = 0.0
        self._checks = 0
        self._sizes = (0, 0, 0)
        self._shard: Optional[str] = None

    # -- the control thread's side -----------------------------------------------------------------------------

    def bind(self, table: Any, ground: Any) -> None:
        """From now on this rank has those mates."""
        for sharer in list(self._sharers.values()):
            sharer.failures = 0
        mates = table.mates()
        self._why = None
        if len(mates) > 1 and table.exact != "off":
            self._mates = Mates(ground, str(mates[0]), mates, table.me)
            self._place_count = len(mates)

    def unbind(self) -> None:
        """Leaves every arena, from whatever thread; the program may be anywhere but in a shared step."""
        mates, self._mates = self._mates, None
        self._regions = [region for region in self._regions if not region.is_gone]
        for region in self._regions:
            region.leave_when_still()
        for sharer in list(self._sharers.values()):
            self._part(sharer)
            sharer.forget()
            sharer.has_parted = None
        if mates is not None:
            mates.drop()

    def before_fork(self) -> None:
        """Leaves every arena: a child must not see what the first rank writes later."""
        if self._mates is None:
            return
        is_main = threading.current_thread() is threading.main_thread()
        if not self._sharing.acquire(timeout=FORK_WAIT_S):
            return
        try:
            for sharer in [each for each in list(self._sharers.values()) if each.is_joined]:
                self._leave(sharer, is_main)
                sharer.has_parted = True
        finally:
            self._sharing.release()

    def disown(self) -> None:
        """In a forked child: its pages stay as they are, and it shares nothing."""
        self._mates = None
        self._lock, self._sharing = threading.RLock(), threading.RLock()
        for sharer in list(self._sharers.values()):
            sharer.is_joined, sharer.shared = False, None

    # -- the program's side ------------------------------------------------------------------------------------

    def step(self, own: Step, optimizer: Any, args: Any, kwargs: Any) -> Any:
        """One step of an optimizer. `own` is the program's step without anything of ours."""
        sharer = self._sharers.get(optimizer) or self._known(optimizer)
        if sharer.inside or threading.current_thread() is not threading.main_thread():
            return own(optimizer, *args, **kwargs)
        if self._lost is not None:
            raise self._lost
        sharer.inside = True
        try:
            sharer.steps += 1
            return self._step(sharer, own, optimizer, args, kwargs)
        finally:
            sharer.inside = False
            self._seam.elastic.tell_sometimes()

    def told(self) -> "dict[str, Any]":
        """Figures for the agent."""
        joined = [sharer for sharer in list(self._sharers.values()) if sharer.is_joined and sharer.region is not None]
        told: "dict[str, Any]" = {
            "shared_bytes": sum(sharer.region.plan.size for sharer in joined if sharer.region is not None),
            "steps_shared": self._shared_steps,
            "steps_alone": self._alone_steps,
            "check_interval_steps": 1,
            "check_ms": round(1000 * self._check_s / self._checks, 3) if self._checks else 0.0,
            "shard": self._shard,
        }
        told["parameter_bytes"], told["optimizer_bytes"], told["gradient_bytes"] = self._sizes
        if joined:
            told["state"] = "spliced"
        if self._why is not None:
            told["why"] = self._why
        return told

    # -- stepping ----------------------------------------------------------------------------------------------

    def _step(self, sharer: Sharer, own: Step, optimizer: Any, args: Any, kwargs: Any) -> Any:
        if any(each is not None for each in (*args, *kwargs.values())):
            # A closure computes, draws numbers and speaks to other ranks, as often as the step likes.
            sharer.refusal = sharer.refusal or "its step is given a closure or other arguments"
        if sharer.is_joined:
            answer: "list[Any]" = []
            if not self._with_mates(lambda mates: self._together(mates, sharer, own, optimizer, answer)):
                self._leave(sharer)
                sharer.has_parted = False
            if answer:
                return answer[0]
        elif sharer.has_parted is not None:
            self._with_mates(lambda mates: self._withdraw(mates, sharer, sharer.has_parted))
        result = self._alone(sharer, own, optimizer, args, kwargs)
        if sharer.is_due():
            self._with_mates(lambda mates: self._try(mates, sharer, optimizer))
        return result

    def _with_mates(self, act: "Callable[[Mates], Any]") -> bool:
        # Between the two no cut takes the mates away, and no fork leaves what is shared.
        if not self._seam.begin_sharing():
            return False
        try:
            with self._sharing:
                if self._mates is not None:
                    act(self._mates)
            return True
        finally:
            self._seam.step_out()

    def _withdraw(self, mates: Mates, sharer: Sharer, counts: Any) -> None:
        mates.withdraw(sharer.round(STEP), bool(counts))
        sharer.failures += int(bool(counts))
        sharer.has_parted = None

    def _together(self, mates: Mates, sharer: Sharer, own: Step, optimizer: Any, answer: "list[Any]") -> None:
        """A step with mates; `answer` stays empty where it is to be made alone."""
        if not sharer.is_joined or sharer.refusal is not None:
            self._withdraw(mates, sharer, True)
        elif self._agree_and_step(mates, sharer, own, optimizer, answer):
            return
        self._leave(sharer)

    def _agree_and_step(self, mates: Mates, sharer: Sharer, own: Step, optimizer: Any, answer: "list[Any]") -> bool:
        opened, why = -1, None
        try:
            opened = handing.open_for(sharer.path)
        except OSError as error:  # no more files may be open: a step that is agreed upon could not be handed over
            why = "nothing can be handed over: %s" % error.strerror
        try:
            if self._agree(mates, sharer, optimizer, why):
                answer.append(self._shared_step(mates, sharer, own, optimizer, opened))
            return bool(answer)
        finally:
            if opened >= 0:
                os.close(opened)

    def _alone(self, sharer: Sharer, own: Step, optimizer: Any, args: Any, kwargs: Any) -> Any:
        self._alone_steps += 1
        if sharer.refusal is not None or sharer.failures >= len(PERIODS):
            self._why = sharer.refusal or self._why
            return own(optimizer, *args, **kwargs)
        if sharer.proof.is_torchs:
            answer = own(optimizer, *args, **kwargs)
        else:
            before = self._surroundings()
            answer = own(optimizer, *args, **kwargs)
            self._observe(sharer, before, answer)
        seen = adopt.tensors(optimizer)
        stays = len(seen) == len(sharer.seen) and all(a is b() for a, b in zip(seen, sharer.seen))
        sharer.unsure = None if stays else "its step makes its state anew"
        sharer.seen = [weakref.ref(tensor) for tensor in seen]
        return answer

    def _surroundings(self) -> Any:
        numbers = sys.modules["torch"].get_rng_state()
        return self._seam.launched, ctypes.string_at(numbers.data_ptr(), numbers.numel())

    def _observe(self, sharer: Sharer, before: Any, answer: Any) -> None:
        launched, numbers = self._surroundings()
        if launched != before[0]:
            sharer.refusal = "its step speaks to other ranks"
        elif numbers != before[1]:
            sharer.refusal = "its step draws random numbers"
        elif not adopt.is_plain(answer):
            sharer.refusal = "its step returns more than plain values"

    def _agree(self, mates: Mates, sharer: Sharer, optimizer: Any, why: Optional[str]) -> bool:
        """`why`: what stands against it already."""
        began_s = time.monotonic()
        record = Record(sharer.steps)
        try:
            why = why or together.changed(sharer, optimizer, self._writes) or together.fill(record, sharer, optimizer)
        except Exception as error:
            why = "its tensors could not be looked at: %s" % error
        self._check_s += time.monotonic() - began_s
        self._checks += 1
        verdict = mates.meet(sharer.round(STEP), record.digest(), why is None, self._is_called_off)
        if verdict:
            return True
        if verdict is False or mates.counts:
            sharer.failures += 1
            self._why = why or "gradients or settings differed between ranks of one device"
        return False

    def _shared_step(self, mates: Mates, sharer: Sharer, own: Step, optimizer: Any, opened: int) -> Any:
        self._shared_steps += 1
        try:
            if mates.is_first:
                try:
                    return together.lead(sharer, own, optimizer, self._surroundings, opened)
                finally:
                    mates.done(sharer.round(STEP))
            if not mates.await_done(sharer.round(STEP)):
                lost = "Connection closed by peer: the rank that steps for this device has ended"
                self._seam.judge(lost)
                raise RuntimeError(lost)
            return together.follow(sharer, optimizer, opened)
        except handing.Lost as error:
            # What this step has changed is not the same on all ranks: nothing may go on from here.
            self._lost = error
            raise

    def _is_called_off(self) -> bool:
        return bool(self._seam.is_held)

    # -- beginning and ending to share -------------------------------------------------------------------------

    def _try(self, mates: Mates, sharer: Sharer, optimizer: Any) -> None:
        tensors = adopt.tensors(optimizer)
        self._measure(optimizer, tensors)
        why = sharer.unsure or adopt.oddity(optimizer, sharer.proof.is_torchs) or unfit(sharer, tensors)
        plan = arena.plan(tensors)
        record = Record(0)
        record.add((plan, sharer.steps, sharer.proof.name))
        offered = mates.meet(sharer.round(OFFER), record.digest(), why is None, self._is_called_off)
        if offered:  # whoever has come here has adopted what was handed over before
            sharer.forget()
            sharer.path = "%so%d.%d" % (mates.stem, sharer.number, sharer.steps)
        joined = self._compare(mates, sharer, tensors, plan) if offered else offered
        if joined or (joined is None and not mates.counts):
            return
        sharer.failures += 1
        if offered is None:
            why = "the ranks of its device do not step together"
        if not offered or self._why is None:
            self._why = why or "its parameters or its optimizer differ from those of other ranks on its device"
        self._seam.publish()

    def _compare(self, mates: Mates, sharer: Sharer, tensors: "list[Any]", plan: Any) -> Optional[bool]:
        path = "%sa%d.%d" % (mates.stem, sharer.number, sharer.steps)
        why, equal, opened = None, False, -1
        try:
            try:
                opened = self._opened(mates, sharer, tensors, plan, path)
                equal = opened >= 0 and arena.holds(opened, tensors, plan)
            except OSError as error:
                why = "there is no room to share: %s" % error.strerror
            verdict = mates.meet(sharer.round(ANSWER), NO_DIGEST, equal, self._is_called_off)
            if verdict:
                self._join(mates, sharer, tensors, plan, opened)
            else:
                self._why = why
            return verdict
        finally:
            if mates.is_first:
                _remove(path)
                if not sharer.is_joined:
                    sharer.forget()
            if opened >= 0:
                os.close(opened)

    @staticmethod
    def _opened(mates: Mates, sharer: Sharer, tensors: "list[Any]", plan: Any, path: str) -> int:
        """The file with the first rank's content, open; -1 where there is none."""
        if not mates.is_first:
            if not mates.await_done(sharer.round(OFFER)):
                return -1
            return os.open(path, os.O_RDWR | os.O_CLOEXEC) if os.path.exists(path) else -1
        try:
            handing.create(sharer.path)
            return arena.create(path, tensors, plan)
        finally:
            mates.done(sharer.round(OFFER))

    def _join(self, mates: Mates, sharer: Sharer, tensors: "list[Any]", plan: Any, opened: int) -> None:
        with self._lock:
            if sharer.region is not None and lie_in(sharer.region, tensors) and sharer.region.plan == plan:
                sharer.region.join(opened)
            else:
                sharer.region = arena.Region(plan, opened)
                sharer.views = sharer.region.tensors()
                self._regions.append(sharer.region)
                for tensor, view in zip(tensors, sharer.views):
                    tensor.data = view
            sharer.tensors = tensors
            sharer.shared = arena.Shared(plan, opened) if mates.is_first else None
            sharer.is_joined = True
            self._why = None
        pages.trim()
        self._seam.publish()

    def _leave(self, sharer: Sharer, is_still: bool = True) -> None:
        if sharer.region is not None:
            sharer.region.leave() if is_still else sharer.region.leave_when_still()
        self._part(sharer)
        self._seam.publish()

    def _part(self, sharer: Sharer) -> None:
        with self._lock:
            sharer.part()

    def _measure(self, optimizer: Any, tensors: "list[Any]") -> None:
        parameters = adopt.parameters(optimizer)
        held = sum(size_of(each) for each in parameters)
        gradients = sum(size_of(each.grad) for each in parameters if each.grad is not None)
        self._sizes = (held, sum(size_of(each) for each in tensors) - held, gradients)
        if self._shard is None:
            record = Record(0)
            for each in parameters:
                if arena.is_plain(each):
                    record.add_tensor(each)
            self._shard = record.digest()[:4].hex()

    def _known(self, optimizer: Any) -> Sharer:
        sharer = self._sharers[optimizer] = Sharer(self._count, optimizer)
        self._count += 1
        return sharer


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
