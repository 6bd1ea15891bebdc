"""Utilization is relative to the device's dense peak in the precision used, or omitted."""

import pytest

from lmrecipes.runtime.peak_flops import peak_tflops

# Name as reported by the driver; dense peaks of bf16, fp16, TF32, fp32 and fp64 as stated by the vendor.
DEVICES = {
    "NVIDIA GB200": (2500, 2500, 1250, 80, 40),
    "NVIDIA B200": (2250, 2250, 1125, 75, 37),
    "NVIDIA GH200 480GB": (989.4, 989.4, 494.7, 67, 67),
    "NVIDIA H200": (989.4, 989.4, 494.7, 67, 67),
    "NVIDIA H200 NVL": (835.5, 835.5, 417.5, 60, 60),
    "NVIDIA H100 80GB HBM3": (989.4, 989.4, 494.7, 67, 67),
    "NVIDIA H100 PCIe": (756, 756, 378, 51, 51),
    "NVIDIA H100 NVL": (835.5, 835.5, 417.5, 60, 60),
    "NVIDIA A100-SXM4-80GB": (312, 312, 156, 19.5, 19.5),
    "A100-SXM4-40GB": (312, 312, 156, 19.5, 19.5),
    "NVIDIA A100 80GB PCIe": (312, 312, 156, 19.5, 19.5),
    "NVIDIA A100-PCIE-40GB": (312, 312, 156, 19.5, 19.5),
    "NVIDIA A10G": (70, 70, 35, 35, None),
    "NVIDIA A10": (125, 125, 62.5, 31.2, None),
    "NVIDIA A40": (149.7, 149.7, 74.8, 37.4, None),
    "NVIDIA L4": (121, 121, 60, 30.3, None),
    "NVIDIA L40": (181.05, 181.05, 90.5, 90.5, None),
    "NVIDIA L40S": (362.05, 362.05, 183, 91.6, None),
    "NVIDIA GeForce RTX 4090": (165.2, 165.2, 82.6, 82.6, None),
    "NVIDIA GeForce RTX 3090": (71, 71, 35.6, 35.6, None),
    # No bf16 and no TF32: the precision setting has no effect.
    "Tesla V100-SXM2-16GB": (None, 125, 15.7, 15.7, 7.8),
    "Tesla V100-PCIE-32GB": (None, 112, 14, 14, 7),
    "Tesla T4": (None, 65, 8.1, 8.1, None),
    "AMD Instinct MI300X": (1307.4, 1307.4, 653.7, 163.4, 163.4),
    # Half a card.
    "AMD Instinct MI250X": (191.5, 191.5, 47.85, 47.85, 47.85),
}


@pytest.mark.parametrize("device", DEVICES)
def test_the_peak_is_the_dense_one_of_the_precision(device):
    bf16, fp16, tf32, fp32, fp64 = DEVICES[device]
    for form in ("mixed", "true"):
        assert peak_tflops(device, f"bf16-{form}") == bf16
        assert peak_tflops(device, f"16-{form}") == fp16
    assert peak_tflops(device, "32-true", "highest") == fp32
    assert peak_tflops(device, "32-true", "high") == tf32
    assert peak_tflops(device, "64-true") == fp64
    for other in ("transformer-engine", "transformer-engine-float16"):
        assert peak_tflops(device, other) is None


@pytest.mark.parametrize(
    "device",
    [
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA H200 MIG 3g.71gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H100 80GB HBM2e",
        "GRID A100-10C",
        "NVIDIA A100X",
        "NVIDIA A1000",
        "NVIDIA T400",
        "NVIDIA T4G",
        "Tesla V100S-PCIE-32GB",
        "NVIDIA B2000",
        "Some New Device",
        "",
    ],
)
def test_partitioned_and_unknown_devices_have_no_peak(device):
    assert peak_tflops(device, "bf16-mixed") is None
    assert peak_tflops(device, "16-mixed") is None
    assert peak_tflops(device, "32-true") is None
