"""What a command line asks for: how many ranks, what each of them runs, the variables its launcher would have set.

Pure reading of words. `torchrun` is understood in all its spellings and never run: every rank is a process of ours.
Launchers that we do not take apart (`accelerate launch`, `mpirun` …) are recognised, so that we can say what it means.
The options and variables are those of torchrun 2.13 (torch/distributed/run.py, elastic/agent/server/).
"""

from __future__ import annotations

import argparse
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from string import Template
from types import MappingProxyType
from typing import Final, Literal, NoReturn

from ergosphere.core.suggest import unknown

MASTER_PORT: Final = 29500  # torchrun's; free in a job's own network namespace
SIGNALS_HANDLED: Final = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"  # torchrun's default
LOCAL_RANK_MACRO: Final = "${local_rank}"

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_PYTHON: Final = re.compile(r"(python|pypy)[\d.]*t?(\.exe)?")
_PYTHON_FLAGS_WITH_VALUE: Final = frozenset({"-W", "-X", "--check-hash-based-pycs"})
_LAUNCH_MODULE: Final = "torch.distributed.launch"  # deprecated: passes --local-rank unless told --use-env
_TORCHRUN_MODULES: Final = frozenset({"torch.distributed.run", _LAUNCH_MODULE})
_OPAQUE_PROGRAMS: Final = frozenset({"deepspeed", "mpirun", "mpiexec", "orterun", "horovodrun", "srun", "jsrun"})
_OPAQUE_WITH_VERB: Final = frozenset({("accelerate", "launch"), ("colossalai", "run"), ("fabric", "run")})
_OPAQUE_MODULES: Final = frozenset({"accelerate.commands.launch", "deepspeed.launcher.runner"})

Resolve = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line as we shall run it.

    `ranks` None: the command does not say. `command` is what every rank runs (for torchrun see `command_of_rank`);
    `variables` are for all ranks alike (`JobSpec.rank_env`); `notes` are sentences for the submitter.
    """

    launcher: Literal["plain", "torchrun", "opaque"]
    ranks: int | None
    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command line we cannot run as it is: cause first, remedy second."""

    error: str
    remedy: str


def read_command(command: Sequence[str], environment: Mapping[str, str], resolve: Resolve) -> Launch | Refusal:
    """Read a command line of at least one word.

    `environment` is the submitter's (torchrun takes defaults from PET_… variables); `resolve` finds a program on the
    submitter's PATH and gives the interpreter its first lines name (`script_interpreter`), or None.
    """
    program = PurePath(command[0]).name
    module = _module_run(command) if _PYTHON.fullmatch(program) else None
    if program == "torchrun":
        interpreter = resolve(command[0])
        if interpreter is None:
            return Refusal(
                f"{command[0]} was not found, or does not say which Python it belongs to",
                "activate the environment that has torch, or write: python -m torch.distributed.run …",
            )
        return _read_torchrun("torchrun", interpreter, command[1:], environment)
    if module is not None and module.name in _TORCHRUN_MODULES:
        return _read_torchrun(module.name, command[0], module.arguments, environment)
    opaque = _opaque_name(command, module)
    if opaque is not None:
        return Launch("opaque", 1, tuple(command), notes=(_opaque_note(opaque),))
    return Launch("plain", None, tuple(command))


def command_of_rank(command: Sequence[str], rank: int) -> tuple[str, ...]:
    """What one rank of a torchrun job executes: `${local_rank}` filled in as torchrun does (so `$$` becomes `$`)."""
    return (command[0], *(Template(word).safe_substitute(local_rank=str(rank)) for word in command[1:]))


def rank_variables(
    rank: int, ranks: int, address: str, port: int = MASTER_PORT, launched: Mapping[str, str] = _NOTHING
) -> dict[str, str]:
    """The variables of one rank: what one machine's torchrun would have set, whatever the placement.

    `launched` is the job's `Launch.variables`; they come last, so a port or a local rank fixed there wins. A single
    rank without a launcher gets none: its environment is what it would be without us.
    """
    if ranks == 1 and not launched:
        return {}
    variables = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
    if "TORCHELASTIC_RUN_ID" in launched:
        variables |= {
            "GROUP_RANK": "0",
            "GROUP_WORLD_SIZE": "1",
            "ROLE_RANK": str(rank),
            "ROLE_WORLD_SIZE": str(ranks),
        }
    return variables | dict(launched)


