"""What NVIDIA's datasheets say of its boards: memory bandwidth, dense peaks by type, and power.

Peaks are those without sparsity; in 16 bits with sums in 32, as engines compute. No kernel reaches them: reading comes
to about nine tenths of the bandwidth, a large product of matrices to seven or eight tenths of the peak.
"""

import re
from dataclasses import dataclass

from pytest_slmperf.core.roofline import Reading, Roof

ERROR = 0.05
"""A board's clocks may exceed those of its datasheet by so much."""


@dataclass(frozen=True, slots=True)
class Board:
    """A row of the table."""

    name: str
    """Words of the driver's name for it, one after the other."""
    gb_per_s: float
    tflops_16: float
    """In float16 and bfloat16."""
    tflops_32: float
    """In float32, without the shortened type TF32: engines leave it off."""
    tops_8: float | None
    """In int8; None where it has no unit for it."""
    watts: float


BOARDS = (
    Board("B200", 8_000, 2_250, 75, 4_500, 1_000),
    Board("H200 NVL", 4_800, 835, 60, 1_671, 600),
    Board("H200", 4_800, 989, 67, 1_979, 700),
    Board("H100 NVL", 3_938, 835, 60, 1_671, 400),
    Board("H100 PCIe", 2_039, 756, 51, 1_513, 350),
    Board("H100 80GB HBM3", 3_350, 989, 67, 1_979, 700),
    Board("A100-SXM4-80GB", 2_039, 312, 19.5, 624, 400),
    Board("A100-SXM4-40GB", 1_555, 312, 19.5, 624, 400),
    Board("A100 80GB PCIe", 1_935, 312, 19.5, 624, 300),
    Board("A100-PCIE-40GB", 1_555, 312, 19.5, 624, 250),
    Board("A30", 933, 165, 10.3, 330, 165),
    Board("A10", 600, 125, 31.2, 250, 150),
    Board("L40S", 864, 362, 91.6, 733, 350),
    Board("L40", 864, 181, 90.5, 362, 300),
    Board("L4", 300, 121, 30.3, 242, 72),
    Board("T4", 320, 65, 8.1, 130, 70),
    Board("V100-SXM2-16GB", 900, 125, 15.7, None, 300),
    Board("V100-SXM2-32GB", 900, 125, 15.7, None, 300),
    Board("RTX 4090", 1_008, 165, 82.6, 661, 450),
    Board("RTX 3090", 936, 71, 35.6, 284, 350),
    Board("RTX A6000", 768, 155, 38.7, 310, 300),
)
"""The first that fits counts."""
_COUNTED = re.compile(r"(?:(?P<count>\d+) x )?(?P<name>.+)")


def roof_of(device: str) -> Roof | None:
    """The roof of what a machine calls its device: `NVIDIA H100 80GB HBM3`, `2 x NVIDIA L4`.

    None for a board that isn't here, a slice of one (MIG), boards that are not alike, and no board at all.
    """
    match = _COUNTED.fullmatch(device)
    words = match["name"].upper().split() if match else []
    if match is None or not {"NVIDIA", "TESLA"} & {*words} or {"MIG", "AND", "SIMULATED"} & {*words}:
        return None
    for board in BOARDS:
        named = board.name.upper().split()
        if any(words[at : at + len(named)] == named for at in range(len(words))):
            return _roof(board).times(boards_in(device))
    return None


def boards_in(device: str) -> int:
    """How many boards a machine's device is: 2 of `2 x NVIDIA L4`."""
    match = _COUNTED.fullmatch(device)
    return int(match["count"] or 1) if match else 1


def _roof(board: Board) -> Roof:
    tera = 1e12
    types = {"float16": board.tflops_16, "bfloat16": board.tflops_16, "float32": board.tflops_32, "int8": board.tops_8}
    return Roof(
        readings=(Reading(1.0, board.gb_per_s * 1e9),),
        flops={dtype: rate * tera for dtype, rate in types.items() if rate is not None},
        error=ERROR,
        source=f"datasheet of {board.name}",
        power_w=board.watts,
    )
