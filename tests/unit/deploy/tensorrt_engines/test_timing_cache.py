from __future__ import annotations

from pathlib import Path

from mcomp.deploy.tensorrt import build_engine
from mcomp.deploy.tensorrt.timing_cache import usual_place
from tests.unit.deploy.tensorrt_engines.fake import Fake, HostDevice
from tests.unit.deploy.tensorrt_engines.test_tensorrt_build import SHAPES


def test_a_build_leaves_its_times_to_the_next_one(
    trt: Fake, files: tuple[Path, Path], host: HostDevice, tmp_path: Path
) -> None:
    cache = tmp_path / "deep" / "times"
    build_engine(*files, SHAPES, timing_cache=cache, device=host)
    assert cache.read_bytes() == b"cache"
    build_engine(*files, SHAPES, timing_cache=cache, device=host)
    assert trt.given["IBuilderConfig.create_timing_cache"] == [(b"",), (b"cache",)]
    assert all(call[1] is False for call in trt.given["IBuilderConfig.set_timing_cache"])


def test_the_usual_place_is_one_per_tensorrt_and_gpu(
    trt: Fake, files: tuple[Path, Path], host: HostDevice, tmp_path: Path
) -> None:
    build_engine(*files, SHAPES, device=host)
    place = usual_place(trt.__version__, host.name)
    assert place.read_bytes() == b"cache"
    assert (tmp_path / "cache_home") in place.parents
    assert len({place, usual_place("9.9", host.name), usual_place(trt.__version__, "Other GPU sm_80")}) == 3
    assert place.name == f"{trt.__version__}_Fake_GPU_sm_90.timing"


def test_times_of_another_machine_are_replaced_and_told(
    trt: Fake, files: tuple[Path, Path], host: HostDevice, tmp_path: Path
) -> None:
    cache = tmp_path / "times"
    cache.write_bytes(b"foreign")
    trt.answers["IBuilderConfig.set_timing_cache"] = False
    info = build_engine(*files, SHAPES, timing_cache=cache, device=host)
    assert trt.given["IBuilderConfig.create_timing_cache"] == [(b"foreign",), (b"",)]
    assert "another TensorRT or GPU" in info.notes[0]
    assert cache.read_bytes() == b"cache"


def test_a_cache_that_cannot_be_written_costs_a_note_not_the_engine(
    trt: Fake, files: tuple[Path, Path], host: HostDevice, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    info = build_engine(*files, SHAPES, timing_cache=tmp_path / "file" / "times", device=host)
    assert files[1].exists()
    assert "could not be written" in info.notes[0]
