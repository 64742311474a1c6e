"""The nearest valid name for one that nobody knows: flags, fields of a job file, nodes. Words only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

CUTOFF: Final = 0.6  # difflib ratio below which a name is another word, not a slip
LETTERS_PER_SLIP: Final = 3  # one slip in so many letters; more of them make another word
PREFIX_MIN: Final = 3  # letters of a name that stand for all of it
LISTED_MAX: Final = 12  # names shown when none is near


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` is a slip or a part of, or None. Case, dashes and underscores count for nothing."""
    plain = _plain(word)
    by_plain = {_plain(name): name for name in sorted(known, reverse=True)}
    found = difflib.get_close_matches(plain, sorted(by_plain), n=3, cutoff=CUTOFF)
    near = next((name for name in found if _is_near(plain, name)), None)
    return by_plain[near] if near is not None else None


def _is_near(typed: str, name: str) -> bool:
    if len(typed) >= PREFIX_MIN and name.startswith(typed):
        return True
    words, others = set(typed.split("-")), set(name.split("-"))
    return words <= others or others <= words or slips(typed, name) <= max(1, len(typed) // LETTERS_PER_SLIP)


def slips(a: str, b: str) -> int:
    """Letters that are missing, too many, wrong, or two that changed places, from `a` to `b` (Damerau 1964)."""
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            least = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and (letter, a[i - 2]) == (b[j - 2], other):
                least = min(least, rows[-2][j - 2] + 1)
            row.append(least)
        rows.append(row)
    return rows[-1][-1]


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """A sentence for the user: "unknown field 'rank': did you mean 'ranks'?"."""
    names = sorted(known)
    near = nearest(word, names)
    if near is not None:
        return f"unknown {kind} '{word}': did you mean '{near}'?"
    if not names:
        return f"unknown {kind} '{word}'"
    listed = ", ".join(names[:LISTED_MAX]) + (" …" if len(names) > LISTED_MAX else "")
    return f"unknown {kind} '{word}': known are {listed}"


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-").lstrip("-")
