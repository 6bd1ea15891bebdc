"""Dense matrix peaks of accelerators, for model FLOPs utilization."""

from __future__ import annotations

import re

# Tera-operations per second without sparsity, from the vendors' data sheets. (Data sheets of Ada, Hopper and
# Blackwell print tensor-core figures with sparsity; dense ones are half of them.) First match wins; a name must
# match from end to end, so that a slice, a laptop's chip or a cut-down edition is not taken for the whole device.
# 16-bit figures are those with accumulation in fp32. Where a format is missing, the device has no peak for it.
_TERA: dict[str, dict[str, float]] = {
    "GB200": {"bf16": 2500.0, "16": 2500.0, "tf32": 1250.0, "32": 80.0, "64": 40.0},
    "B200": {"bf16": 2250.0, "16": 2250.0, "tf32": 1125.0, "32": 75.0, "64": 37.0},
    "GH200": {"bf16": 989.4, "16": 989.4, "tf32": 494.7, "32": 67.0, "64": 67.0},
    "H200 NVL": {"bf16": 835.5, "16": 835.5, "tf32": 417.5, "32": 60.0, "64": 60.0},
    "H200": {"bf16": 989.4, "16": 989.4, "tf32": 494.7, "32": 67.0, "64": 67.0},
    "H100 NVL": {"bf16": 835.5, "16": 835.5, "tf32": 417.5, "32": 60.0, "64": 60.0},
    "H100 PCIe": {"bf16": 756.0, "16": 756.0, "tf32": 378.0, "32": 51.0, "64": 51.0},
    "H100": {"bf16": 989.4, "16": 989.4, "tf32": 494.7, "32": 67.0, "64": 67.0},
    "A100": {"bf16": 312.0, "16": 312.0, "tf32": 156.0, "32": 19.5, "64": 19.5},
    "A30": {"bf16": 165.0, "16": 165.0, "tf32": 82.0, "32": 10.3, "64": 10.3},
    "A10G": {"bf16": 70.0, "16": 70.0, "tf32": 35.0, "32": 35.0},
    "A10": {"bf16": 125.0, "16": 125.0, "tf32": 62.5, "32": 31.2},
    "A40": {"bf16": 149.7, "16": 149.7, "tf32": 74.8, "32": 37.4},
    "L40S": {"bf16": 362.05, "16": 362.05, "tf32": 183.0, "32": 91.6},
    "L40": {"bf16": 181.05, "16": 181.05, "tf32": 90.5, "32": 90.5},
    "L4": {"bf16": 121.0, "16": 121.0, "tf32": 60.0, "32": 30.3},
    "V100-PCIE": {"16": 112.0, "32": 14.0, "64": 7.0},
    "V100": {"16": 125.0, "32": 15.7, "64": 7.8},
    "T4": {"16": 65.0, "32": 8.1},
    "GeForce RTX 4090": {"bf16": 165.2, "16": 165.2, "tf32": 82.6, "32": 82.6},
    "GeForce RTX 3090": {"bf16": 71.0, "16": 71.0, "tf32": 35.6, "32": 35.6},
    "MI300X": {"bf16": 1307.4, "16": 1307.4, "tf32": 653.7, "32": 163.4, "64": 163.4},
    # A card is two devices; each has half of the data sheet's numbers.
    "MI250X": {"bf16": 191.5, "16": 191.5, "32": 47.85, "64": 47.85},
}
# Vendor prefix, and suffix of form factor and memory size.
_BEFORE = r"(?:NVIDIA |Tesla |AMD |Instinct )*"
_AFTER = r"(?:[ -](?:SXM\d?|PCIE|PCIe|\d+GB?|HBM3e?))*"


def peak_tflops(device: str, precision: str, matmul_precision: str = "highest") -> float | None:
    """Dense peak of one device by its name and a Lightning precision, or None if it is not known.

    Args:
        device: from torch.cuda.get_device_name, such as "NVIDIA H200".
        precision: such as bf16-mixed, 16-mixed, 32-true or 64-true.
        matmul_precision: from torch.get_float32_matmul_precision; below highest, fp32 products run as TF32
            if the device has it.
    """
    number = precision.removesuffix("-mixed").removesuffix("-true")
    for pattern, peaks in _TERA.items():
        if re.fullmatch(f"{_BEFORE}{pattern}{_AFTER}", device):
            if number == "32" and matmul_precision != "highest":
                return peaks.get("tf32", peaks["32"])
            return peaks.get(number)
    return None
