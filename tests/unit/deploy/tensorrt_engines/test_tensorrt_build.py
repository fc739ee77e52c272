from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mcomp.deploy.tensorrt import ShapeRange, build_engine, trtexec_command
from mcomp.errors import McompError, StageError
from tests.unit.deploy.tensorrt_engines.fake import Fake, HostDevice

SHAPES = {"input": ShapeRange([1, 3, 8, 8], [4, 3, 8, 8], [8, 3, 8, 8])}
NO_DRIVER = TypeError("pybind11::init(): factory function returned nullptr")


def before(fake: Fake, first: str, second: str) -> bool:
    return fake.calls.index(first) < fake.calls.index(second)


def test_an_engine_is_built_in_the_documented_order(trt: Fake, files: tuple[Path, Path], host: HostDevice) -> None:
    info = build_engine(*files, SHAPES, workspace_mb=3, device=host)
    assert files[1].read_bytes() == b"plan"
    assert before(trt, "OnnxParser.parse_from_file", "IOptimizationProfile.set_shape")
    assert before(trt, "IOptimizationProfile.set_shape", "IBuilderConfig.add_optimization_profile")
    assert before(trt, "IBuilderConfig.add_optimization_profile", "Builder.build_serialized_network")
    assert before(trt, "IBuilderConfig.set_timing_cache", "Builder.build_serialized_network")
    assert before(trt, "IBuilderConfig.profiling_verbosity=", "Builder.build_serialized_network")
    assert trt.given["Builder.create_network"] == [(2 if trt.__version__.startswith("10") else 1,)]
    assert trt.given["OnnxParser.parse_from_file"] == [(str(files[0]),)]
    assert trt.given["IBuilderConfig.set_memory_pool_limit"] == [("MemoryPoolType.WORKSPACE", 3 * 2**20)]
    assert trt.given["IOptimizationProfile.set_shape"] == [("input", [1, 3, 8, 8], [4, 3, 8, 8], [8, 3, 8, 8])]
    assert (info.layers, info.int8_layers, info.verified_on, info.notes) == (2, 1, "none", [])
    assert host.depth == 0


def test_the_account_beside_the_plan_says_what_it_is_valid_for(
    trt: Fake, files: tuple[Path, Path], host: HostDevice
) -> None:
    build_engine(*files, SHAPES, optimization_level=4, device=host)
    account = json.loads(files[1].with_name("m.plan.json").read_text())
    assert account["tensorrt"] == trt.known["wheel_version"]
    assert account["gpu"] == host.name
    assert account["onnx_sha256"] == hashlib.sha256(b"onnx").hexdigest()
    assert account["plan_sha256"] == hashlib.sha256(b"plan").hexdigest()
    assert account["plan_bytes"] == 4
    assert account["shapes"] == {"input": {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [8, 3, 8, 8]}}
    assert account["optimization_level"] == 4
    assert account["verified_on"] == "none"


def test_every_dynamic_input_gets_its_range(trt: Fake, files: tuple[Path, Path], host: HostDevice) -> None:
    trt.inputs = {"image": (-1, 3, -1, -1), "mask": (1, 8), "words": (-1, 16)}
    shapes = {
        "image": ShapeRange([1, 3, 32, 32], [1, 3, 64, 64], [2, 3, 128, 128]),
        "words": ShapeRange([1, 16], [1, 16], [2, 16]),
    }
    build_engine(*files, shapes, device=host)
    assert [call[0] for call in trt.given["IOptimizationProfile.set_shape"]] == ["image", "words"]
    assert trt.calls.count("IBuilderConfig.add_optimization_profile") == 1


def test_a_file_without_dynamic_inputs_needs_no_profile(trt: Fake, files: tuple[Path, Path], host: HostDevice) -> None:
    trt.inputs = {"input": (1, 3, 8, 8)}
    build_engine(*files, {}, device=host)
    assert "Builder.create_optimization_profile" not in trt.calls


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"OnnxParser.parse_from_file": False}, "MC437"),
        ({"OnnxParser.parse_from_file": False, "OnnxParser.num_errors": 0}, "MC437"),
        ({"IBuilderConfig.add_optimization_profile": -1}, "MC438"),
        ({"IOptimizationProfile.set_shape": ValueError("inconsistent")}, "MC438"),
        ({"Builder.build_serialized_network": None}, "MC439"),
        ({"Builder()": NO_DRIVER}, "MC611"),
        ({"Runtime()": NO_DRIVER}, "MC611"),
    ],
    ids=str,
)
def test_every_refusal_of_tensorrt_is_an_error_of_ours(
    trt: Fake, files: tuple[Path, Path], host: HostDevice, answers: dict[str, Any], code: str
) -> None:
    trt.answers |= answers
    with pytest.raises(McompError) as caught:
        build_engine(*files, SHAPES, device=host)
    assert caught.value.code == code
    assert caught.value.hint
    assert not files[1].with_name("m.plan.json").exists()


def test_an_error_quotes_what_tensorrt_said(trt: Fake, files: tuple[Path, Path], host: HostDevice) -> None:
    class Failing:
        def __call__(self) -> None:
            trt.says("no kernel for\n`/conv`")

    trt.answers["Builder.build_serialized_network"] = None
    original = trt._one

    def one(path: str, arguments: tuple[Any, ...]) -> Any:
        if path == "Builder.build_serialized_network":
            Failing()()
        return original(path, arguments)

    trt._one = one  # type: ignore[method-assign]
    with pytest.raises(StageError) as caught:
        build_engine(*files, SHAPES, device=host)
    assert caught.value.why == "no kernel for `/conv`"


def test_ranges_and_inputs_have_to_meet(trt: Fake, files: tuple[Path, Path], host: HostDevice) -> None:
    with pytest.raises(StageError, match="`input` has a dynamic dimension and no range"):
        build_engine(*files, {}, device=host)
    with pytest.raises(StageError, match="`images`, which is no input") as caught:
        build_engine(*files, {**SHAPES, "images": SHAPES["input"]}, device=host)
    assert "`input` [-1, 3, 8, 8]" in caught.value.hint


def test_a_missing_file_is_told_by_its_name(trt: Fake, tmp_path: Path, host: HostDevice) -> None:
    with pytest.raises(StageError, match=r"no file `.*absent\.onnx`"):
        build_engine(tmp_path / "absent.onnx", tmp_path / "m.plan", SHAPES, device=host)


def test_an_inspector_that_speaks_another_way_costs_the_count_only(
    trt: Fake, files: tuple[Path, Path], host: HostDevice
) -> None:
    trt.answers["EngineInspector.get_engine_information"] = "no JSON"
    info = build_engine(*files, SHAPES, device=host)
    assert (info.layers, info.int8_layers) == (0, 0)


def test_the_trtexec_command_names_shapes_and_limits() -> None:
    command = trtexec_command("m.onnx", "m.plan", SHAPES, 512, 4)
    assert "--minShapes=input:1x3x8x8 --optShapes=input:4x3x8x8 --maxShapes=input:8x3x8x8" in command
    assert "--stronglyTyped" in command
    assert "workspace:512" in command
    assert not re.search(r"--(int8|fp16|best|calib)", command)
    assert "Shapes" not in trtexec_command("m.onnx", "m.plan", {}, 512, 4)
