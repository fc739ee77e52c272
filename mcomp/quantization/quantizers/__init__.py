"""Quantisers as modules: ``forward(tensor)`` returns the fake-quantised tensor. One family per file."""

from __future__ import annotations

from mcomp.quantization.quantizers.activation import ActivationQuantizer
from mcomp.quantization.quantizers.dorefa import DoReFaActivation, DoReFaWeight
from mcomp.quantization.quantizers.weight import WeightQuantizer

__all__ = ["ActivationQuantizer", "DoReFaActivation", "DoReFaWeight", "WeightQuantizer"]
