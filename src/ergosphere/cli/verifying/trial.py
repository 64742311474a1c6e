"""One verification from beginning to end: prepare, run undisturbed, run disturbed, compare."""

from __future__ import annotations

import re
import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ergosphere import system
from ergosphere.cli.draft import Draft
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.printing import Source
from ergosphere.cli.safe import safe_line
from ergosphere.cli.submission import Submitter, prepare
from ergosphere.cli.verifying.blows import VERIFY, Kind, draw
from ergosphere.cli.verifying.compare import Comparison, compare_runs
from ergosphere.cli.verifying.course import Course, Pace, follow, sent, submit
from ergosphere.cli.verifying.fleet import PrivateFleet, Shape, private_fleet
from ergosphere.cli.verifying.outcome import Outcome
from ergosphere.cli.verifying.plain import PlainRun, run_plain
from ergosphere.cli.verifying.telling import Telling
from ergosphere.cli.verifying.verdict import Verdict
from ergosphere.cli.words import plural, span_text
from ergosphere.cli.workcopy import WorkCopy, scan_directory

if TYPE_CHECKING:
    from ergosphere.cli.desk import Desk
    from ergosphere.wire.jobs import JobSpec

Against = Literal["direct", "ergo"]

IN_WORDS: Final[dict[Against, str]] = {
    "direct": "the same command without ergo: same variables, same cores, a copy of the directory at the same path",
    "ergo": "the same command under ergo, undisturbed",
}
LOOKS_MIN: Final = 12  # a program whose output grew at fewer looks than this is followed by time instead
STDERR_LINES_SHOWN: Final = 5


def against_of(word: str) -> Against:
    """What was typed behind --against. Raises CliError (USAGE)."""
    match word:
        case "direct" | "ergo":
            return word
        case _:
            raise CliError(f"--against {word}: it is direct or ergo", "leave it out for direct", ExitCode.USAGE)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be verified and how."""

    draft: Draft
    seed: int
    events: int
    against: Against | None = None  # None: direct, or ergo where exact sums make a difference
    masks: tuple[str, ...] = ()
    twice: bool = False
    keep: bool = False
    resize: bool = False


@dataclass(slots=True)
class Growth:
    """Watches a run's output grow: how often it was longer than at the look before."""

    telling: Telling
    grew: int = 0
    size: int = 0

    def __call__(self, size: int) -> None:
        self.grew += size > self.size
        self.size = size
        self.telling.wrote(size)


def run_trial(here: Desk, tools: Path, wish: Wish, tell: Telling) -> Verdict:
    """Everything, in a fleet of its own that is gone afterwards. Raises CliError when there is nothing to compare."""
    masks = tuple(_pattern(mask) for mask in wish.masks)
    prepared = prepare(wish.draft, Submitter(here.environment, here.folder, here.home, near=True))
    copy = scan_directory(Path(prepared.spec.workdir), here.home)
    for note in (*prepared.notes, *copy.notes):
        tell.step(f"note: {safe_line(note)}")
    if wish.resize and prepared.spec.ranks == 1:
        raise CliError("--resize: a job of one rank has one device", "leave it out, or give it ranks", ExitCode.USAGE)
    against = wish.against or _against(prepared.spec)
    tell.step(f"starting two nodes of {plural(prepared.spec.ranks, 'device')}, to be gone afterwards")
    shape = Shape(nodes=2, devices=prepared.spec.ranks)
    with (
        private_fleet(here, tools, shape) as fleet,
        tempfile.TemporaryDirectory(prefix="ergo-plain-") as folder,
    ):
        fleet.keep = wish.keep
        spec = sent(fleet, prepared, copy)
        undisturbed = Undisturbed(fleet, PlainRun(spec, copy, fleet.cores), Path(folder), against, tell)
        left, pace = undisturbed.run(1)
        again = _again(undisturbed, left, copy, masks) if wish.twice else None
        course = _disturbed(fleet, spec, wish, pace, tell)
        tell.step("comparing every byte")
        comparison = compare_runs(left, course.outcome, copy.tree, masks)
        without = _without_ergo(undisturbed, left, masks) if wish.against is None and against == "ergo" else None
        if wish.keep:
            tell.step(f"the fleet's folder stays: ERGO_HOME={fleet.home}")
    command = shlex.join(wish.draft.command)
    return Verdict(command, wish.seed, IN_WORDS[against], left.span_s, course, comparison, wish.masks, again, without)


