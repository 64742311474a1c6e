"""The meeting place of the ranks of one device: they come together at a step, compare what they have, hear a verdict.

The first of them decides, once all have come, by a lock that also guards going away without a verdict: so either all
hear the same one, or somebody has gone and all do. Nothing here knows torch or what is compared."""

from __future__ import annotations

import ctypes
import fcntl
import os
import time
from typing import Any, Callable, Final, NamedTuple, Optional

from . import pages

DIGEST_BYTES: Final = 32
ENTRY_BYTES: Final = 128
ENTRY_WORDS: Final = ENTRY_BYTES // 8
DIGEST_AT: Final = 64  # in an entry
PATIENCE_S: Final = 5.0  # with mates who may be somewhere else for good
LOOK_S: Final = 0.05
LOST_LOOK_S: Final = 0.5
EQUAL, DIFFERENT, NONE = 1, 2, 3
ROUND, FLAG, LEFT, DONE, LEFT_FREELY = range(5)  # words of an entry; its digest follows
OPTIMIZER_SHIFT: Final = 40


class Round(NamedTuple):
    """One meeting: equal numbers mean the same one. `number` rises within an optimizer and is never 0."""

    optimizer: int
    number: int

    @property
    def word(self) -> int:
        return self.optimizer << OPTIMIZER_SHIFT | self.number

    def is_passed_by(self, word: int) -> bool:
        """Whether that word is of this meeting, or of a later one of the same optimizer."""
        return word >> OPTIMIZER_SHIFT == self.optimizer and word >= self.word


class Mates:
    """One rank's place at the meetings of its device."""

    def __init__(self, ground: Any, name: str, mates: "list[int]", me: int) -> None:
        self._ground = ground
        self._count = len(mates)
        self._mates = mates
        self._place = mates.index(me)
        self.stem = ground.stem + "d%s." % name
        self._size = pages.whole(ENTRY_BYTES * (self._count + 1))
        os.close(os.open(self.stem + "mates", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.truncate(self.stem + "mates", self._size)
        self._address = pages.attach(self.stem + "mates", self._size)
        self._bytes: Any = memoryview((ctypes.c_char * self._size).from_address(self._address)).cast("B")
        self._words: Any = self._bytes.cast("Q")
        self.counts = True  # whether the last meeting, if it came to nothing, did so for a reason that may come again
        self._lock = os.open(self.stem + "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that decides and steps for all."""
        return self._place == 0

    def meet(self, round: Round, digest: bytes, agrees: bool, called_off: "Callable[[], bool]") -> Optional[bool]:
        """Waits until all have come to this round. True if all agree and brought the same digest.

        None if there will be no verdict: somebody has gone, `called_off` says so, or patience has run out."""
        at, digest_at = self._place * ENTRY_WORDS, self._place * ENTRY_BYTES + DIGEST_AT
        self._bytes[digest_at : digest_at + DIGEST_BYTES] = digest
        self._words[at + FLAG] = int(agrees)
        self._words[at + ROUND] = round.word
        if not self._ground.turn.held:  # who has the turn hands it over now, and rings then
            self._ground.bell.ring()
        verdict = self._wait(lambda: self._verdict(round), called_off, PATIENCE_S)
        if verdict is None:
            verdict = self.withdraw(round, counts=not called_off())
        self.counts = not self._any(round, LEFT_FREELY)
        return None if verdict in (None, NONE) else verdict == EQUAL

    def withdraw(self, round: Round, counts: bool = True) -> Optional[int]:
        """Says that this rank will not be there; `counts`: that it is for more than a cut. What had been decided."""
        with self._locked():
            known = self._known(round)
            if known is None:
                at = self._place * ENTRY_WORDS
                self._words[at + LEFT_FREELY] = 0 if counts else round.word
                self._words[at + LEFT] = round.word
        self._ground.bell.ring()
        return known

    def done(self, round: Round) -> None:
        """The first has done for all what was to be done in this round."""
        self._words[self._count * ENTRY_WORDS + DONE] = round.word
        self._ground.bell.ring()

    def await_done(self, round: Round) -> bool:
        """Waits for that. False if the first has died over it."""
        at = self._count * ENTRY_WORDS + DONE
        return bool(self._wait(lambda: self._words[at] == round.word or None, lambda: False, None))

    def drop(self) -> None:
        """Lets go of the place."""
        self._words.release()
        self._bytes.release()
        pages.unmap(self._address, self._size)
        os.close(self._lock)
        for name in ("mates", "lock"):
            try:
                os.unlink(self.stem + name)
            except OSError:
                pass

    # -- within ------------------------------------------------------------------------------------------------

    def _wait(self, look: "Callable[[], Any]", called_off: "Callable[[], bool]", limit_s: Optional[float]) -> Any:
        bell, turn = self._ground.bell, self._ground.turn
        began_s = looked_s = time.monotonic()
        while True:
            seen = bell.seen()
            found = look()
            if found is not None:
                break
            now_s = time.monotonic()
            if called_off() or (limit_s is not None and now_s - began_s > limit_s):
                break
            if now_s - looked_s > LOST_LOOK_S:
                looked_s = now_s
                if any(self._ground.alive.is_gone(rank) for rank in self._mates):
                    found = look()  # it may have done its part and ended between the two looks
                    break
            turn.give()
            bell.wait(seen, LOOK_S)
        turn.take()
        return found

    def _verdict(self, round: Round) -> Optional[int]:
        known = self._known(round)
        if known is None and self.is_first and self._all_came(round):
            with self._locked():
                if not self._any(round, LEFT):
                    equal = self._all_equal()
                    self._put_verdict(round, EQUAL if equal else DIFFERENT)
            self._ground.bell.ring()
            known = self._known(round)
        if known is None and self._any(round, LEFT):
            freely = self._any(round, LEFT_FREELY)
            return NONE if self.withdraw(round, counts=not freely) is None else self._known(round)
        return known

    def _known(self, round: Round) -> Optional[int]:
        at = self._count * ENTRY_WORDS
        return int(self._words[at + FLAG]) if self._words[at + ROUND] == round.word else None

    def _put_verdict(self, round: Round, verdict: int) -> None:
        at = self._count * ENTRY_WORDS
        self._words[at + FLAG] = verdict
        self._words[at + ROUND] = round.word

    def _all_came(self, round: Round) -> bool:
        return all(self._words[ENTRY_WORDS * place + ROUND] == round.word for place in range(self._count))

    def _any(self, round: Round, word: int) -> bool:
        return any(round.is_passed_by(self._words[ENTRY_WORDS * place + word]) for place in range(self._count))

    def _all_equal(self) -> bool:
        mine = bytes(self._bytes[DIGEST_AT : DIGEST_AT + DIGEST_BYTES])
        places = range(self._count)
        agree = all(self._words[ENTRY_WORDS * place + FLAG] == 1 for place in places)
        at = [ENTRY_BYTES * place + DIGEST_AT for place in places]
        return agree and all(bytes(self._bytes[each : each + DIGEST_BYTES]) == mine for each in at)

    def _locked(self) -> "_Locked":
        return _Locked(self._lock)


class _Locked:
    def __init__(self, opened: int) -> None:
        self._opened = opened

    def __enter__(self) -> None:
        fcntl.lockf(self._opened, fcntl.LOCK_EX)

    def __exit__(self, *_: Any) -> None:
        fcntl.lockf(self._opened, fcntl.LOCK_UN)
