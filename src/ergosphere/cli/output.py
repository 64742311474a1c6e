"""`ergo logs`, and the screen side of following a job: which stream goes where."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ergosphere.cli import screen
from ergosphere.cli.desk import Desk, desk
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.forms import Job

if TYPE_CHECKING:
    from ergosphere.cli.api import Client
    from ergosphere.cli.printing import Printer, Source
    from ergosphere.wire.jobs import JobInfo

TAIL_LINE_BYTES: Final = 256  # guess of a line's length: how much is asked for to find the last N of them
TAIL_BYTES_MAX: Final = 64 << 20


def logs(
    job: Job,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until the job ends.")] = False,
    rank: Annotated[int | None, typer.Option("--rank", min=0, help="Only this rank.")] = None,
    err: Annotated[bool, typer.Option("--err", help="Standard error alone; both streams without.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", metavar="N", min=0, help="The last N lines of each stream.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The very bytes: nothing made safe, no prefixes.")] = False,
) -> None:
    """What a job wrote, safely shown; also after its end."""
    from ergosphere.cli import asking

    here = desk()
    with here.client() as client:
        detail = asking.job(client, job)
        sources = sources_of(detail, rank, ("err",) if err else ("out", "err"))
        spans = {source: _span(client, detail.id, source, tail) for source in sources}
        printers = printers_of(sources, detail.ranks, raw)
        if follow:
            show_growing(here, detail.id, {source: span.start for source, span in spans.items()}, printers)
            return
        shown = [_print_span(client, detail.id, source, spans[source], printers[source]) for source in sources]
    if not any(shown) and screen.can_ask():
        screen.hint(f"nothing written yet; wait for it: ergo logs -f {job}")


def sources_of(job: JobInfo, rank: int | None, streams: Sequence[str]) -> tuple[Source, ...]:
    """The streams to show. Raises CliError (UNKNOWN) for a rank that the job does not have."""
    from ergosphere.cli.printing import Source

    if rank is not None and rank >= job.ranks:
        raise CliError(f"{job.name} has no rank {rank}", f"its ranks are 0 to {job.ranks - 1}", ExitCode.UNKNOWN)
    ranks = range(job.ranks) if rank is None else (rank,)
    return tuple(Source(r, "err" if s == "err" else "out") for r in ranks for s in streams)


def printers_of(sources: Sequence[Source], ranks: int, raw: bool) -> dict[Source, Printer]:
    """A printer for each stream: prefixed lines when several ranks speak, else as it comes."""
    from ergosphere.cli.printing import LinePrinter, PlainPrinter, RawPrinter, prefix_of

    several = len({source.rank for source in sources}) > 1
    found: dict[Source, Printer] = {}
    for source in sources:
        target = sys.stderr if source.stream == "err" else sys.stdout
        out, encoding, colours = target.buffer, target.encoding or "utf-8", target.isatty()
        if raw:
            found[source] = RawPrinter(out)
        elif several:
            found[source] = LinePrinter(out, encoding, colours, prefix_of(source.rank, ranks, colours))
        else:
            found[source] = PlainPrinter(out, encoding, colours)
    return found


def show_growing(here: Desk, job: str, starts: Mapping[Source, int], printers: Mapping[Source, Printer]) -> None:
    """Show every stream from its start until the job has ended, over restarts of the server."""
    from ergosphere.cli.follow import Away, Broken, Piece, follow

    stop = threading.Event()
    try:
        for told in follow(here.client, job, starts.items(), stop):
            match told:
                case Piece(source, data, ended):
                    printers[source].feed(data)
                    if ended:
                        printers[source].close()
                case Away(True):
                    screen.note(
                        "the server does not answer; the job runs on; waiting for it (`ergo up` starts it again)"
                    )
                case Away(False):
                    screen.note("the server is back")
                case Broken(fault):
                    raise fault
    finally:
        stop.set()


def _span(client: Client, job: str, source: Source, tail: int | None) -> range:
    """The offsets of what a stream holds now, or of its last `tail` lines: a log that grows has an end here."""
    if tail is None:
        start, data = _last_bytes(client, job, source, 1)
        return range(start + len(data))
    wanted = max(1, tail) * TAIL_LINE_BYTES
    while True:
        start, data = _last_bytes(client, job, source, wanted)
        position = last_lines(data, tail)
        if position is not None or start == 0 or wanted >= TAIL_BYTES_MAX:
            return range(start + (position or 0), start + len(data))
        wanted *= 4


def last_lines(data: bytes, count: int) -> int | None:
    """Where the last `count` lines of `data` begin; None when that is before its beginning."""
    position = len(data) - data.endswith(b"\n")
    if count == 0:
        return len(data)
    for _ in range(count):
        position = data.rfind(b"\n", 0, position)
        if position < 0:
            return None
    return position + 1


def _last_bytes(client: Client, job: str, source: Source, count: int) -> tuple[int, bytes]:
    """(offset, bytes) of the last `count` bytes of a stream, as it was when asked."""
    from ergosphere.cli.follow import page_bytes, read_page

    page = read_page(client, job, source, -count)
    start, data = page.offset, b""
    while len(data) < count and (chunk := page_bytes(page)):
        data += chunk
        page = read_page(client, job, source, start + len(data))
    return start, data[:count]


def _print_span(client: Client, job: str, source: Source, span: range, printer: Printer) -> bool:
    """What lies in the span; False when that is nothing."""
    from ergosphere.cli.follow import page_bytes, read_page

    offset = span.start
    while offset < span.stop and (data := page_bytes(read_page(client, job, source, offset))):
        printer.feed(data[: span.stop - offset])
        offset += len(data)
    printer.close()
    return offset > span.start
