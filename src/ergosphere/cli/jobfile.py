"""A job's YAML file: one flat mapping in which every field but `run` is optional. Reads, never runs.

A SkyPilot task file is read unchanged where its fields mean something here; what does not is said in a note,
what would change the job's result is refused.

    name: digits                    # as -n
    run: torchrun --nproc-per-node 4 train.py     # a line or a script (bash), or a list of words; `command` is the same
    setup: pip install -r needs.txt # in front of `run`, jobs of one rank only
    workdir: .                      # as --workdir
    envs: {LR: "0.1"}               # as -e; null: to be given with -e.  `secrets` and `env` alike
    grace: 30s                      # as --grace, with `signal: TERM`
    tier project ranks mounts network threads export snapshot_every keep_snapshots max_restarts hold  # as the flags
    min_devices exact                                                                                 # too
    num_nodes, resources            # SkyPilot: num_nodes without `ranks` counts shells; resources are a note
    after: [prepare]                # jobs whose success it waits for
    array: 0-9                      # one job per index
    replicas: 2-5                   # a service
    types: {H100: 1, A100: 0.6}     # device types it can use, with their speeds; or a list
    regions: [eu-1, eu-2]           # where it may run
    data: eu-1                      # where its data lies: taken first
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ergosphere.cli.draft import Draft
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.habits import parting_of
from ergosphere.cli.script import Command, Script, command_of, launches_ranks
from ergosphere.cli.words import bounds, did_you_mean, indexes, span_s

if TYPE_CHECKING:
    import yaml

FILE_BYTES_MAX: Final = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Field:
    """One value of the file: what it is called, the line it stands on, what it says."""

    name: str
    line: int
    value: Any
    file: str

    def wrong(self, cause: str, remedy: str = "") -> CliError:
        """The error that names file, line and field."""
        return CliError(f"{self.file}, line {self.line}: {self.name}: {cause}", remedy, ExitCode.USAGE)


Fields = Mapping[str, Field]


def read(path: Path, given: Mapping[str, str]) -> tuple[Draft, tuple[str, ...]]:
    """What the file says, and notes for its owner. `given` are the variables set with -e.

    Raises CliError (USAGE) with the line of whatever cannot be meant.
    """
    found = _fields(_text(path), path.name)
    for name, field in found.items():
        _check_known(name, field)
    command = _command(found, given)
    draft = Draft(
        command=command.argv,
        name=_of(found, "name", _word),
        project=_of(found, "project", _word),
        tier=_of(found, "tier", _word),
        ranks=command.ranks or _of(found, "ranks", _count),
        env={**command.env, **_environment(found, given)},
        export=_of(found, "export", _names),
        workdir=_of(found, "workdir", _folder),
        mounts=_of(found, "mounts", _words) or (),
        network=_of(found, "network", _word),
        threads=_of(found, "threads", _count),
        snapshot_every_s=_of(found, "snapshot_every", _span),
        keep_snapshots=_of(found, "keep_snapshots", _count),
        max_restarts=_of(found, "max_restarts", _count_or_none),
        hold_s=_of(found, "hold", _span),
        **_parting(found),
        after=_of(found, "after", _words) or (),
        array=_of(found, "array", _indexes) or (),
        replicas=_of(found, "replicas", _bounds),
        min_devices=_of(found, "min_devices", _count),
        exact=_of(found, "exact", _switch),
        types=_of(found, "types", _speeds) or {},
        regions=_of(found, "regions", _words) or (),
        data=_of(found, "data", _word),
    )
    return draft, _skypilot_notes(found) + command.notes


def _parting(found: Fields) -> dict[str, Any]:
    """How the job is asked to save itself, and how long it has for that."""
    signal, grace_s = _of(found, "signal", _word), _of(found, "grace", _span)
    try:
        name, grace_s = parting_of(signal, grace_s)
    except CliError as fault:
        raise (found.get("signal") or found["grace"]).wrong(str(fault), fault.remedy) from None
    return {"signal": name, "grace_s": grace_s}


_REFUSED: Final = {
    "file_mounts": "put the files into the working directory, or open their folder with `mounts`",
    "volumes": "open the folder with `mounts`",
    "service": "run the server itself as a job",
    "pool": "jobs go to the whole fleet; leave it out",
}
_IGNORED: Final = frozenset({"resources", "config", "experimental", "inputs", "outputs", "event_callback"})
_OWN_NAMES: Final = """name run command setup workdir envs env secrets num_nodes tier project ranks mounts network
    threads export snapshot_every keep_snapshots max_restarts hold grace signal min_devices exact after array replicas
    types regions data"""
_OWN: Final = frozenset(_OWN_NAMES.split())


# What SkyPilot's `resources` may hold: wishes that mean nothing here, so only slips are refused.
_RESOURCE_NAMES: Final = """accelerators accelerator_args any_of autostop capabilities cloud cpus disk_size disk_tier
    image_id infra instance_type job_recovery labels local_disk max_hourly_cost memory network_tier ordered ports
    priority priority_class region spot_recovery use_spot volumes zone"""
_RESOURCES: Final = frozenset(_RESOURCE_NAMES.split())


def _resources_notes(field: Field) -> tuple[str, ...]:
    """A slip among the keys is refused with the nearest valid one; a key that is nobody's is noted."""
    one = field.value if isinstance(field.value, dict) else {}
    choices = [*(one.get("any_of") or ()), *(one.get("ordered") or ())]
    keys = [str(key) for choice in (one, *choices) if isinstance(choice, dict) for key in choice]
    odd = [key for key in keys if key not in _RESOURCES]
    for key in odd:
        if remedy := did_you_mean(key, _RESOURCES):
            raise field.wrong(f"unknown key {key!r}", remedy)
    return (f"resources (line {field.line}): nobody knows {', '.join(odd)}",) if odd else ()


