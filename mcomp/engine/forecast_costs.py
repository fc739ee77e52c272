"""What a plan costs: figures per stage and in total, as far as they are known. No torch.

Without torch, a cached stage has the figures it measured, and what a stage to be run will write is told from the last
run of the same recipe where that made the like of it. :mod:`mcomp.engine.forecasting` adds parameters, MACs and shapes,
:mod:`mcomp.engine.probe` time and memory. What nobody knows stays None: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mcomp.engine.backends import backends
from mcomp.engine.disk import free_bytes, refuse_full, refuse_unwritable
from mcomp.engine.lookup import last_run
from mcomp.engine.roots import keyed_options
from mcomp.errors import BackendMissingError
from mcomp.recipe.conditions import When
from mcomp.store.digest import sha256_json

if TYPE_CHECKING:
    from mcomp.engine.keys import Preimage
    from mcomp.engine.plan import Cost, Plan, PlannedStage
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage
    from mcomp.store import Store

#: Finished runs that are asked what a stage took.
HISTORY_RUNS = 20

#: A record, its events and its lock file.
RUN_BYTES = 200_000


@dataclass(frozen=True)
class StageCosts:
    """Costs of one stage beside those in its line of the plan.

    Attributes:
        shape: of the output for one sample.
        disk_bytes: that stay in the store, at the most.
        scratch_bytes: that snapshots take while it runs, at the most.
        cpu_seconds: of all threads; of a hit, what it took.
    """

    shape: tuple[int, ...] | None = None
    disk_bytes: int | None = None
    scratch_bytes: int = 0
    cpu_seconds: Cost = None


@dataclass(frozen=True)
class Outlook:
    """A plan and what it costs.

    Attributes:
        plan: with the costs of its lines filled in.
        store: that it is a plan for.
        costs: by stage id.
        startup_seconds: CPU seconds before the first stage, where they were measured.
    """

    plan: Plan
    store: Store
    costs: dict[str, StageCosts] = field(default_factory=dict)
    startup_seconds: float | None = None

    @property
    def waiting(self) -> list[PlannedStage]:
        """The stages that have to run."""
        return [line for line in self.plan.stages if runs(line)]

    @property
    def needed_bytes(self) -> int | None:
        """Disk that the run needs at the most; None where one stage's need is not known."""
        kept = self.kept_bytes
        return None if kept is None else kept + self.scratch_bytes

    @property
    def kept_bytes(self) -> int | None:
        """What of it stays in the store."""
        kept = [self.costs[line.stage.id].disk_bytes for line in self.waiting]
        known = [size for size in kept if size is not None]
        return None if len(known) < len(kept) else sum(known) + RUN_BYTES

    @property
    def scratch_bytes(self) -> int:
        """What of it is there only while stages run."""
        return max((self.costs[line.stage.id].scratch_bytes for line in self.waiting), default=0)

    def with_lines(self, lines: Iterable[PlannedStage], costs: dict[str, StageCosts]) -> Outlook:
        """The same with other figures."""
        return replace(self, plan=replace(self.plan, stages=list(lines)), costs=costs)

    def refuse_impossible(self) -> None:
        """Refuse a plan that cannot succeed.

        Raises:
            PreflightError: MC280 too little disk; MC281 the store cannot be written.
            BackendMissingError: MC282, a stage's runtime is absent and it may not do without.
        """
        if not self.waiting:
            return
        refuse_unwritable(self.store.root)
        refuse_full(self.store.root, self.needed_bytes)
        for line in self._certain:
            missing = line.stage.cls.missing(line.stage.options) if runs(line) else ""
            if missing:
                raise BackendMissingError(
                    f"stage `{line.stage.id}` cannot run here: {missing}",
                    code="MC282",
                    hint="install it, leave the stage out, or give it a condition with `when`",
                )

    @property
    def _certain(self) -> Iterator[PlannedStage]:
        """The stages that the run comes to unless it fails before: no figure that is still to come decides."""
        for entry, line in zip(self.plan.recipe.stages, self.plan.stages, strict=True):
            if not undecided(entry, self.plan):
                yield line
            elif entry.otherwise == "stop":
                return

    def as_dict(self) -> dict[str, Any]:
        """The object that ``plan --json`` prints: known figures as numbers, ranges as lists of two, else null."""
        found = self.plan.as_dict()
        for line, shown in zip(self.plan.stages, found["stages"], strict=True):
            cost = self.costs[line.stage.id]
            shown |= {"cpu_seconds": cost.cpu_seconds, "shape": cost.shape, "disk_bytes": cost.disk_bytes}
        found["disk"] = {"needed_bytes": self.needed_bytes, "free_bytes": free_bytes(self.store.root)}
        found["backends"] = {
            name: {"present": one.present, "version": one.version, "why_absent": one.why_absent}
            for name, one in backends().items()
        }
        found["seconds"] = _sum([self.startup_seconds, *(line.seconds for line in self.waiting)])
        found["cpu_seconds"] = _sum(
            [self.startup_seconds, *(self.costs[line.stage.id].cpu_seconds for line in self.waiting)]
        )
        found["memory_bytes"] = _largest([line.memory_bytes for line in self.waiting])
        return found


