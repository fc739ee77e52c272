"""What a search can be told. Importable without torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mcomp.options import Options
from mcomp.pruning.targets import amount_of
from mcomp.stages.base import StageOptions
from mcomp.stages.placed_faults import fault_at, faults_at
from mcomp.stages.quantities import Quantity

Cost = Literal["avg_bit_weights", "avg_bit_fm", "macs", "params", "bytes", "latency_ms"]
#: Algorithms that weigh several objectives.
SEVERAL = ("nsga2", "tpe")
#: Algorithms that come from Optuna.
SAMPLED = ("tpe", "nsga2", "cmaes")
KINDS = ("w_bits", "a_bits", "keep")
#: What has to be searched for a budget to bound anything.
OF_KIND = {
    "avg_bit_weights": ("w_bits",),
    "avg_bit_fm": ("a_bits",),
    "macs": ("keep",),
    "params": ("keep",),
    "bytes": ("w_bits", "keep"),
    "latency_ms": ("keep",),
}
_ABOVE_ZERO = "a number above 0"


class Pin(Options):
    """What every candidate has in one layer."""

    w_bits: int | None = Field(None, ge=2, le=32, description="bits of its weight, 2..16, or 32 for float")
    a_bits: int | None = Field(None, ge=2, le=32, description="bits of what it reads, 2..16, or 32 for float")
    keep: float | None = Field(None, gt=0, le=1, description="share of its channels that stays")


class BudgetOptions(Options):
    """What every candidate keeps."""

    avg_bit_weights: float | None = Field(None, gt=0, description="mean bits of weights, each layer by its elements")
    avg_bit_fm: float | None = Field(
        None, gt=0, description="mean bits of what layers read, each by the elements of one sample"
    )
    macs: Quantity = Field(None, description="multiply-accumulates: a share below 1, or a count: 300M, 1.2 G")
    params: Quantity = Field(None, description="parameters: a share below 1, or a count: 250K")
    bytes: Quantity = Field(
        None, description="of all parameters at their bits: a share below 1 of the float network's, or a count: 500K"
    )
    latency_ms: float | None = Field(
        None, gt=0, description="milliseconds: one image, one thread, the float network in eager PyTorch on this CPU"
    )

    @field_validator("macs", "params", "bytes")
    @classmethod
    def _quantity(cls, value: Quantity) -> Quantity:
        if value is not None:
            amount_of(value)
        return value

    def given(self) -> dict[str, float | str]:
        """Those that bound something."""
        return {name: value for name in OF_KIND if (value := getattr(self, name)) is not None}


class SearchOptions(StageOptions):
    """What is searched, under which budgets, how, and by whom."""

    algorithm: Literal["ga", "pso", "abc", "aco", "greedy", "tpe", "nsga2", "cmaes"] = Field(
        "ga",
        description="genetic, particle swarm, artificial bee colony, ant colony, greedy by sensitivity; the last three "
        "come from Optuna (extra `search`)",
    )
    candidates: int = Field(100, ge=4, description="how many are tried")
    w_bits: list[int] | None = Field(None, description="[fewest, most] bits of a layer's weight")
    a_bits: list[int] | None = Field(None, description="[fewest, most] bits of what a layer reads")
    keep: list[float] | None = Field(None, description="[smallest, largest] share of its channels that a layer keeps")
    budgets: BudgetOptions = Field(BudgetOptions(), description="what every candidate keeps")
    objectives: list[Literal["top1"] | Cost] = Field(
        ["top1"], description="`[top1, bytes]` searches the front of both (nsga2, tpe); costs are to be small"
    )
    first_last_bits: int | None = Field(
        8, ge=2, le=16, description="bits of the first and the last layer; null searches them too"
    )
    pins: dict[str, Pin] = Field({}, description="layer to what every candidate has there: {w_bits, a_bits, keep}")
    regular: int = Field(1, ge=1, description="keep: every pruned width is a multiple of this")
    importance: Literal["bn_gamma", "l1", "l2", "fpgm", "lamp", "random"] = Field(
        "l1", description="keep: what ranks channels, as of `prune`"
    )
    min_channels: int = Field(1, ge=1, description="keep: no layer keeps fewer channels")
    ignore: list[str] = Field([], description="keep: names or patterns of layers to leave whole")
    population: int | None = Field(
        None, ge=4, description="candidates of a generation; the algorithm's own number when left out"
    )
    start: str | None = Field(
        None, description="a `best.yaml` of an earlier search to begin with", json_schema_extra={"path": True}
    )
    proxy: bool = Field(
        True, description="look at all cheaply (2 batches of statistics, 128 images), at the best quarter closely"
    )
    images: int = Field(2048, ge=1, description="held-out training images that the close look counts, at the most")
    norm_batches: int = Field(100, ge=1, description="batches that the close look measures statistics on, at the most")
    workers: int = Field(
        1,
        ge=0,
        description="processes of this machine that try candidates, one thread each; 0 leaves it to those who join",
        json_schema_extra={"cache": "ignore"},
    )
    study: str | None = Field(
        None,
        description="where others join by `mcomp search --join`: a journal file on a shared folder, or the URL of a "
        "database; `#NAME` behind it for more than one there",
        json_schema_extra={"cache": "ignore"},
    )
    lost_after: float = Field(
        60.0,
        gt=0,
        description="study: seconds without a sign of life until a candidate is given to another",
        json_schema_extra={"cache": "ignore"},
    )
    ray: str | None = Field(
        None,
        description="address of a Ray cluster that tries the candidates, `auto` for the one at hand (extra `ray`)",
        json_schema_extra={"cache": "ignore"},
    )

    @field_validator("w_bits", "a_bits", "keep")
    @classmethod
    def _range(cls, ends: list[Any] | None) -> list[Any] | None:
        if ends is None:
            return ends
        if len(ends) != 2 or ends[0] > ends[1]:
            raise ValueError(f"{ends} is no range; write two numbers, the smaller first")
        return ends

    @model_validator(mode="after")
    def _consistent(self) -> SearchOptions:
        held = self.model_dump()
        for name in ("w_bits", "a_bits"):
            bits = getattr(self, name)
            if bits is not None and not 2 <= bits[0] <= bits[1] <= 16:
                raise fault_at(name, f"{bits} bits: a learned step size (lsq) has 2 to 16", held)
        if self.keep is not None and not 0 < self.keep[0] <= self.keep[1] <= 1:
            raise fault_at("keep", f"{self.keep} are no shares in (0, 1]", held)
        searched = [name for name in KINDS if getattr(self, name) is not None]
        if not searched:
            raise ValueError(
                "nothing says what is searched; give `w_bits: [2, 8]`, `a_bits: [2, 8]`, `keep: [0.3, 1.0]`, "
                "or some of them"
            )
        for name in self.budgets.given():
            _refuse_idle_budget(name, searched, held)
        for kind, name in (("w_bits", "avg_bit_weights"), ("a_bits", "avg_bit_fm")):
            ends, mean = getattr(self, kind), getattr(self.budgets, name)
            if ends is not None and mean is not None and mean < ends[0] and not self.pins:
                text = f"no mean is below the fewest bits, {ends[0]}: set `{name}` to {ends[0]} or more, or begin lower"
                raise faults_at({("budgets", name): text}, held)
        for name, pin in self.pins.items():
            _refuse_idle_pin(name, pin, searched, held)
        if not self.objectives or self.objectives[0] != "top1" or len(set(self.objectives)) != len(self.objectives):
            raise fault_at("objectives", "the first objective is `top1`, and each stands once", held)
        for name in self.objectives[1:]:
            if not set(OF_KIND[name]) & set(searched):
                raise fault_at("objectives", f"nothing that is searched changes `{name}`", held)
        if len(self.objectives) > 1 and self.algorithm not in SEVERAL:
            raise fault_at("objectives", f"`{self.algorithm}` has one objective; `nsga2` and `tpe` weigh several", held)
        if len(self.objectives) == 1 and not self.budgets.given():
            raise ValueError(
                "without a budget the largest network is the best; give one, e.g. `budgets: {avg_bit_weights: 4}`, "
                "or search a front: `algorithm: nsga2, objectives: [top1, bytes]`"
            )
        if self.study is not None and self.ray is not None:
            raise fault_at("ray", "`study` and `ray` exclude one another: candidates go one way", held)
        if self.workers == 0 and self.study is None and self.ray is None:
            raise fault_at("workers", "`workers: 0` leaves all to others, and no `study` or `ray` lets them in", held)
        return self

    @property
    def quantizes(self) -> bool:
        """True where bits are searched."""
        return self.w_bits is not None or self.a_bits is not None


def _refuse_idle_budget(name: str, searched: list[str], held: dict[str, Any]) -> None:
    needed = OF_KIND[name]
    if not set(needed) & set(searched):
        ranges = " or ".join(f"`{kind}`" for kind in needed)
        text = f"`{name}` is bounded, and nothing that is searched changes it: give {ranges} a range"
        raise faults_at({("budgets", name): text}, held)


def _refuse_idle_pin(name: str, pin: Pin, searched: list[str], held: dict[str, Any]) -> None:
    for kind, value in pin.model_dump(exclude_none=True).items():
        if kind not in searched:
            raise faults_at({("pins", name, kind): f"`{kind}` is pinned, and not searched: give it a range"}, held)
        if kind != "keep" and 16 < value < 32:
            text = f"{value} bits: a learned step size (lsq) has 2 to 16, and 32 are float"
            raise faults_at({("pins", name, kind): text}, held)
