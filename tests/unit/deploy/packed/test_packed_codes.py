from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.deploy.packed import codes as packing
from mcomp.deploy.packed.codes import bytes_for, pack_bits, pack_trits, unpack_bits, unpack_trits


@given(st.integers(1, 16), st.integers(0, 200), st.integers(0, 99))
def test_codes_of_any_width_come_back(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, count).astype(np.uint16)
    data = pack_bits(codes, bits)
    assert len(data) == bytes_for(count, bits) == -(-count * bits // 8)
    assert np.array_equal(unpack_bits(np.frombuffer(data, np.uint8), bits, count), codes)


@given(st.lists(st.integers(0, 2), max_size=60))
def test_five_codes_of_three_values_share_a_byte(digits: list[int]) -> None:
    data = pack_trits(np.array(digits, np.uint16))
    assert len(data) == bytes_for(len(digits), None) == -(-len(digits) // 5)
    assert unpack_trits(np.frombuffer(data, np.uint8), len(digits)).tolist() == digits


def test_the_first_code_lies_in_the_lowest_bits() -> None:
    assert pack_bits(np.array([1, 0, 1, 1, 0, 0, 0, 0, 1], np.uint16), 1) == bytes([0b00001101, 1])
    assert pack_bits(np.array([1, 2, 3, 0, 2], np.uint16), 2) == bytes([0b00111001, 2])
    assert pack_bits(np.array([0xABC, 0x123], np.uint16), 12) == bytes([0xBC, 0x3A, 0x12])
    assert pack_trits(np.array([1, 2, 0, 0, 1, 2], np.uint16)) == bytes([1 + 2 * 3 + 81, 2])


@pytest.mark.parametrize("bits", [1, 3, 7, 16])
def test_pieces_join_without_a_gap(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << bits, 77).astype(np.uint16)
    whole = pack_bits(codes, bits)
    monkeypatch.setattr(packing, "_PIECE", 16)
    assert pack_bits(codes, bits) == whole
    assert np.array_equal(unpack_bits(np.frombuffer(whole, np.uint8), bits, 77), codes)
