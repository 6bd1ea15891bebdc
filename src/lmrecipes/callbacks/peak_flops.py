"""Dense matrix peaks of accelerators, for model FLOPs utilization."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch


class Peaks(NamedTuple):
    """Tera-operations per second of dense matrix products; None for a format the device has no fast path for."""

    fp32: float
    tf32: float | None
    bf16: float | None
    fp16: float | None


# From the vendors' data sheets and architecture papers: NVIDIA V100, T4, A100, A800, A30, A40, A10, A10G, A2, L4, L40,
# L40S, H100, H800, H20, H200, GH200, HGX B200 and GB200 data sheets, the Ampere GA102, Ada and Blackwell RTX white
# papers (their figures with fp32 accumulation); AMD Instinct MI210, MI250, MI250X, MI300A, MI300X and MI325X data sheets.
# Where a sheet prints figures with sparsity, the dense ones are half. A MI250 or MI250X appears to torch as two devices,
# and the figures here are of one.
_PEAKS: dict[str, Peaks] = {
    r"V100-(SXM[23].*|DGXS.*)": Peaks(15.7, None, None, 125),
    r"V100-PCIE.*": Peaks(14, None, None, 112),
    r"V100S-PCIE.*": Peaks(16.4, None, None, 130),
    r"T4": Peaks(8.1, None, None, 65),
    r"A2": Peaks(4.5, 9, 18, 18),
    r"A10": Peaks(31.2, 62.5, 125, 125),
    r"A10G": Peaks(35, 35, 70, 70),
    r"A30": Peaks(10.3, 82, 165, 165),
    r"A40": Peaks(37.4, 74.8, 149.7, 149.7),
    r"A[18]00[- ](SXM4?|PCIE?)?[- ]?[48]0GB( PCIE)?": Peaks(19.5, 156, 312, 312),
    r"L4": Peaks(30.3, 60, 121, 121),
    r"L40": Peaks(90.5, 90.5, 181, 181),
    r"L40S": Peaks(91.6, 183, 362, 362),
    r"H[18]00( SXM5?)?( \d+GB)?( HBM3)?": Peaks(67, 494.7, 989, 989),
    r"H100 PCIE": Peaks(51.2, 378, 756, 756),
    r"H[12]00 NVL": Peaks(60, 417.5, 835.5, 835.5),
    r"H200": Peaks(67, 494.7, 989, 989),
    r"GH200( \d+GB?)?( HBM3E?)?": Peaks(67, 494.7, 989, 989),
    r"H20": Peaks(44, 74, 148, 148),
    r"B200": Peaks(75, 1125, 2250, 2250),
    r"GB200": Peaks(80, 1250, 2500, 2500),
    r"RTX 3090": Peaks(35.6, 35.6, 71.2, 71.2),
    r"RTX 3090 TI": Peaks(40, 40, 80, 80),
    r"RTX 4080": Peaks(48.7, 48.7, 97.5, 97.5),
    r"RTX 4090": Peaks(82.6, 82.6, 165.2, 165.2),
    r"RTX 5090": Peaks(104.8, 104.8, 209.5, 209.5),
    r"RTX A5000": Peaks(27.8, 55.6, 111.1, 111.1),
    r"RTX A6000": Peaks(38.7, 77.4, 154.8, 154.8),
    r"RTX 6000 ADA( GENERATION)?": Peaks(91.1, 182.1, 364.2, 364.2),
    r"INSTINCT MI210": Peaks(45.3, None, 181, 181),
    r"INSTINCT MI250": Peaks(45.3, None, 181, 181),
    r"INSTINCT MI250X": Peaks(47.9, None, 191.5, 191.5),
    r"INSTINCT MI300A": Peaks(122.6, 490.3, 980.6, 980.6),
    r"INSTINCT MI300X": Peaks(163.4, 653.7, 1307.4, 1307.4),
    r"INSTINCT MI325X": Peaks(163.4, 653.7, 1307.4, 1307.4),
}
_MAKER = re.compile(r"^(NVIDIA |AMD )?(TESLA |GEFORCE )?")


def device_peaks(device: str) -> Peaks | None:
    """Peaks of a device by its whole name, so that an L40S is not taken for an L4, nor a slice of a GPU for all of it."""
    model = _MAKER.sub("", device.strip().upper())
    return next((peaks for pattern, peaks in _PEAKS.items() if re.fullmatch(pattern, model)), None)


def peak_tflops(device: str, precision: str) -> float | None:
    """Dense peak of one device for a Lightning precision, or None if it is not known.

    Args:
        device: as torch.cuda.get_device_name says, such as "NVIDIA H200".
        precision: such as bf16-mixed, 16-mixed or 32-true; the latter counts as TF32 where torch is allowed to use it.
    """
    peaks = device_peaks(device)
    if peaks is None:
        return None
    if precision.startswith("32"):
        allowed = torch.get_float32_matmul_precision() != "highest"
        return peaks.tf32 if allowed and peaks.tf32 is not None else peaks.fp32
    if precision.startswith("bf16"):
        return peaks.bf16
    return peaks.fp16 if precision.startswith("16") else None
