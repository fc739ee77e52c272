from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mcomp.cli.help_verb import page
from mcomp.deploy import pack, unpack
from mcomp.errors import StageError
from mcomp.models.network_in_network import nin
from mcomp.quantization import QuantEmbedding, calibrate, fold_batch_norms, quantize
from mcomp.quantization.summary import quantising_modules
from tests.unit.deploy.deploy_networks import images, quantised

SCHEMES: list[dict[str, Any]] = [
    {"scheme": "wbwtab"},
    {"scheme": "wbwtab", "w_bits": 2},
    {"scheme": "dorefa"},
    {"scheme": "dorefa", "w_bits": 8, "tanh": True},
    *({"scheme": "dorefa", "w_bits": bits, "variant": "paper"} for bits in (2, 3, 8)),
    *({"scheme": "lsq", "w_bits": bits} for bits in (2, 3, 4, 5, 8, 12, 16)),
    {"scheme": "iao"},
    {"scheme": "iao", "symmetric_weights": False},
    {"scheme": "iao", "symmetric_weights": False, "per_channel": False},
    {"scheme": "ristretto", "w_bits": 6},
]


def multiplied_with(model: nn.Module) -> dict[str, Tensor]:
    """The quantised weights by the layers' own account."""
    found = {}
    for name, module in model.named_modules():
        for way in ("quantized_weight", "dequantized_weight"):
            if callable(getattr(module, way, None)):
                found[f"{name}.weight"] = getattr(module, way)().detach()
    return found


@pytest.mark.parametrize("options", SCHEMES, ids=str)
@pytest.mark.parametrize("folded", [False, True])
def test_every_weight_comes_back_as_it_is_multiplied_with(
    options: dict[str, Any], folded: bool, tmp_path: Path
) -> None:
    model = quantised(**options)
    model = fold_batch_norms(model, (images(2),)).model if folded else model
    weights = multiplied_with(model)
    packing, found = pack(model, tmp_path / "a.packed"), unpack(tmp_path / "a.packed")
    assert set(found.weights) == set(weights)
    assert all(torch.equal(found.tensors[name], weight) for name, weight in weights.items())
    assert packing.exact
    assert packing.bytes == (tmp_path / "a.packed").stat().st_size


@pytest.mark.parametrize(
    ("options", "encoding"),
    [
        ({"scheme": "wbwtab"}, "1-bit"),
        ({"scheme": "wbwtab", "w_bits": 2}, "base3"),
        ({"scheme": "dorefa", "w_bits": 2, "variant": "paper"}, "2-bit"),
        ({"scheme": "lsq", "w_bits": 4}, "4-bit"),
        ({"scheme": "dorefa", "w_bits": 3, "variant": "paper"}, "3-bit"),
        ({"scheme": "iao"}, "8-bit"),
    ],
    ids=str,
)
def test_a_weight_takes_as_many_bits_as_it_has_levels(options: dict[str, Any], encoding: str, tmp_path: Path) -> None:
    rows = [row for row in pack(quantised(**options), tmp_path / "a.packed").tensors if row.levels]
    assert {row.encoding for row in rows} == {encoding}
    for row in rows:
        count = int(np.prod(row.shape))
        assert row.bytes == (-(-count // 5) if encoding == "base3" else -(-count * int(encoding[0]) // 8))


def test_ternary_weights_may_have_two_bits(tmp_path: Path) -> None:
    model = quantised(scheme="wbwtab", w_bits=2)
    five = pack(model, tmp_path / "five.packed")
    two = pack(model, tmp_path / "two.packed", ternary="2bit")
    assert {row.encoding for row in two.tensors if row.levels} == {"2-bit"}
    assert five.bytes < two.bytes
    ours, theirs = unpack(tmp_path / "five.packed").tensors, unpack(tmp_path / "two.packed").tensors
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_binary_network_takes_a_bit_per_weight_and_three_percent(tmp_path: Path) -> None:
    model = quantize(nin().eval(), (torch.randn(1, 3, 32, 32),), scheme="wbwtab")
    packing = pack(model, tmp_path / "nin.packed")
    weights = sum(int(np.prod(row.shape)) for row in packing.tensors if row.levels)
    floats = sum(row.scale_bytes if row.levels else row.bytes for row in packing.tensors)
    assert weights > 900_000
    assert packing.bytes <= 1.03 * (weights / 8 + floats)
    assert packing.float_bytes > 18 * packing.bytes


def test_all_that_is_not_a_quantised_weight_is_kept_as_it_is(tmp_path: Path) -> None:
    model = quantised(scheme="iao")
    pack(model, tmp_path / "a.packed")
    found = unpack(tmp_path / "a.packed")
    state = model.state_dict()
    kept = {name for name in found.tensors if name not in found.weights}
    left_behind = {name for name in state if ".weight_quantizer." in name or name.endswith("num_batches_tracked")}
    assert kept == set(state) - set(found.weights) - left_behind
    for name in kept:
        assert found.tensors[name].dtype == state[name].dtype
        assert torch.equal(found.tensors[name], state[name])


def test_tensors_of_every_common_type_come_back(tmp_path: Path) -> None:
    model = quantised(scheme="iao")
    types = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool)
    for kind in types:
        model.register_buffer(f"of_{str(kind)[6:]}", torch.tensor([[1.5, 0.0, 3.0]]).to(kind))
    model.register_buffer("nothing", torch.zeros(0, 3))
    model.register_buffer("single", torch.tensor(-2.5))
    pack(model, tmp_path / "a.packed")
    found, state = unpack(tmp_path / "a.packed").tensors, model.state_dict()
    for name in (*(f"of_{str(kind)[6:]}" for kind in types), "nothing", "single"):
        assert found[name].dtype == state[name].dtype
        assert found[name].shape == state[name].shape
        assert torch.equal(found[name], state[name])


def test_a_type_that_the_format_does_not_have_is_told(tmp_path: Path) -> None:
    model = quantised(scheme="iao")
    model.register_buffer("small", torch.zeros(2).to(torch.float8_e4m3fn))
    with pytest.raises(StageError, match="`small` has the type float8_e4m3fn") as caught:
        pack(model, tmp_path / "a.packed")
    assert caught.value.code == "MC471"
    assert list(tmp_path.iterdir()) == []


class Everything(nn.Module):
    """A weight along axis 1, a table, and weights that composite layers and functions read."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 3)
        self.recurrent = nn.LSTM(5, 6, batch_first=True)
        self.free = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        x, _ = self.recurrent(x.mean(1))
        return nn.functional.linear(x, self.free)


@pytest.mark.parametrize("options", [{"scheme": "iao"}, {"scheme": "lsq", "w_bits": 4}], ids=str)
def test_weights_along_other_axes_and_of_composite_layers_are_packed(options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 3, 3)
    model = quantize(Everything().eval(), (x,), first_layer_float=False, last_layer_float=False, **options)
    calibrate(model, [x], "minmax")
    packing, found = pack(model.eval(), tmp_path / "a.packed"), unpack(tmp_path / "a.packed")
    assert packing.exact
    assert {"up.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "free"} <= set(found.weights)
    assert torch.equal(found.tensors["up.weight"], multiplied_with(model)["up.weight"])
    assert not any("quantizer" in name and "weight" in name for name in found.tensors)


def test_a_table_is_packed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(QuantEmbedding(20, 8, scheme="iao", w_bits=4))
    pack(model, tmp_path / "a.packed")
    assert torch.equal(unpack(tmp_path / "a.packed").tensors["0.weight"], model[0].quantized_weight())


def test_a_dead_filter_of_a_binary_weight_needs_no_third_value(tmp_path: Path) -> None:
    model = quantised(scheme="wbwtab")
    name, weight = next(iter(multiplied_with(model).items()))
    with torch.no_grad():
        model.get_parameter(name)[1] = 0
    row = next(row for row in pack(model, tmp_path / "a.packed").tensors if row.name == name)
    assert row.encoding == "1-bit"
    assert row.exact
    found = unpack(tmp_path / "a.packed").tensors[name]
    assert found.shape == weight.shape
    assert not found[1].any()


def test_a_tensor_of_two_names_is_stored_once(tmp_path: Path) -> None:
    model = quantised(scheme="iao")
    one = pack(model, tmp_path / "one.packed")
    model.register_buffer("large", torch.arange(10_000.0))
    model.register_buffer("again", model.get_buffer("large"))
    assert pack(model, tmp_path / "two.packed").bytes - one.bytes < 41_000


def test_metadata_travels(tmp_path: Path) -> None:
    pack(quantised(scheme="iao"), tmp_path / "a.packed", metadata={"recipe": "a.yaml", "größe": "✓"})
    assert unpack(tmp_path / "a.packed").metadata == {"recipe": "a.yaml", "größe": "✓"}


def test_the_table_is_json_and_adds_up(tmp_path: Path) -> None:
    packing = pack(quantised(scheme="lsq", w_bits=4), tmp_path / "a.packed")
    told = json.loads(json.dumps(packing.as_dict()))
    assert told["bytes"] == (tmp_path / "a.packed").stat().st_size
    assert told["float_bytes"] == sum(row["float_bytes"] for row in told["tensors"])
    assert sum(row["bytes"] + row["scale_bytes"] for row in told["tensors"]) < told["bytes"]
    assert told["exact"] is True


def test_the_reader_of_the_help_needs_no_mcomp_and_reads_the_same_numbers(tmp_path: Path) -> None:
    reader = re.findall(r"```python\n(.*?)```", page("packed-weights"), re.DOTALL)[-1]
    assert "def read_packed" in reader
    assert len([line for line in reader.partition("def read_packed")[2].splitlines() if line.strip()]) <= 45
    (tmp_path / "reader.py").write_text(reader)
    compare = (
        "import sys, numpy as np\nfrom reader import read_packed\n"
        "for name in sys.argv[1:]:\n    np.savez(name + '.npz', **read_packed(name))\n"
        "assert not {'mcomp', 'torch'} & set(sys.modules)\n"
    )
    (tmp_path / "compare.py").write_text(compare)
    models = {str(index): quantised(**options) for index, options in enumerate(SCHEMES)}
    models["0"].register_buffer("brain", torch.randn(3, 5).to(torch.bfloat16))
    for name, model in models.items():
        pack(model, tmp_path / name)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-W", "error", "compare.py", *models]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in models:
        ours, theirs = unpack(tmp_path / name).tensors, np.load(tmp_path / f"{name}.npz")
        assert set(ours) == set(theirs.files)
        for tensor in ours:
            read = torch.from_numpy(theirs[tensor])
            assert torch.equal(read.to(ours[tensor].dtype), ours[tensor])


@pytest.mark.parametrize("model", [nn.Linear(3, 4), nn.Sequential(nn.ReLU())])
def test_a_float_model_is_refused(model: nn.Module, tmp_path: Path) -> None:
    assert not quantising_modules(model)
    with pytest.raises(StageError, match="no weight of the model is quantised") as caught:
        pack(model, tmp_path / "a.packed")
    assert caught.value.code == "MC471"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scale", [torch.nan, torch.inf, 0.0, -1.0])
def test_a_scale_that_is_no_number_above_zero_is_refused(scale: float, tmp_path: Path) -> None:
    model = fold_batch_norms(quantised(scheme="iao"), (images(2),)).model
    next(module for module in model.modules() if hasattr(module, "weight_scale")).weight_scale[1] = scale  # type: ignore[union-attr, operator, index]
    with pytest.raises(StageError, match="not a finite number above 0") as caught:
        pack(model, tmp_path / "a.packed")
    assert caught.value.code == "MC431"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.packed"
    pack(quantised(scheme="iao", symmetric_weights=False), path)
    return path.read_bytes()


@settings(max_examples=60)
@given(st.data())
def test_a_file_that_was_cut_short_is_told(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.packed"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(StageError) as caught:
        unpack(path)
    assert caught.value.code == "MC472"


@settings(max_examples=60)
@given(st.data())
def test_a_single_wrong_bit_is_told(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("bit") / "a.packed"
    path.write_bytes(damaged)
    with pytest.raises(StageError) as caught:
        unpack(path)
    assert caught.value.code in {"MC472", "MC473"}


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"PK\3\4 a zip", (16).to_bytes(8, "little") + b'{"format":"gguf"}']
)
def test_a_file_of_another_kind_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(StageError, match="is not a packed file") as caught:
        unpack(tmp_path / "other")
    assert caught.value.code == "MC472"


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(StageError, match="cannot be read") as caught:
            unpack(path)
        assert caught.value.code == "MC472"


def rewritten(whole: bytes, change: dict[str, Any], path: Path) -> Path:
    """The same file with another header and a checksum that vouches for it."""
    import zlib

    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.dumps({**json.loads(whole[8:start]), **change}, separators=(",", ":")).encode()
    made = len(header).to_bytes(8, "little") + header + whole[start:-4]
    path.write_bytes(made + zlib.crc32(made).to_bytes(4, "little"))
    return path


def test_a_file_of_a_newer_format_is_told(whole: bytes, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="has version 2 of its format") as caught:
        unpack(rewritten(whole, {"version": 2}, tmp_path / "a.packed"))
    assert caught.value.code == "MC473"
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [9, 9], "at": 1 << 30, "type": "float32"},
        {"shape": [1 << 40], "at": 0, "type": "float32"},
        {"shape": [2], "at": -8, "type": "float32"},
        {"shape": [2], "at": 0, "type": "object"},
        {"shape": [2], "at": 0},
        {"shape": [-2], "at": 0, "type": "float32"},
        "none",
    ],
    ids=str,
)
def test_a_header_that_describes_what_is_not_there_is_told(whole: bytes, entry: Any, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="describes a tensor that it does not hold") as caught:
        unpack(rewritten(whole, {"tensors": {"a": entry}}, tmp_path / "a.packed"))
    assert caught.value.code == "MC472"


def test_what_was_there_before_stays_whole_where_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.packed"
    pack(quantised(scheme="iao"), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StageError, match="cannot be written") as caught:
        pack(quantised(scheme="wbwtab"), path)
    assert "No space left" in caught.value.why
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Shared(nn.Module):
    """One convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.d = self.c

    def forward(self, x: Tensor) -> Tensor:
        return self.d(torch.relu(self.c(torch.relu(self.a(x)))))


class Alone(Shared):
    """The same without the second name."""

    def __init__(self) -> None:
        super().__init__()
        del self.d

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.c(torch.relu(self.a(x)))))


@pytest.mark.parametrize("options", [{"scheme": "iao"}, {"scheme": "wbwtab"}, {"scheme": "lsq", "w_bits": 4}], ids=str)
def test_a_layer_of_two_names_is_packed_under_both_and_stored_once(options: dict[str, Any], tmp_path: Path) -> None:
    ends = {"first_layer_float": False, "last_layer_float": False, "route": "modules"}
    model, alone = (quantised(kind(), **ends, **options) for kind in (Shared, Alone))
    packing, one = pack(model, tmp_path / "a.packed"), pack(alone, tmp_path / "b.packed")
    found = unpack(tmp_path / "a.packed")
    simulated = multiplied_with(model)["c.weight"]
    assert {"c.weight", "d.weight"} <= set(found.weights)
    assert torch.equal(found.tensors["c.weight"], simulated)
    assert torch.equal(found.tensors["d.weight"], simulated)
    assert not any("weight_quantizer" in name for name in found.tensors)
    assert packing.exact
    rows = {row.name: row for row in packing.tensors}
    assert [rows[f"d.{kind}"].same_as for kind in ("weight", "bias")] == ["c.weight", "c.bias"]
    assert rows["d.weight"].bytes == rows["d.weight"].float_bytes == 0
    assert packing.float_bytes == one.float_bytes
    bodies = [
        path.stat().st_size - int.from_bytes(path.read_bytes()[:8], "little") for path in (packing.path, one.path)
    ]
    assert bodies[0] == bodies[1]


