"""Reads this machine's own apt sources, to find the Debian mirror it trusts. Standard library only; nothing is changed.

Both formats are understood: one-line (`deb [options] URI SUITE COMPONENT…`) and deb822 stanzas (`*.sources`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

APT: Final = Path("/etc/apt")
ARCHIVE_KEYRINGS: Final = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """One place packages come from. `signed_by` is a path, an inline key (lines as written) or empty."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    def stanza(self, suite: str) -> str:
        """A deb822 stanza for the `main` component of another suite of the same mirror, with the same trust."""
        lines = ["Types: deb", f"URIs: {self.uri}", f"Suites: {suite}", "Components: main"]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"


def debian_mirrors(codename: str, apt: Path = APT) -> tuple[Source, ...]:
    """Mirrors of Debian's own archive among the machine's sources, the likeliest first; one entry per URI.

    A mirror is what offers `main` of the machine's release (or of a rolling name). Third parties do that too:
    those that also have the release's `-updates`, or whose address ends like a Debian archive, come first.
    """
    wanted = {codename, "stable", "oldstable", "testing", "unstable", "sid"} - {""}
    sources = [source for source in read(apt) if "main" in source.components]
    with_updates = {source.uri for source in sources if f"{codename}-updates" in source.suites}
    found: dict[str, Source] = {}
    for source in sources:
        if wanted & set(source.suites):
            found.setdefault(source.uri, _trusted(source))
    return tuple(sorted(found.values(), key=lambda source: _unlikely(source, with_updates)))


def _unlikely(source: Source, with_updates: set[str]) -> int:
    return 2 * (source.uri not in with_updates) + (not source.uri.rstrip("/").endswith("/debian"))


def _trusted(source: Source) -> Source:
    """Names Debian's archive keyring where the source names no key; without one apt's own trust store decides."""
    if source.signed_by:
        return source
    keyring = next((str(path) for path in ARCHIVE_KEYRINGS if path.exists()), "")
    return Source(source.uri, source.suites, source.components, keyring)


def read(apt: Path = APT) -> Iterator[Source]:
    """Every enabled binary source of the machine, in the order of apt's files."""
    folder = apt / "sources.list.d"
    parts = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in [apt / "sources.list", *parts]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".list":
            yield from one_line(text)
        elif path.suffix == ".sources":
            yield from deb822(text)


def one_line(text: str) -> Iterator[Source]:
    """Sources in the one-line format."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)", line)
        if match is None:
            continue
        options, uri, suite, components = match.groups()
        signed_by = re.search(r"signed-by=(\S+)", options or "", re.IGNORECASE)
        yield Source(uri, (suite,), tuple(components.split()), signed_by[1] if signed_by else "")


def deb822(text: str) -> Iterator[Source]:
    """Sources in the deb822 format; a stanza with several URIs gives one source each."""
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        enabled = fields.get("enabled", "yes").strip().lower() not in ("no", "false", "0", "off")
        if not enabled or "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            suites, components = fields.get("suites", "").split(), fields.get("components", "").split()
            yield Source(uri, tuple(suites), tuple(components), fields.get("signed-by", "").rstrip())


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            fields[name] += "\n" + line
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields
