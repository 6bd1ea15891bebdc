"""Dense matrix peaks of accelerators, for model FLOPs utilization."""

from __future__ import annotations

import re

# Tera-operations per second without sparsity, from the vendors' data sheets. (Data sheets of Ada and Hopper
# print figures with sparsity; dense ones are half of them.) "32" is what fp32 matrix products reach by default:
# without TF32. First match wins, longer names first.
_TERA = {
    r"GB200|B200": {"16": 2250.0, "32": 80.0},
    r"H200": {"16": 989.0, "32": 67.0},
    r"GH200": {"16": 989.0, "32": 67.0},
    r"H100 NVL": {"16": 835.0, "32": 60.0},
    r"H100 PCIe": {"16": 756.0, "32": 51.0},
    r"H100": {"16": 989.0, "32": 67.0},
    r"A100": {"16": 312.0, "32": 19.5},
    r"A10G": {"16": 70.0, "32": 35.0},
    r"A10": {"16": 125.0, "32": 31.2},
    r"A40": {"16": 149.7, "32": 37.4},
    r"L40S": {"16": 362.0, "32": 91.6},
    r"L40": {"16": 181.0, "32": 90.5},
    r"L4": {"16": 121.0, "32": 30.3},
    r"V100": {"16": 125.0, "32": 15.7},
    r"T4": {"16": 65.0, "32": 8.1},
    r"RTX 4090": {"16": 165.2, "32": 82.6},
    r"RTX 3090": {"16": 71.0, "32": 35.6},
    r"MI300X": {"16": 1307.4, "32": 163.4},
    r"MI250X": {"16": 383.0, "32": 95.7},
}


def peak_tflops(device: str, precision: str) -> float | None:
    """Dense peak of one device by its name and a Lightning precision, or None if it is not known.

    Args:
        device: as torch.cuda.get_device_name says, such as "NVIDIA H200".
        precision: such as bf16-mixed, 16-mixed or 32-true.
    """
    for pattern, peaks in _TERA.items():
        if re.search(rf"(?<![A-Z0-9])(?:{pattern})(?![A-Z0-9])", device):
            return peaks["16" if "16" in precision else "32"]
    return None
