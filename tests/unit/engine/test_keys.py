from __future__ import annotations

from pydantic import Field

from mcomp.engine.keys import keyed_options, stage_seed
from mcomp.engine.planning import differences
from mcomp.options import Options


class Example(Options):
    ratio: float = 0.5
    every: int = Field(1, json_schema_extra={"cache": "ignore"})


def test_an_option_marked_ignore_stays_out_of_the_key() -> None:
    assert keyed_options(Example(every=1)) == keyed_options(Example(every=9)) == {"ratio": 0.5}


def test_seeds_differ_by_recipe_seed_stage_and_place() -> None:
    seeds = {stage_seed(0, "train", 0), stage_seed(1, "train", 0), stage_seed(0, "prune", 0), stage_seed(0, "train", 1)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_differences_name_each_leaf_that_changed() -> None:
    old = {"options": {"ratio": 0.4, "regular": 8}, "seed": 1}
    new = {"options": {"ratio": 0.5, "regular": 8}, "seed": 1, "data": "x"}
    assert differences(old, new) == [("data", None, "x"), ("options.ratio", 0.4, 0.5)]