def _check_known(name: str, field: Field) -> None:
    if name in _REFUSED and field.value:
        raise field.wrong("has no meaning here and the job would differ without it", _REFUSED[name])
    if name not in _OWN | _IGNORED | _REFUSED.keys():
        known = sorted(_OWN)
        raise CliError(
            f"{field.file}, line {field.line}: unknown key {name!r}",
            did_you_mean(name, known, f"the keys are {', '.join(known)}"),
            ExitCode.USAGE,
        )


def _command(found: Fields, given: Mapping[str, str]) -> Command:
    """The program that the file describes; an empty command when it describes none."""
    run = found.get("run") or found.get("command")
    if run is None or not run.value:
        return Command(())
    if not isinstance(run.value, (str, list)):
        raise run.wrong("must be a command line, a script or a list of words")
    script = Script(
        run=run.value if isinstance(run.value, str) else tuple(map(str, run.value)),
        setup=_of(found, "setup", _word) or "",
        env=_environment(found, given),
        nodes=_of(found, "num_nodes", _count) or 1,
        accelerators=_accelerators(found.get("resources")),
        ranks=_of(found, "ranks", _count),
    )
    try:
        command = command_of(script)
        alone = command_of(replace(script, setup=""))
    except ValueError as fault:
        raise run.wrong(str(fault), "quote it as a shell would need it") from None
    if script.setup and ((command.ranks or 1) > 1 or launches_ranks(alone.argv)):
        raise found["setup"].wrong("it would run in every rank, and this job has several", "run it before submitting")
    return command


def _skypilot_notes(found: Fields) -> tuple[str, ...]:
    notes = []
    if (resources := found.get("resources")) and resources.value:
        notes.append(f"resources (line {resources.line}) is a wish only: every rank gets one device, or a part of one")
        notes += _resources_notes(resources)
    if ignored := sorted(n for n in found if n in _IGNORED - {"resources"} and found[n].value):
        notes.append(f"without meaning here: {', '.join(ignored)}")
    return tuple(notes)


def _accelerators(field: Field | None) -> int:
    """How many a SkyPilot file asks for: `A100:8`, `{A100: 8}`, `[A100:8, H100:8]`; 1 when it does not say."""
    wish = field.value.get("accelerators") if field and isinstance(field.value, dict) else None
    if isinstance(wish, list) and wish:
        wish = wish[0]
    count = next(iter(wish.values()), 1) if isinstance(wish, dict) else str(wish or "").partition(":")[2]
    try:
        return max(1, int(float(count or 1)))
    except (TypeError, ValueError):
        return 1


def _environment(found: Fields, given: Mapping[str, str]) -> dict[str, str]:
    env = {}
    for name in ("env", "envs", "secrets"):
        field = found.get(name)
        if field is None or field.value is None:
            continue
        if not isinstance(field.value, dict):
            raise field.wrong("must be a mapping of names to values")
        for key, value in field.value.items():
            if value is None and key not in given:
                raise field.wrong(f"{key} has no value", f"give it with -e {key}=VALUE")
            if value is not None and not isinstance(value, str):
                raise field.wrong(f"{key} must be one value")
            env[str(key)] = given.get(key, value or "")
    return env


