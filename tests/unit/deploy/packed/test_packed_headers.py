from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcomp.deploy import unpack
from mcomp.errors import StageError

GOOD: dict[str, Any] = {
    "shape": [2, 3], "at": 0, "bits": 1, "low": -1, "step": 2, "axis": 0, "scale": 8, "scales": 2,
}  # fmt: skip


def crafted(text: bytes, path: Path, body: bytes = bytes(64)) -> Path:
    """A file with that header, and a checksum that vouches for it."""
    text += b" " * (-len(text) % 8)
    made = len(text).to_bytes(8, "little") + text + body
    path.write_bytes(made + zlib.crc32(made).to_bytes(4, "little"))
    return path


def with_entry(entry: Any) -> bytes:
    header = {"format": "mcomp-packed", "version": 1, "metadata": {}, "tensors": {"w": entry}}
    return json.dumps(header, separators=(",", ":")).encode()


def test_a_crafted_header_that_is_right_is_read(tmp_path: Path) -> None:
    body = bytes([0b101101]) + bytes(7) + np.array([2.0, 4.0], "<f4").tobytes()
    found = unpack(crafted(with_entry(GOOD), tmp_path / "a", body)).tensors["w"]
    assert torch.equal(found, torch.tensor([[2.0, -2.0, 2.0], [4.0, -4.0, 4.0]]))


@pytest.mark.parametrize(
    "change",
    [
        *({"axis": axis} for axis in (7, 2, -1, 0.0, None, True)),
        *({"step": step} for step in (10**30, 1 << 31, 0, -1, 1.0)),
        *({"low": low} for low in (10**30, -(1 << 31) - 1, "0")),
        {"low": (1 << 31) - 1, "step": 1},  # code 1 is no int32
        *({"bits": bits} for bits in (17, 20, 64, -1, True, 1.0)),
        *({"shape": shape} for shape in ([1 << 70], [1 << 32, 1 << 32], [-1], [1.0], [1] * 100, "23", 6, [True])),
        *({"scales": scales} for scales in (0, 3, -1, 1 << 40, True)),
        {"shape": [1, 3], "scales": 4},
        {"shape": [1, 1 << 20], "scales": 1 << 15},
        *({"at": at} for at in (-8, 1 << 30, 0.5, "0")),
        {"scale": 60},
        {"zero_point": 60},
        {"zero_point": "0"},
        {"type": "float32"},
        {"more": 1},
    ],
    ids=str,
)
def test_a_number_of_the_header_that_is_out_of_its_range_is_told(change: dict[str, Any], tmp_path: Path) -> None:
    body = b"\xff" * 8 + np.ones(14, "<f4").tobytes()
    assert unpack(crafted(with_entry(GOOD), tmp_path / "good", body)).weights == ("w",)
    with pytest.raises(StageError, match="describes a tensor that it does not hold") as caught:
        unpack(crafted(with_entry({**GOOD, **change}), tmp_path / "bad", body))
    assert caught.value.code == "MC472"


@pytest.mark.parametrize("kind", ["(,", "O", "V8", "datetime64[s]", "f4,f4", "zzz", "<f4", "float8", 4, None, ["f4"]])
def test_a_type_that_the_format_does_not_have_is_not_read(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="describes a tensor that it does not hold") as caught:
        unpack(crafted(with_entry({"shape": [1], "at": 0, "type": kind}), tmp_path / "a"))
    assert caught.value.code == "MC472"


@pytest.mark.parametrize("scale", [torch.nan, torch.inf, -1.0])
def test_a_stored_scale_that_is_no_number_is_told(scale: float, tmp_path: Path) -> None:
    body = bytes(8) + np.array([scale, 1.0], "<f4").tobytes()
    with pytest.raises(StageError, match="describes a tensor that it does not hold"):
        unpack(crafted(with_entry(GOOD), tmp_path / "a", body))


START = b'{"format":"mcomp-packed"'


@pytest.mark.parametrize(
    "text",
    [
        START + b',"version":0,"metadata":{},"tensors":{}}',
        START + b',"version":-3,"metadata":{},"tensors":{}}',
        START + b',"version":true,"metadata":{},"tensors":{}}',
        START + b',"version":1.0,"metadata":{},"tensors":{}}',
        START + b"}",
        START + b',"version":1,"metadata":{},"tensors":{},"format":"x"}',
        START + b',"version":1,"metadata":{},"tensors":{"w":{"at":0,"at":8}}}',
        START + b',"version":1,"metadata":{},"tensors":{},"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        START + b',"version":1,"metadata":{},"tensors":{},"x":' + b"1" * 6000 + b"}",
        START + b',"version":1,"metadata":{},"tensors":{},"x":Infinity}',
    ],
    ids=lambda text: text[24:60].decode(),
)
def test_a_header_that_is_none_is_told(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="is truncated or damaged") as caught:
        unpack(crafted(text, tmp_path / "a"))
    assert caught.value.code == "MC472"


@pytest.mark.parametrize("text", [b',"version":1,"metadata":{},"tensors":[]}', b',"version":1,"tensors":{}}'])
def test_a_header_without_tensors_or_metadata_is_told(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="describes a tensor that it does not hold"):
        unpack(crafted(START + text, tmp_path / "a"))


def test_the_checksum_is_looked_at_before_the_header_is(tmp_path: Path) -> None:
    path = crafted(START + b',"version":9,"metadata":{},"tensors":{}}', tmp_path / "a")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(StageError, match="is truncated or damaged"):
        unpack(path)
