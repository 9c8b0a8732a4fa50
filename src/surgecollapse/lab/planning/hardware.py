"""What processors can do, from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from surgecollapse.errors import ConfigError, unknown


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One processor.

    Rates are those of dense matrices, without the makers' figures for 2:4 sparsity.
    """

    name: str
    float32: float
    """Multiplications and additions in a second, as matrices in float32 (on NVIDIA's from Ampere on: TF32)."""
    mixed: float
    """The same in 16 bits with sums in float32."""
    bandwidth: float
    """Bytes in a second from and to its memory."""
    memory: float
    """Bytes."""
    link: float
    """Bytes in a second to the others of its machine, in one direction."""
    source: str
    launch: float = 5e-6
    """Least seconds of an operation: what it takes to start one, by assumption on GPUs."""


COMPUTE, TRAFFIC = 0.7, 0.8
"""Shares of the rates of a data sheet that large kernels are assumed to reach."""
_GB, _TB, _TERA = 1e9, 1e12, 1e12
_ALL = (
    Hardware(
        name="v100",
        float32=15.7 * _TERA,
        mixed=125 * _TERA,
        bandwidth=900 * _GB,
        memory=16 * 2**30,
        link=150 * _GB,
        source="NVIDIA V100 data sheet, SXM2 16 GB: 15.7 and 125 TFLOPS, 900 GB/s, NVLink 300 GB/s both ways",
    ),
    Hardware(
        name="a100-40gb",
        float32=156 * _TERA,
        mixed=312 * _TERA,
        bandwidth=1.555 * _TB,
        memory=40 * 2**30,
        link=300 * _GB,
        source="NVIDIA A100 data sheet, SXM4 40 GB: TF32 156, BF16 312 TFLOPS, 1,555 GB/s, NVLink 600 GB/s both ways",
    ),
    Hardware(
        name="a100",
        float32=156 * _TERA,
        mixed=312 * _TERA,
        bandwidth=2.039 * _TB,
        memory=80 * 2**30,
        link=300 * _GB,
        source="NVIDIA A100 data sheet, SXM4 80 GB: TF32 156, BF16 312 TFLOPS, 2,039 GB/s, NVLink 600 GB/s both ways",
    ),
    Hardware(
        name="h100",
        float32=494.5 * _TERA,
        mixed=989 * _TERA,
        bandwidth=3.35 * _TB,
        memory=80 * 2**30,
        link=450 * _GB,
        source="NVIDIA H100 data sheet, SXM5: half of TF32 989 and BF16 1,979 TFLOPS, which are with 2:4 sparsity; "
        "3.35 TB/s, NVLink 900 GB/s both ways",
    ),
    Hardware(
        name="h200",
        float32=494.5 * _TERA,
        mixed=989 * _TERA,
        bandwidth=4.8 * _TB,
        memory=141e9,
        link=450 * _GB,
        source="NVIDIA H200 data sheet, SXM: as H100, 141 GB at 4.8 TB/s",
    ),
)

HARDWARE: dict[str, Hardware] = {one.name: one for one in _ALL}
"""By name."""


def hardware(name: str) -> Hardware:
    """A processor by its name.

    Raises:
        ConfigError: for an unknown one.

    >>> hardware("h100").mixed / 1e12
    989.0
    """
    if name not in HARDWARE:
        raise ConfigError(unknown("gpu", name, list(HARDWARE)))
    return HARDWARE[name]
