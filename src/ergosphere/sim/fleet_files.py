"""Fleets from files: our YAML, and the machine tables of public traces (openb, PAI 2020, Lingjun, the spot fleet).

Everything that cannot be meant is refused with its line and a remedy.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ergosphere.core.model import ProjectView
from ergosphere.core.suggest import nearest
from ergosphere.sim.faulty import Faults, Faulty
from ergosphere.sim.fleet_projects import projects
from ergosphere.sim.fleets import DOMAIN_NODES, NODE_DEVICES, Fleet, Machine, uniform
from ergosphere.sim.lines import parsed

NODES_MAX: Final = 200_000
NODE_DEVICES_MAX: Final = 1_024

_SHORT: Final = re.compile(r"(\d+)\s*[x×]\s*(\d+)")
_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "fleet": frozenset({"name", "regions", "clusters", "nodes", "projects"}),
    "region": frozenset({"name", "clusters"}),
    "cluster": frozenset({"name", "domains", "nodes"}),
    "domain": frozenset({"name", "nodes"}),
    "nodes": frozenset({"name", "count", "devices", "kind", "memory_gib", "spot"}),
}


def read(named: str) -> Fleet:
    """`named` is a YAML or CSV file, or a short form as `128x8`: nodes × devices. Raises Faulty."""
    short = _SHORT.fullmatch(named.strip())
    faults = Faults(named)
    if short:
        return _from_short(int(short[1]), int(short[2]), faults)
    try:
        text = Path(named).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        faults.add(0, why, "name a fleet file, or nodes × devices as in 128x8")
        raise Faulty(named, faults.found) from None
    name = Path(named).name
    fleet = _from_table(name, text, faults) if name.endswith(".csv") else _from_yaml(name, text, faults)
    faults.check()
    return fleet


def _from_short(nodes: int, devices: int, faults: Faults) -> Fleet:
    if not 1 <= nodes <= NODES_MAX or not 1 <= devices <= NODE_DEVICES_MAX:
        words = f"{nodes} nodes of {devices} devices cannot be meant"
        faults.add(0, words, f"1 to {NODES_MAX:,} nodes of 1 to {NODE_DEVICES_MAX:,} devices")
    faults.check()
    return uniform(nodes, devices)


# ---- YAML


def _from_yaml(name: str, text: str, faults: Faults) -> Fleet:
    whole = parsed(text, faults, "docs/simulator.md shows a fleet file")
    if not isinstance(whole, dict):
        faults.add(1, "holds no fleet", "docs/simulator.md shows a fleet file")
        raise Faulty(faults.path, faults.found)
    reader = _Tree(faults)
    reader.fleet(whole)
    if not reader.machines:
        faults.add(0, "has no node", "nodes: [{count: 16, devices: 8}]")
    faults.check()
    return Fleet(str(whole.get("name", name)), tuple(reader.machines), reader.projects)


class _Tree:
    """Walks the file from the fleet down and notes what is wrong."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.machines: list[Machine] = []
        self.projects: tuple[ProjectView, ...] = ()
        self.ids: dict[str, int] = {}

    def fleet(self, whole: Mapping[Any, Any]) -> None:
        self._keys(whole, "fleet")
        for region in self._list(whole, "regions", "region"):
            name = self._name(region, "region")
            for cluster in self._list(region, "clusters", "cluster"):
                self._cluster(cluster, name)
        for cluster in self._list(whole, "clusters", "cluster"):
            self._cluster(cluster, "r0")
        self._nodes(whole, ("r0", "c0", None))
        self.projects = projects(whole.get("projects"), _line(whole, "projects"), self.faults)

    def _cluster(self, cluster: Mapping[Any, Any], region: str) -> None:
        name = self._name(cluster, "cluster")
        for domain in self._list(cluster, "domains", "domain"):
            self._nodes(domain, (region, name, self._name(domain, "domain")))
        self._nodes(cluster, (region, name, None))

    def _nodes(self, parent: Mapping[Any, Any], place: tuple[str, str, str | None]) -> None:
        for group in self._list(parent, "nodes", "nodes"):
            count = self._whole(group, "count", 1, 1, NODES_MAX)
            devices = self._whole(group, "devices", NODE_DEVICES, 1, NODE_DEVICES_MAX)
            memory_gib = self._real(group, "memory_gib", 0.0, 0.0, 100_000.0)
            if len(self.machines) + count > NODES_MAX:
                self.faults.add(group[None], f"more than {NODES_MAX:,} nodes", "split the fleet")
                return
            region, cluster, domain = place
            kind, spot = self._word(group, "kind", "gpu"), self._flag(group, "spot")
            model = Machine("", devices, kind, memory_gib, domain or "", cluster, region, spot)
            for number in range(count):
                self._machine(group, model, number, count)

    def _machine(self, group: Mapping[Any, Any], model: Machine, number: int, count: int) -> None:
        """One node of a group, after its model."""
        stem = self._word(group, "name", "") or f"{model.cluster}-{model.domain or 'n'}"
        key = f"{stem}-{number:05d}" if count > 1 or "name" not in group else stem
        if key in self.ids:
            remedy = "give the groups of nodes names of their own"
            self.faults.add(group[None], f"node {key} is already on line {self.ids[key]}", remedy)
            return
        self.ids[key] = group[None]
        domain = model.domain or f"{model.cluster}-d{number // DOMAIN_NODES:04d}"
        self.machines.append(replace(model, id=key, domain=domain))

    def _list(self, parent: Mapping[Any, Any], key: str, what: str) -> list[dict[Any, Any]]:
        found = parent.get(key)
        if found is None:
            return []
        listed = found if isinstance(found, list) else [found]
        good = [one for one in listed if isinstance(one, dict)]
        if len(good) < len(listed):
            self.faults.add(_line(parent, key), f"{key} is a list of mappings", f"{key}: [{{name: a}}]")
        for one in good:
            self._keys(one, what)
        return good

    def _keys(self, found: Mapping[Any, Any], what: str) -> None:
        for key in found:
            if key is not None and key not in _KEYS[what]:
                near = nearest(str(key), _KEYS[what])
                known = f"did you mean {near}?" if near else f"there is {', '.join(sorted(_KEYS[what]))}"
                self.faults.add(_line(found, key), f"a {what} has no {key}", known)

    def _name(self, found: Mapping[Any, Any], what: str) -> str:
        if not found.get("name"):
            self.faults.add(found[None], f"the {what} has no name", "name: a")
        return self._word(found, "name", "?")

    def _word(self, found: Mapping[Any, Any], key: str, default: str) -> str:
        word = found.get(key, default)
        if word is None or isinstance(word, list | dict | bool) or not str(word).isprintable():
            self.faults.add(_line(found, key), f"{key}: {word!r} cannot be meant", f"a name, as in {key}: a")
            return default
        return str(word)

    def _flag(self, found: Mapping[Any, Any], key: str) -> bool:
        flag = found.get(key, False)
        if not isinstance(flag, bool):
            self.faults.add(_line(found, key), f"{key}: {flag!r} cannot be meant", "true or false")
        return flag is True

    def _whole(self, found: Mapping[Any, Any], key: str, default: Any, least: int, most: int) -> Any:
        number = found.get(key, default)
        if number is None:
            return None
        if not _is_whole(number) or not least <= number <= most:
            remedy = f"a whole number from {least:,} to {most:,}"
            self.faults.add(_line(found, key), f"{key}: {number!r} cannot be meant", remedy)
            return default if default is not None else least
        return int(number)

    def _real(self, found: Mapping[Any, Any], key: str, default: float, least: float, most: float) -> float:
        number = found.get(key, default)
        if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number <= most:
            remedy = f"a number from {least:g} to {most:g}"
            self.faults.add(_line(found, key), f"{key}: {number!r} cannot be meant", remedy)
            return default
        return float(number)


