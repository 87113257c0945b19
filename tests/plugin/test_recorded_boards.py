"""Two drivers of one board, as recordings that the stand-in driver replays under whole runs: is the newer one worse?

The recordings are synthetic, in the format of the recorder. The engine's times are real.
"""

import json
import random

import nvml_recording
import pytest
from few_launches import MEASURED, store
from onchip import GpuProject

from pytest_slmperf.cli import main

pytest.importorskip("pynvml")
OLD, NEW = "580.65.06", "590.48.01"
WATTS, WORSE = 400, 1.3
PERIOD_S, LASTS_S = 0.02, 5.0
BASELINE = f"baselines/simulated-nvidia-h200/{OLD}/onchip-metered.json"
JOULES = "metered/opt-125m/batch=4 joules_per_output_token"


def record(path, driver, watts, seed):
    """A recording of a board under load: its power scatters by 2 % from update to update, and drifts by 1 %."""
    draw, at_us, mj, edges, rows = random.Random(seed), 0, 7_000_000, [], []
    drift = draw.uniform(0.99, 1.01)
    while at_us < LASTS_S * 1e6:
        edges.append([at_us, at_us + 900, mj])
        power_mw = round(watts * drift * draw.gauss(1, 0.02) * 1000)
        rows.append([at_us, [power_mw] * 3, power_mw, 1980, 3201, 60, 0, [97, 60]])
        at_us += round(PERIOD_S * 1e6)
        mj += round(power_mw * PERIOD_S)
    table = {
        "Name": ["NVIDIA H200", 9.0], "UUID": ["GPU-5e9e71c0-0000-4000-8000-000000000001", 9.0],
        "SystemGetDriverVersion": [driver, 9.0],
    }  # fmt: skip
    told = {"synthetic": True, "slow": {"seconds": LASTS_S, "edges": edges, "rows": rows}, "table": table}
    path.write_text(json.dumps(told))
    return path


class RecordedGpu(GpuProject):
    """A suite that gates joules of an engine on a GPU that was recorded."""

    def measure(self, *args, driver=OLD, watts=WATTS, seed=1):
        """What a run says on the board under a driver."""
        recording = record(self.path / f"nvml_{driver}.json", driver, watts, seed)
        return self.on(*args, scenario=nvml_recording.board_of(recording, self.path), watts=0)


@pytest.fixture(scope="module")
def on_a_gpu(recorded_once) -> RecordedGpu:
    """A project with a baseline of the old driver."""
    return recorded_once(RecordedGpu, lambda project: store(project, project.measure(*MEASURED)))


@pytest.mark.parametrize(
    ("watts", "code", "says"), [(WATTS, 0, "2 unchanged"), (WORSE * WATTS, 1, "1 unchanged, 1 regressed")]
)
def test_a_drivers_regression_is_told_from_noise(on_a_gpu, tmp_path, capsys, watts, code, says):
    """The gate across the driver is red for joules alone, where the board takes more power; `slmperf compare` of the
    same runs agrees.
    """
    project = on_a_gpu.again(tmp_path)
    terms = (f"--slmperf-against=driver={OLD}", "--slmperf-report=report.json")
    said = project.measure(*terms, driver=NEW, watts=watts, seed=2)
    assert said.endswith(f"exit code {code}"), said
    assert says in said
    assert (f"regressed: {JOULES}" in said) is bool(code)
    assert main(["compare", str(tmp_path / BASELINE), str(tmp_path / "report.json")]) == code
    told = capsys.readouterr().out
    assert says in told
    assert (f"1 regressed: {JOULES}" in told) is bool(code)
