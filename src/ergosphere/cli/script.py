"""The `run` of a job file made into a command: words where it is one plain command line, bash where it is a script."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_NEEDS_SHELL: Final = re.compile(r"[`$;|&<>()*?\[\]{}~!\n]")
_BUILTINS: Final = frozenset(". source export cd set eval ulimit trap unset alias if for while case".split())  # noqa: SIM905
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_PLAIN_VALUE: Final = re.compile(r"[\w./:=+,@%-]*\Z")


@dataclass(frozen=True, slots=True)
class Script:
    """What the file says about the program. `nodes` and `accelerators` are SkyPilot's counts."""

    run: str | tuple[str, ...]
    setup: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    nodes: int = 1
    accelerators: int = 1
    ranks: int | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """The command to submit; `ranks` where the file's own form decides them (SkyPilot's num_nodes)."""

    argv: tuple[str, ...]
    ranks: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def command_of(script: Script) -> Command:
    """The command that does what the file says. ValueError: the text is no command line (an open quote)."""
    variables = _skypilot_variables(script)
    argv = script.run if isinstance(script.run, tuple) else _plain_words(script.run, {**variables, **script.env})
    used = {n: v for n, v in variables.items() if "SKYPILOT_" in str(script.run) + script.setup}
    if argv and not script.setup:
        own_ranks = script.nodes if script.nodes > 1 and not launches_ranks(argv) else None
        return Command(argv, script.ranks or own_ranks, used)
    text = shlex.join(argv) if argv else str(script.run).strip()
    several = script.nodes > 1 and script.ranks is None
    body = ("export SKYPILOT_NODE_RANK=$RANK\n" if several and used else "") + _with_setup(text, script.setup)
    return Command(("bash", "-c", body), script.nodes if several else script.ranks, used, _notes(script, text))


def launches_ranks(argv: tuple[str, ...]) -> bool:
    """The command line is one that `core.launcher` reads its ranks from."""
    from ergosphere.core.launcher import Launch, read_command

    launch = read_command(argv, {}, lambda program: program)
    return isinstance(launch, Launch) and launch.ranks is not None and launch.ranks > 1


def _plain_words(text: str, variables: Mapping[str, str]) -> tuple[str, ...]:
    """The words of a text that is one plain command line; empty when it takes a shell to understand it."""
    lines = [
        line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    if len(lines) != 1:
        return ()
    line = _VARIABLE.sub(lambda m: _known_value(m, variables), lines[0])
    words = tuple(shlex.split(line, comments=True))
    plain = not _NEEDS_SHELL.search(line) and words and words[0] not in _BUILTINS and "=" not in words[0]
    return words if plain else ()


def _known_value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    """The value of a variable that the file itself sets, where it cannot change how the line falls into words."""
    value = variables.get(match[1] or match[2])
    return value if value and _PLAIN_VALUE.match(value) else match[0]


def _skypilot_variables(script: Script) -> dict[str, str]:
    """What SkyPilot would set and what is known before a place is; a node's number only where there is one."""
    known = {
        "SKYPILOT_NUM_NODES": str(script.nodes),
        "SKYPILOT_NUM_GPUS_PER_NODE": str(script.accelerators),
    }
    if script.nodes == 1:
        known |= {"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NODE_IPS": "127.0.0.1"}
    return known


def _with_setup(text: str, setup: str) -> str:
    """SkyPilot runs both in shells of their own and `run` only when `setup` succeeded."""
    return f"(\n{setup.strip()}\n) || exit $?\n{text}" if setup else text


def _notes(script: Script, text: str) -> tuple[str, ...]:
    if "torchrun" in text or "torch.distributed.run" in text:
        return (
            "torchrun inside a script is one rank with all its processes: put it alone into `run` for ranks of its own",
        )
    if "SKYPILOT_NODE_IPS" in text and script.nodes > 1:
        return ("SKYPILOT_NODE_IPS is not set here: use MASTER_ADDR",)
    return ()