def refuse_impossible(looks: Sequence[Outlook]) -> None:
    """Refuse the plans of one sweep where one of them, or all of them together, cannot succeed.

    Raises:
        PreflightError: as :meth:`Outlook.refuse_impossible`, and MC280 where the disk is too small for all.
        BackendMissingError: as :meth:`Outlook.refuse_impossible`.
    """
    for look in looks:
        look.refuse_impossible()
    if any(look.waiting for look in looks):
        refuse_full(looks[0].store.root, total_bytes(looks))


def total_bytes(looks: Sequence[Outlook]) -> int | None:
    """Disk that the runs of one sweep need one after another; what they share is made once, snapshots go again."""
    kept = [look.kept_bytes for look in looks]
    known = [size for size in kept if size is not None]
    return None if len(known) < len(kept) else sum(known) + max(look.scratch_bytes for look in looks)


def undecided(entry: RecipeStage, plan: Plan) -> bool:
    """Whether a figure that does not exist yet decides if the stage runs."""
    when = entry.when
    if not isinstance(when, When):
        return False
    asked = [name for name in (when.stage, when.vs) if name is not None]
    for name in asked:
        line: PlannedStage | None = plan[name]
        if line is not None and line.status == "skip":
            line = plan.giver(line)
        if line is not None and line.record is None:
            return True
    return False


def outlook(plan: Plan, store: Store) -> Outlook:
    """What is known of a plan's costs without torch."""
    past = _last_bytes(plan, store) if any(runs(line) for line in plan.stages) else {}
    costs = {}
    for line in plan.stages:
        cost = StageCosts(disk_bytes=past.get(line.stage.id))
        if line.record is not None:
            cost = StageCosts(disk_bytes=0, cpu_seconds=line.record.get("cpu_seconds"))
        elif line.status == "skip" or line.shared is not None:
            cost = StageCosts(disk_bytes=0)
        costs[line.stage.id] = cost
    return Outlook(plan, store, costs)


def runs(line: PlannedStage) -> bool:
    """Whether this very run computes the stage."""
    return line.status in ("run", "resume") and line.shared is None


def history(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Records of finished actions by the name of their stage, newest first, each once."""
    found: dict[str, list[dict[str, Any]]] = {}
    seen: set[str] = set()
    for run in store.runs()[:HISTORY_RUNS]:
        for stage in run.stages:
            key = stage.get("key")
            if not key or key in seen:
                continue
            seen.add(key)
            record = store.action(key)
            if record is not None and not record.get("resumed"):
                found.setdefault(record["stage"], []).append(record)
    return found


def alike(one: Preimage, other: Preimage, parts: Iterable[str]) -> bool:
    """Whether two preimages, one of them perhaps read from a record, agree in these parts."""
    return all(sha256_json(one.get(part)) == sha256_json(other.get(part)) for part in parts)


def _last_bytes(plan: Plan, store: Store) -> dict[str, int]:
    """Stage id to what its object took on disk in the newest run of this recipe, where this run makes the like of it.

    The like of it is what the same options make of the same data and the same model, or of the like of that model:
    seeds and code may differ.
    """
    records = _last_records(plan.recipe, store)
    found: dict[str, int] = {}
    for line in plan.stages:
        record, name = records.get(line.stage.id), line.stage.id
        if record is None or record["stage"] != line.stage.uses or not _makes_the_like(line, record, plan, found):
            continue
        manifest = store.manifest(record["artifact"])
        if manifest is not None:
            found[name] = sum(int(file["bytes"]) for file in manifest.get("files", {}).values())
    return found


def _makes_the_like(line: PlannedStage, record: dict[str, Any], plan: Plan, found: dict[str, int]) -> bool:
    before: Preimage = record["preimage"]
    if line.preimage is not None:
        now = line.preimage
        same = alike(before, now, ("options", "data"))
        mine, its = now["upstream"].get("model"), before["upstream"].get("model")
        if mine and its:  # other seeds make other weights in as many bytes
            return same and alike(its, mine, {*its, *mine} - {"seed"})
        return same and alike(before, now, ("upstream",))
    giver = plan.giver(line)
    options = keyed_options(line.stage.options, plan.recipe.base_dir)
    return giver is not None and giver.stage.id in found and alike(before, {"options": options}, ("options",))


def _last_records(recipe: Recipe, store: Store) -> dict[str, dict[str, Any]]:
    """Stage id to record in the newest finished run of a recipe."""
    run = last_run(store, recipe)
    keys = {stage["id"]: stage.get("key") for stage in run.stages} if run else {}
    records = {name: store.action(key) for name, key in keys.items() if key}
    return {name: record for name, record in records.items() if record is not None}


def span(cost: Cost) -> tuple[float, float] | None:
    """A cost as a range."""
    return (cost, cost) if isinstance(cost, int | float) else cost


def _sum(costs: list[Cost]) -> Cost:
    spans = [span(cost) for cost in costs]
    known = [one for one in spans if one is not None]
    if not spans[1:]:
        return 0
    if len(known) < len(spans):
        return None
    return round(sum(low for low, _ in known), 3), round(sum(high for _, high in known), 3)


def _largest(costs: list[Cost]) -> Cost:
    spans = [span(cost) for cost in costs]
    known = [one for one in spans if one is not None]
    if not known or len(known) < len(spans):
        return None
    return max(low for low, _ in known), max(high for _, high in known)