def _of(found: Fields, name: str, read_value: Callable[[Field], T]) -> T | None:
    field = found.get(name)
    return None if field is None or field.value is None else read_value(field)


def _word(field: Field) -> str:
    if isinstance(field.value, (dict, list)):
        raise field.wrong("must be one word")
    return str(field.value)


def _folder(field: Field) -> str:
    if isinstance(field.value, dict):
        raise field.wrong("must be a folder on this machine", "clone it first and name the folder")
    return _word(field)


def _speeds(field: Field) -> dict[str, float]:
    """`{H100: 1, A100: 0.6}`, or names alone: all alike."""
    if not isinstance(field.value, dict):
        return dict.fromkeys(_words(field), 1.0)
    try:
        return {str(name): float(speed) for name, speed in field.value.items()}
    except (TypeError, ValueError):
        raise field.wrong("must be device types with their speeds", "types: {H100: 1, A100: 0.6}") from None


def _words(field: Field) -> tuple[str, ...]:
    values = field.value if isinstance(field.value, list) else [field.value]
    if any(isinstance(v, (dict, list)) for v in values):
        raise field.wrong("must be a list of words")
    return tuple(map(str, values))


def _names(field: Field) -> str:
    return ",".join(_words(field))


def _switch(field: Field) -> str:
    """YAML reads a bare on and off as truth values."""
    return {True: "on", False: "off"}.get(field.value, "") if isinstance(field.value, bool) else _word(field)


def _count_or_none(field: Field) -> int:
    if isinstance(field.value, bool) or not str(field.value).isdigit():
        raise field.wrong(f"must be a whole number, not {field.value!r}")
    return int(field.value)


def _count(field: Field) -> int:
    if (count := _count_or_none(field)) < 1:
        raise field.wrong("must be at least 1")
    return count


def _span(field: Field) -> float:
    try:
        return span_s(str(field.value))
    except ValueError as fault:
        raise field.wrong(str(fault)) from None


def _indexes(field: Field) -> tuple[int, ...]:
    try:
        return indexes(str(field.value)) if field.value not in (None, "") else ()
    except ValueError as fault:
        raise field.wrong(str(fault)) from None


def _bounds(field: Field) -> tuple[int, int]:
    try:
        return bounds(str(field.value))
    except ValueError as fault:
        raise field.wrong(str(fault)) from None


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > FILE_BYTES_MAX:
            raise CliError(f"{path} is too big for a job file", "1 MB at most", ExitCode.USAGE)
        return data.decode()
    except OSError as fault:
        raise CliError(f"{path} cannot be read: {fault.strerror}", "", ExitCode.USAGE) from None
    except UnicodeDecodeError:
        raise CliError(f"{path} is no text in UTF-8", "", ExitCode.USAGE) from None


def _fields(text: str, file: str) -> dict[str, Field]:
    """The top-level keys with their lines; values of environments stay as they were written."""
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise CliError(f"{file}: not a mapping of fields", "write `run: COMMAND` at least", ExitCode.USAGE)
        return _read_mapping(loader, root, file)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        where = f"{file}, line {mark.line + 1}" if mark else file
        remedy = "one file is one job" if "single document" in str(fault.context) else ""
        raise CliError(f"{where}: {fault.problem or fault.context}", remedy, ExitCode.USAGE) from None
    finally:
        loader.dispose()


def _read_mapping(loader: yaml.SafeLoader, root: yaml.MappingNode, file: str) -> dict[str, Field]:
    found: dict[str, Field] = {}
    for key, node in root.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in found:
            raise CliError(
                f"{file}, line {line}: {name} is there twice",
                f"the first is on line {found[name].line}",
                ExitCode.USAGE,
            )
        as_written = name in ("env", "envs", "secrets")
        found[name] = Field(
            name, line, _as_written(node) if as_written else loader.construct_object(node, deep=True), file
        )
    return found


def _as_written(node: yaml.Node) -> Any:
    """`{A: 010, B: true, C: null}` -> {"A": "010", "B": "true", "C": None}: variables are text, not numbers."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        return {str(k.value): _as_written(v) for k, v in node.value}
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == "tag:yaml.org,2002:null" else str(node.value)
    return []
