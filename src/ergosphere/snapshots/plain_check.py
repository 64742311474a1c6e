"""`fsck` of what lies in a store as it is, beside the vaults: submissions, results and their files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ergosphere.snapshots.blobs import BLOBS, blob_key, get_blob
from ergosphere.snapshots.errors import Damaged, NotFound, TooNew, read_again
from ergosphere.snapshots.results import RESULTS, parse_result
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.tree import load_tree


@dataclass(slots=True)
class PlainReport:
    """What is wrong, in words; `bad`: keys whose bytes are not what they should be."""

    damaged: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


def check(store: Store, submitted: frozenset[str], *, deep: bool, repair: bool) -> PlainReport:
    """Results and the submissions with these trees: are they readable and all their files there; with `deep`, is every
    file what its name says. `repair` removes what is not: then it can be stored anew, and a sweep goes on.

    Errors: StoreError.
    """
    report = PlainReport()
    trees = dict.fromkeys(submitted, "a submission") | dict(_results(store, report))
    held = {stored.key for stored in store.list(BLOBS)}
    for digest, whose in sorted(trees.items()):
        _check_tree(store, digest, whose, held, report)
    if deep:
        for key in sorted(held):
            _check_blob(store, key, report)
    if repair and report.bad:
        for key in dict.fromkeys(report.bad):
            store.delete(key)
        report.mended.append(f"{len(set(report.bad))} damaged file(s) and record(s) beside the snapshots were removed")
    return report


def _results(store: Store, report: PlainReport) -> Iterator[tuple[str, str]]:
    """The tree of each result that can be read, and whose it is."""
    for stored in store.list(RESULTS):
        try:
            result = read_again(lambda: parse_result(store.get(stored.key), stored.key))  # noqa: B023
            yield result.work.digest, f"the results of job {result.job}"
        except NotFound:
            continue
        except Damaged as error:
            report.damaged.append(error.cause)
            report.bad.append(stored.key)
        except TooNew as error:
            report.damaged.append(error.cause)


def _check_tree(store: Store, digest: str, whose: str, held: set[str], report: PlainReport) -> None:
    try:
        lost = {one for one in load_tree([store], digest).digests() if blob_key(one) not in held}
    except (Damaged, TooNew) as error:
        report.damaged.append(f"{whose}: {error.cause}")
        if isinstance(error, Damaged) and blob_key(digest) in held:
            report.bad.append(blob_key(digest))
        return
    lost = {one for one in lost if not store.has(blob_key(one))}  # it may have come since
    if lost:
        report.damaged.append(f"{whose}: {len(lost)} of its files are missing")


def _check_blob(store: Store, key: str, report: PlainReport) -> None:
    digest = key.rpartition("/")[2]
    try:
        get_blob([store], digest, f"the file {digest[:12]} of a submission or result")
    except Damaged as error:
        if error.how != "is missing":  # a sweep took it meanwhile
            report.damaged.append(error.cause)
            report.bad.append(key)