class FreeShared(nn.Module):
    """A module that reads a weight through a function, under two names."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(6, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.recurrent(x)[0]  # type: ignore[no-any-return]

    def __init__(self) -> None:
        super().__init__()
        self.one = self.Inner()
        self.two = self.one

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


@pytest.mark.parametrize("route", ["symbolic", "modules"])
def test_a_composite_layer_of_two_names_keeps_no_latent_weight(route: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6)
    ends: dict[str, Any] = {"first_layer_float": False, "last_layer_float": False, "route": route}
    model = quantize(FreeShared().eval(), (x,), scheme="iao", **ends)
    calibrate(model, [x], "minmax")
    packing, found = pack(model.eval(), tmp_path / "a.packed"), unpack(tmp_path / "a.packed")
    matrices = {name for name, tensor in found.tensors.items() if tensor.dim() == 2}
    assert matrices
    assert matrices == set(found.weights)
    assert packing.exact


def test_exact_is_what_the_file_gives_back_and_not_what_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcomp.deploy.packed import packing as module

    honest = module.pack_bits
    monkeypatch.setattr(module, "pack_bits", lambda codes, bits: honest(codes[::-1], bits))
    packing = pack(quantised(scheme="iao"), tmp_path / "a.packed")
    assert not packing.exact
    wrong = [row for row in packing.tensors if not row.exact]
    assert {row.encoding for row in wrong} == {"8-bit"}
    assert all(row.max_abs_error > 0 for row in wrong)


def test_kept_tensors_of_nan_and_minus_zero_are_exact(tmp_path: Path) -> None:
    model = quantised(scheme="iao")
    model.register_buffer("odd", torch.tensor([torch.nan, -0.0, torch.inf]))
    assert pack(model, tmp_path / "a.packed").exact
