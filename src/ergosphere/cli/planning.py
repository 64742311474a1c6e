"""`--dry-run`: what would be submitted and what would be decided now, shown before anything is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ergosphere.cli.api import Client
from ergosphere.cli.safe import safe_line
from ergosphere.cli.words import numbers, plural, span_text
from ergosphere.wire.api import PlanInfo
from ergosphere.wire.jobs import JobSpec

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from ergosphere.cli.workcopy import WorkCopy


@dataclass(frozen=True, slots=True)
class Plan:
    """The job as it would be submitted, its copy in words, and the server's answer."""

    spec: JobSpec
    copy: str
    info: PlanInfo

    @property
    def value(self) -> dict[str, Any]:
        """For machines; the values of variables are left out."""
        spec = self.spec.model_dump(mode="json", exclude={"env", "rank_env"})
        names = sorted(self.spec.env)
        return {"job": {**spec, "env_names": names}, "plan": self.info.model_dump(mode="json")}


def plan(client: Client, spec: JobSpec, copy: WorkCopy) -> Plan:
    """Ask what would be decided; nothing is kept. Raises CliError as submitting would."""
    info = PlanInfo.model_validate(client.post("/v1/plan", spec.model_dump_json()))
    return Plan(spec, copy.in_words(), info)


def view(shown: Plan) -> Group:
    """The plan in lines."""
    from rich.console import Group
    from rich.text import Text

    from ergosphere.cli.facts import Fact
    from ergosphere.cli.views import by_node

    spec, info = shown.spec, shown.info
    held = ", ".join(f"{numbers(ranks)} on {node}" for node, ranks in by_node(info.places))
    place = f"ranks {held}" if info.starts else f"it would wait: {safe_line(info.reason)}"
    lines: list[RenderableType] = [
        Text.assemble((spec.name, "bold"), "  would be submitted; nothing has been done"),
        Fact("command", safe_line(" ".join(spec.command))),
        Fact("tier", f"{spec.tier}, project {spec.project}"),
        Fact("ranks", f"{spec.ranks}{' read from torchrun' if spec.launcher == 'torchrun' else ''}"),
        Fact("place", place, "green" if info.starts else "yellow"),
        Fact("files", safe_line(shown.copy)),
        Fact("network", spec.network),
        Fact("env", f"{plural(len(spec.env), 'variable')} recorded", "dim"),
    ]
    lines += [
        Fact("mount", safe_line(f"{m.path} {'rw, not rolled back' if m.writable else 'ro'}")) for m in spec.mounts
    ]
    lines += [
        Fact("shrinks", f"{safe_line(s.name)} ({s.tier}) from {s.instead_of} to {plural(s.devices, 'device')}")
        for s in info.shrinks
    ]
    if info.pauses:
        lines += [
            Fact("pauses", f"{safe_line(p.name)} ({p.tier}) for about {span_text(p.cost_s)}", "yellow")
            for p in info.pauses
        ]
    else:
        lines.append(Fact("pauses", "nobody"))
    lines += [Fact("remedy", safe_line(info.remedy))] if info.remedy else []
    lines += [Fact("note", safe_line(note), "yellow") for note in info.notes]
    return Group(*lines)
