"""What a GPU can do at most: dense FLOP/s of its matrix units, by the name the driver gives it.

Sources are NVIDIA's data sheets of each product (half of what they give "with sparsity"), for GeForce cards
the white papers of the Ada and Ampere GA102 architectures, the rates with FP32 accumulation. A card that is
not here, a slice of one (MIG) included, has no peak: there is no guess.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Peak(NamedTuple):
    """TFLOP/s by precision, dense; None where the card has no such units, or the source no figure."""

    fp32: float
    tf32: float | None
    fp16: float | None
    bf16: float | None
    fp8: float | None


_H100_SXM = Peak(67, 494.5, 989, 989, 1979)
_H100_NVL = Peak(60, 417.5, 835, 835, 1670.5)
_A100 = Peak(19.5, 156, 312, 312, None)

_PEAKS: tuple[tuple[str, Peak], ...] = (
    (r"GB200", Peak(80, 1250, 2500, 2500, 5000)),
    (r"B200", Peak(75, 1125, 2250, 2250, 4500)),
    (r"GH200 480GB", _H100_SXM),
    (r"H200 NVL", _H100_NVL),
    (r"H200", _H100_SXM),
    (r"H100 80GB HBM3", _H100_SXM),
    (r"H100 NVL", _H100_NVL),
    (r"H100 PCIe", Peak(51, 378, 756, 756, 1513)),
    (r"A100-SXM4-[48]0GB|A100-PCIE-40GB|A100 80GB PCIe", _A100),
    (r"A40", Peak(37.4, 74.8, 149.7, 149.7, None)),
    (r"A30", Peak(10.3, 82, 165, 165, None)),
    (r"A10", Peak(31.2, 62.5, 125, 125, None)),
    (r"L40S", Peak(91.6, 183, 362, 362, 733)),
    (r"L40", Peak(90.5, 90.5, 181, 181, 362)),
    (r"L4", Peak(30.3, 60, 121, 121, 242.5)),
    (r"GeForce RTX 4090", Peak(82.6, 82.6, 165.2, 165.2, 330.3)),
    (r"GeForce RTX 3090", Peak(35.6, 35.6, 71, 71, None)),
    (r"Tesla V100-SXM2-(16|32)GB", Peak(15.7, None, 125, None, None)),
    (r"Tesla V100-PCIE-(16|32)GB", Peak(14, None, 112, None, None)),
    (r"Tesla T4", Peak(8.1, None, 65, None, None)),
)

# What trainers call the precision they train with: Lightning, transformers, Accelerate.
_CALLED = {
    "bf16": "bf16",
    "bf16-mixed": "bf16",
    "bf16-true": "bf16",
    "bfloat16": "bf16",
    "16": "fp16",
    "16-mixed": "fp16",
    "16-true": "fp16",
    "fp16": "fp16",
    "float16": "fp16",
    "transformer-engine": "fp8",
    "fp8": "fp8",
    "tf32": "tf32",
    "32": "fp32",
    "32-true": "fp32",
    "fp32": "fp32",
    "float32": "fp32",
    "no": "fp32",
}


def of_device(name: str, precision: str | None, *, tf32: bool) -> float | None:
    """Peak FLOP/s of the device of this name, as torch gives it; None where it is not known.

    Args:
        precision: as the trainer calls it. Where it tells none, that of bf16, or of fp16 on cards without:
            what utilization (MFU) is by custom measured against.
        tf32: whether products of float32 may run as TF32.
    """
    bare = name.removeprefix("NVIDIA ")
    peak = next((peak for pattern, peak in _PEAKS if re.fullmatch(pattern, bare)), None)
    if peak is None:
        return None
    if not precision:
        rate = peak.bf16 or peak.fp16
    else:
        units = _CALLED.get(precision, "")
        rate = getattr(peak, "tf32" if units == "fp32" and tf32 and peak.tf32 else units, None)
    return rate * 1e12 if rate is not None else None