def script_interpreter(head: str) -> str | None:
    """The Python that a script's first lines name: `#!PATH`, `#!/usr/bin/env NAME`, or pip's form for long paths."""
    lines = head.splitlines()
    if not lines or not lines[0].startswith("#!"):
        return None
    words = lines[0][2:].split()
    if words and PurePath(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    if words and PurePath(words[0]).name == "sh" and len(lines) > 1:
        long_form = re.match(r"""'''exec' ("?)(?P<path>[^"]+?)\1 """, lines[1])
        return long_form["path"] if long_form else None
    return words[0] if words and _PYTHON.fullmatch(PurePath(words[0]).name) else None


@dataclass(frozen=True, slots=True)
class _ModuleRun:
    """`python … -m NAME ARGUMENTS`."""

    name: str
    arguments: tuple[str, ...]


def _module_run(command: Sequence[str]) -> _ModuleRun | None:
    position = 1
    while position < len(command) and command[position].startswith("-"):
        word = command[position]
        if word == "-m":
            rest = command[position + 1 :]
            return _ModuleRun(rest[0], tuple(rest[1:])) if rest else None
        if word.startswith("-m") and not word.startswith("--"):
            return _ModuleRun(word[2:], tuple(command[position + 1 :]))
        if word in {"-c", "-"}:
            return None
        position += 2 if word in _PYTHON_FLAGS_WITH_VALUE else 1
    return None


def _opaque_name(command: Sequence[str], module: _ModuleRun | None) -> str | None:
    program = PurePath(command[0]).name
    if program in _OPAQUE_PROGRAMS:
        return program
    if module is not None and module.name in _OPAQUE_MODULES:
        return f"python -m {module.name}"
    pair = (program, command[1] if len(command) > 1 else "")
    return " ".join(pair) if pair in _OPAQUE_WITH_VERB else None


def _opaque_note(name: str) -> str:
    return (
        f"{name} starts its workers itself, so this runs as one rank with everything it starts: it gets one device, "
        "and is frozen and moved as a whole. With torchrun every worker would be a rank with a device of its own."
    )


class _Unreadable(Exception):
    """argparse could not read the words; its message is for the user."""


class _HelpAsked(Exception):
    """`-h` before the script: torchrun itself shall answer."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Unreadable(message)

    def print_help(self, file: object = None) -> NoReturn:
        raise _HelpAsked


_VALUED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "--nnodes": "1",
        "--nproc-per-node": "1",
        "--rdzv-backend": "static",
        "--rdzv-endpoint": "",
        "--rdzv-id": "",
        "--max-restarts": "0",
        "--role": "default",
        "--master-port": "",
        "--signals-to-handle": SIGNALS_HANDLED,
        "--log-dir": "",
        "--redirects": "0",
        "--tee": "0",
    }
)
# Read only so that their values are not taken for the script: they describe a machine that is not there.
_VALUED_UNUSED: Final = (
    *("--rdzv-conf", "--monitor-interval", "--start-method", "--event-log-handler", "--local-ranks-filter"),
    *("--duplicate-stdout-filters", "--duplicate-stderr-filters", "--node-rank", "--master-addr", "--local-addr"),
    *("--logs-specs", "--numa-binding", "--shutdown-timeout"),
)
_FLAGS: Final = ("--module", "--standalone", "--no-python", "--run-path", "--virtual-local-rank")
_SHORT: Final[Mapping[str, str]] = MappingProxyType({"--module": "-m", "--redirects": "-r", "--tee": "-t"})


def _parser(spelling: str) -> _Parser:
    parser = _Parser(prog=spelling)
    for name in (*_VALUED, *_VALUED_UNUSED):
        parser.add_argument(*_spellings(name), default=_VALUED.get(name, ""))
    for name in (*_FLAGS, *(("--use-env",) if spelling == _LAUNCH_MODULE else ())):
        parser.add_argument(*_spellings(name), action="store_true")
    parser.add_argument("training_script")
    parser.add_argument("training_script_args", nargs=argparse.REMAINDER)
    return parser


def _spellings(name: str) -> list[str]:
    underscored = "--" + name[2:].replace("-", "_")
    return [spelling for spelling in dict.fromkeys((_SHORT.get(name, ""), name, underscored)) if spelling]


@dataclass(frozen=True, slots=True)
class _Torchrun:
    """torchrun's options as read, environment defaults applied."""

    spelling: str  # torchrun, or the module's name
    interpreter: str
    options: Mapping[str, str]
    flags: frozenset[str]
    script: str
    arguments: tuple[str, ...]


def _read_torchrun(
    spelling: str, interpreter: str, words: Sequence[str], environment: Mapping[str, str]
) -> Launch | Refusal:
    try:
        read = _parse(spelling, interpreter, words, environment)
    except _HelpAsked:
        return Launch("plain", None, (interpreter, "-m", "torch.distributed.run", *words))
    except _Unreadable as unreadable:
        return Refusal(
            f"{spelling}: {_misspelt(str(unreadable))}",
            "correct it, or give the ranks yourself: ergo run --ranks N -- python SCRIPT …",
        )
    refusal = _refuse_nodes(read) or _refuse_combination(read)
    if refusal is not None:
        return refusal
    ranks = _ranks(read.options["nproc_per_node"])
    if isinstance(ranks, Refusal):
        return ranks
    variables = _launched_variables(read, ranks, environment)
    return Launch("torchrun", ranks, _rank_command(read, environment), variables, _notes(read))


def _misspelt(message: str) -> str:
    strange = re.match(r"unrecognized arguments: (--[\w-]+)", message)
    return unknown("option", strange[1], [*_VALUED, *_VALUED_UNUSED, *_FLAGS]) if strange else message


def _parse(spelling: str, interpreter: str, words: Sequence[str], environment: Mapping[str, str]) -> _Torchrun:
    parser = _parser(spelling)
    defaults: dict[str, str | bool] = {}
    for action in parser._actions:
        given = environment.get(f"PET_{action.dest.upper()}")
        if given is not None and action.option_strings:
            defaults[action.dest] = given if action.nargs is None else given not in {"", "0"}
    parser.set_defaults(**defaults)
    space = vars(parser.parse_args(list(words)))
    arguments = tuple(space.pop("training_script_args"))
    script = space.pop("training_script")
    flags = frozenset(name for name, value in space.items() if value is True)
    options = {name: value for name, value in space.items() if isinstance(value, str)}
    if spelling != _LAUNCH_MODULE:
        flags |= {"use_env"}
    return _Torchrun(spelling, interpreter, options, flags, script, arguments)


def _refuse_nodes(read: _Torchrun) -> Refusal | None:
    nodes = read.options["nnodes"]
    if re.fullmatch(r"1(:1)?", nodes):
        return None
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", nodes):
        return Refusal(f"--nnodes {nodes} is neither a number nor MIN:MAX", "leave --nnodes out")
    per_node, most = read.options["nproc_per_node"], int(nodes.rpartition(":")[2])
    total = str(int(per_node) * most) if per_node.isdecimal() else "N"
    return Refusal(
        f"--nnodes {nodes} describes machines, but here the scheduler chooses them: a job is its ranks, started once",
        f"leave --nnodes out and give the whole world: --nproc-per-node {total}",
    )


def _refuse_combination(read: _Torchrun) -> Refusal | None:
    if {"no_python", "module"} <= read.flags:
        return Refusal("torchrun does not take --no-python and --module together", "leave one of them out")
    if "no_python" in read.flags and "use_env" not in read.flags:
        return Refusal("torch.distributed.launch takes --no-python only with --use-env", "add --use-env")
    return None


def _ranks(per_node: str) -> int | Refusal:
    if per_node.isdecimal() and int(per_node) > 0:
        return int(per_node)
    if per_node in {"auto", "cpu", "gpu", "xpu"}:
        return Refusal(
            f"--nproc-per-node {per_node} would count the devices of whichever machine it runs on, "
            "but a job's world size is fixed when it is submitted",
            "give a number, for example --nproc-per-node 4",
        )
    return Refusal(f"--nproc-per-node {per_node} is not a number of ranks", "give a number from 1 upwards")


def _launched_variables(read: _Torchrun, ranks: int, environment: Mapping[str, str]) -> dict[str, str]:
    variables = {
        "ROLE_NAME": read.options["role"],
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": read.options["max_restarts"],
        "TORCHELASTIC_RUN_ID": _run_id(read),
        "TORCHELASTIC_USE_AGENT_STORE": "False",  # the store is hosted by rank 0, there being no torchrun to do it
        "TORCHELASTIC_SIGNALS_TO_HANDLE": read.options["signals_to_handle"],
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": environment.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
    }
    port = read.options["master_port"] or read.options["rdzv_endpoint"].rpartition(":")[2]
    if port.isdecimal() and int(port) > 0:
        variables["MASTER_PORT"] = port
    if ranks > 1 and "OMP_NUM_THREADS" not in environment:
        variables["OMP_NUM_THREADS"] = "1"
    if "virtual_local_rank" in read.flags:
        variables["LOCAL_RANK"] = "0"
    return variables


def _run_id(read: _Torchrun) -> str:
    """The id that was given; else one that looks like torchrun's random one and is the same for the same command."""
    if read.options["rdzv_id"] and "standalone" not in read.flags:
        return read.options["rdzv_id"]
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "\0".join((read.script, *read.arguments))))


def _rank_command(read: _Torchrun, environment: Mapping[str, str]) -> tuple[str, ...]:
    local_rank = () if "use_env" in read.flags else (f"--local-rank={LOCAL_RANK_MACRO}",)
    if "no_python" in read.flags and "run_path" not in read.flags:
        return (read.script, *local_rank, *read.arguments)
    interpreter = environment.get("PYTHON_EXEC") or read.interpreter
    module = ("-m",) if "module" in read.flags and "run_path" not in read.flags else ()
    return (interpreter, "-u", *module, read.script, *local_rank, *read.arguments)


def _notes(read: _Torchrun) -> tuple[str, ...]:
    notes = []
    if read.options["max_restarts"] not in {"", "0"}:
        notes.append(
            "--max-restarts of torchrun starts a failed program again from its beginning; here a program that fails by "
            "itself has failed, and ranks that are lost go on from the last snapshot (ergo run --max-restarts)."
        )
    if any(read.options[name] not in {"", "0"} for name in ("redirects", "tee", "log_dir")):
        notes.append("torchrun's log options are not needed: every rank's output is kept (ergo logs JOB --rank N).")
    return tuple(notes)