def _line(found: Mapping[Any, Any], key: object) -> int:
    """Of a key; of its mapping where it has none."""
    return int(found[None].keys.get(str(key), found[None]))


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


# ---- tables of public traces


def _from_table(name: str, text: str, faults: Faults) -> Fleet:
    """A row a machine; a row a host (Lingjun, eight devices each); or a row a kind with its number of nodes."""
    reader = csv.DictReader(io.StringIO(text))
    header = [one.strip() for one in reader.fieldnames or ()]
    rows = _whole_rows(reader, faults)
    if {"host", "asw", "psw"} <= set(header):
        machines = list(_hosts(rows, faults))
    elif {"gpu_model", "nodes", "total_gpus"} <= set(header):
        machines = list(_kinds(rows, faults))
    else:
        machines = list(_machines(rows, header, faults))
    if not machines:
        faults.add(0, "has no node with a device", "is it the right file?")
    return Fleet(name.removesuffix(".csv"), tuple(machines))


def _whole_rows(reader: csv.DictReader[str], faults: Faults) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows with as many fields as there are columns; the others are noted."""
    columns = [name.strip() for name in reader.fieldnames or ()]
    for name in sorted({name for name in columns if columns.count(name) > 1}):
        faults.add(1, f"column {name} is there twice", "name each column once")
    try:
        for row in reader:
            if len(row) == len(columns) and None not in row.values():
                yield reader.line_num, row
            else:
                remedy = "is the file cut off, or does a field hold a comma?"
                faults.add(reader.line_num, f"not as many fields as columns, {len(columns)}", remedy)
    except csv.Error as error:
        faults.add(reader.line_num, f"cannot be read: {error}", "is a quotation mark left open?")


def _hosts(rows: Iterator[tuple[int, dict[str, str]]], faults: Faults) -> Iterator[Machine]:
    for line, row in rows:
        number = _count(row["host"])
        if number is None:
            faults.add(line, f"{row['host']!r} is no number of a host", "a whole number")
            continue
        domain = f"{row['psw']}-{row['asw']}"
        yield Machine(f"host{number:05d}", NODE_DEVICES, domain=domain, cluster=row["psw"])


def _kinds(rows: Iterator[tuple[int, dict[str, str]]], faults: Faults) -> Iterator[Machine]:
    for line, row in rows:
        nodes, devices = _count(row["nodes"]), _count(row["total_gpus"])
        if not nodes or not devices or nodes > NODES_MAX:
            faults.add(line, f"{row['nodes']} nodes with {row['total_gpus']} devices cannot be meant", "whole numbers")
            continue
        for number in range(nodes):
            share = devices * (number + 1) // nodes - devices * number // nodes
            if share:
                domain = f"{row['gpu_model']}-d{number // DOMAIN_NODES:03d}"
                yield Machine(f"{row['gpu_model']}-{number:05d}", share, row["gpu_model"], domain=domain)


def _machines(rows: Iterator[tuple[int, dict[str, str]]], header: Sequence[str], faults: Faults) -> Iterator[Machine]:
    key = next((one for one in ("node_id", "machine", "host", "node") if one in header), None)
    width = next((one for one in ("devices", "gpus", "gpu", "cap_gpu") if one in header), None)
    kind = next((one for one in ("kind", "model", "gpu_type", "gpu_model") if one in header), None)
    if key is None or width is None:
        words = f"no column for the node or its devices; there is {', '.join(header) or 'nothing'}"
        faults.add(1, words, "name the columns in the first line: node_id,gpus,gpu_type")
        return
    seen: dict[str, int] = {}
    for line, row in rows:
        devices = _count(row[width] or "0")
        if devices is None or devices > NODE_DEVICES_MAX:
            faults.add(line, f"{row[width]!r} is no number of devices", f"0 to {NODE_DEVICES_MAX:,}")
        elif row[key] in seen:
            remedy = "give every node an id of its own"
            faults.add(line, f"node {row[key]} is already on line {seen[row[key]]}", remedy)
        else:
            seen[row[key]] = line
            if devices:
                model = (row[kind] if kind else "") or "gpu"
                domain = f"{model}-d{len(seen) // DOMAIN_NODES:04d}"
                yield Machine(row[key], devices, model, domain=domain)


def _count(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
