"""Quantisers as modules: ``forward(tensor)`` returns the fake-quantised tensor. One family per file."""

from __future__ import annotations

from mcomp.quantization.quantizers.activation import ActivationQuantizer
from mcomp.quantization.quantizers.affine import AffineQuantizer
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.quantizers.batch_norm_folded import BatchNormFoldedWeight
from mcomp.quantization.quantizers.binary import BinaryActivation, BinaryWeight
from mcomp.quantization.quantizers.dorefa import DoReFaActivation, DoReFaWeight
from mcomp.quantization.quantizers.dynamic import DynamicQuantizer
from mcomp.quantization.quantizers.lsq import LSQuantizer
from mcomp.quantization.quantizers.lsq_plus import LSQPlusQuantizer
from mcomp.quantization.quantizers.pact import PACTQuantizer
from mcomp.quantization.quantizers.ristretto import RistrettoQuantizer
from mcomp.quantization.quantizers.ternary import TernaryWeight
from mcomp.quantization.quantizers.weight import WeightQuantizer
from mcomp.quantization.quantizers.xnor import XNORInputScale

__all__ = [
    "ActivationQuantizer",
    "AffineQuantizer",
    "BatchNormFoldedWeight",
    "BinaryActivation",
    "BinaryWeight",
    "DoReFaActivation",
    "DoReFaWeight",
    "DynamicQuantizer",
    "LSQPlusQuantizer",
    "LSQuantizer",
    "PACTQuantizer",
    "Quantizer",
    "RistrettoQuantizer",
    "TernaryWeight",
    "WeightQuantizer",
    "XNORInputScale",
]