def _against(spec: JobSpec) -> Against:
    """Beyond two ranks exact sums differ from Gloo's ring in the last bits: design §3.8."""
    return "ergo" if spec.ranks > 2 and spec.exact != "off" and spec.launcher != "opaque" else "direct"


def _without_ergo(undisturbed: Undisturbed, under_ergo: Outcome, masks: tuple[re.Pattern[bytes], ...]) -> Comparison:
    """What the same command gives without ergo, for the reader to see; the verdict does not depend on it."""
    direct, _ = replace(undisturbed, against="direct").run(2)
    return compare_runs(direct, under_ergo, undisturbed.plain.copy.tree, masks)


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """The run that the other is measured against; may be run several times."""

    fleet: PrivateFleet
    plain: PlainRun
    folder: Path
    against: Against
    tell: Telling

    def run(self, number: int) -> tuple[Outcome, Pace]:
        """Its outcome, and how fast it went. Raises CliError when the program fails by itself."""
        self.tell.step("undisturbed run" + (" without ergo" if self.against == "direct" else " under ergo"))
        growth = Growth(self.tell)
        outcome = self._plain(number, growth) if self.against == "direct" else self._under_ergo()
        if outcome.exit_code != 0:
            raise _failed(outcome)
        self.tell.step(f"undisturbed run ended after {span_text(outcome.span_s)}")
        source = outcome.main_source
        by_output = growth.grew >= LOOKS_MIN or self.against == "ergo"
        return outcome, Pace(source, len(outcome.streams[source]), outcome.span_s, by_output)

    def _plain(self, number: int, growth: Growth) -> Outcome:
        folder = self.folder / str(number)
        folder.mkdir()
        group = f"ergo-{system.fleet_id(self.fleet.home)}/plain"
        return run_plain(self.plain, folder, group, self.fleet.clock, growth)

    def _under_ergo(self) -> Outcome:
        job = submit(self.fleet, self.plain.spec)
        endless = Pace(Source(0, "out"), 0, float("inf"), by_output=False)
        return follow(self.fleet, job, (), endless, self.tell).outcome


def _disturbed(fleet: PrivateFleet, spec: JobSpec, wish: Wish, pace: Pace, tell: Telling) -> Course:
    kinds = (*VERIFY, Kind.RESIZE) if wish.resize else VERIFY
    schedule = draw(system.dice(wish.seed), wish.events, kinds)
    tell.step(f"disturbed run under ergo: {plural(len(schedule), 'blow')}, seed {wish.seed}")
    return follow(fleet, submit(fleet, spec), schedule, pace, tell)


def _again(
    undisturbed: Undisturbed, first: Outcome, copy: WorkCopy, masks: tuple[re.Pattern[bytes], ...]
) -> Comparison:
    second, _ = undisturbed.run(2)
    return compare_runs(first, second, copy.tree, masks)


def _pattern(mask: str) -> re.Pattern[bytes]:
    try:
        return re.compile(mask.encode("utf-8", "surrogateescape"), re.MULTILINE)
    except re.error as fault:
        raise CliError(f"--mask {mask}: {fault}", "it is a regular expression of Python", ExitCode.USAGE) from None


def _failed(outcome: Outcome) -> CliError:
    said = b"".join(data for source, data in sorted(outcome.streams.items()) if source.stream == "err")
    lines = [safe_line(line.decode("utf-8", "surrogateescape")) for line in said.splitlines()[-STDERR_LINES_SHOWN:]]
    return CliError(
        f"the undisturbed run failed (exit code {outcome.exit_code})" + "".join(f"\n    {line}" for line in lines),
        "there is nothing to compare with: mend the program first",
    )
