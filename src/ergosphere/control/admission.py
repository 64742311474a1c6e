"""What can be said of a promise at once, when a job is taken in: whether it can be given, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ergosphere.control.ledger.sight import Sight
from ergosphere.core import elastic
from ergosphere.core.fraction import PROMISE
from ergosphere.core.model import TIER_ORDER, Tier
from ergosphere.core.policy.asking import ceiling
from ergosphere.core.policy.quota import Tree
from ergosphere.core.policy.rules import strength
from ergosphere.wire.jobs import JobSpec

Demand = Mapping[tuple[str, Tier], int]  # devices, by project and tier


@dataclass(frozen=True, slots=True)
class Admission:
    """`promised`: whether the promise of its tier can be kept; None where nothing is promised."""

    promised: bool | None
    borrowed: bool = False
    notes: tuple[str, ...] = ()


def never_fits(sight: Sight, spec: JobSpec) -> tuple[str, str] | None:
    """Cause and remedy when its project may never have as many devices as the job needs; None when it may."""
    tree = Tree(sight.projects)
    most = ceiling(tree, spec.project)
    least = elastic.sizes(spec.ranks, elastic.fewest(spec.ranks, spec.min_devices))[-1]
    if least <= most:
        return None
    remedy = f"ask for a higher limit of {spec.project}"
    if spec.ranks > 1 and most >= 1 and elastic.sizes(spec.ranks, 1)[-1] <= most:
        remedy += f", or let its ranks share devices: --min-devices {max(1, _largest_within(spec.ranks, most))}"
    many = f"{least} devices" if least == spec.ranks else f"at least {least} devices"
    return f"{spec.ranks} ranks need {many}, and project {spec.project} may never have more than {most:.0f}", remedy


def _largest_within(ranks: int, most: float) -> int:
    return max((devices for devices in elastic.sizes(ranks, 1) if devices <= most), default=0)


def admit(sight: Sight, spec: JobSpec) -> Admission:
    """As the fleet and its jobs are now; `spec` may be an array or a service: then of all that is wanted of it."""
    tree = Tree(sight.projects)
    for (project, tier), devices in sight.demand.items():
        tree.use(project, tier, devices)
    capacity = sum(node.devices for node in sight.nodes.values() if node.ready and not node.draining)
    tree.settle(capacity)
    notes = [*_shrunk_by_limit(tree, spec), *_waits_for_limit(tree, spec)]
    borrowed = _borrowed(tree, spec)
    crowded = "" if borrowed else _crowded(tree, sight.owed, spec, capacity)
    promised = None if spec.tier is Tier.BASIC else not (borrowed or crowded)
    return Admission(promised, bool(borrowed), tuple(note for note in (*notes, borrowed, crowded) if note))


def wanted(spec: JobSpec) -> int:
    """Devices that it asks for at once."""
    jobs = len(spec.array) or (max(1, spec.replicas[0]) if spec.replicas else 1)
    return spec.ranks * jobs


def _shrunk_by_limit(tree: Tree, spec: JobSpec) -> list[str]:
    most = ceiling(tree, spec.project)
    if spec.ranks <= most:
        return []
    return [f"project {spec.project} may never have more than {most:.0f} devices: its ranks share those"]


def _waits_for_limit(tree: Tree, spec: JobSpec) -> list[str]:
    against = tree.blocked(spec.project, spec.tier, wanted(spec))
    if against is None or against.limit is None or tree.used(against.id) == 0:
        return []
    used = tree.used(against.id)
    return [f"project {against.id} has {used} of its {against.limit} devices in use or waited for: it waits for them"]


def _borrowed(tree: Tree, spec: JobSpec) -> str:
    if tree.within(spec.project, spec.tier, wanted(spec)):
        return ""
    guardian = tree.guardian(spec.project)
    beyond = (
        f"beyond the guarantee of project {guardian.id} ({guardian.guarantee} devices)"
        if guardian is not None
        else f"beyond what the guarantees of other projects leave for {spec.project}"
    )
    promise = "" if spec.tier is Tier.BASIC else f", and its {spec.tier} promise does not hold meanwhile"
    return f"{beyond}: it runs on borrowed devices, is the first to yield{promise}"


def _crowded(tree: Tree, owed: Demand, spec: JobSpec, capacity: int) -> str:
    """Promises of its own tier and the stronger ones, which are kept first, against the devices there are."""
    if spec.tier is Tier.BASIC or not capacity:
        return ""
    promised = PROMISE[spec.tier] * wanted(spec) + _promised(tree, owed, spec.tier)
    if promised <= capacity:
        return ""
    part = promised / capacity
    share = f"{promised:.1f} devices are promised to live jobs, and the fleet has {capacity} ({part:.0%})"
    return f"its {spec.tier} promise ({PROMISE[spec.tier]:.0%}) cannot be guaranteed for now: with it {share}"


def _promised(tree: Tree, owed: Demand, tier: Tier) -> float:
    """Devices promised to live jobs of this tier or a stronger one, within the guarantees of their projects."""
    left: dict[str, float] = {}
    total = 0.0
    for each in TIER_ORDER[: strength(tier) + 1]:
        for (project, of_tier), devices in sorted(owed.items()):
            if of_tier is not each:
                continue
            guardian = tree.guardian(project)
            covered = float(devices)
            if guardian is not None and guardian.guarantee is not None:
                covered = min(covered, left.setdefault(guardian.id, float(guardian.guarantee)))
                left[guardian.id] -= covered
            total += PROMISE[each] * covered
    return total
