"""Every kernel of the launch rules compiles for every target, within limits, and as well as it did.

Registers, spills and instructions depend on Triton's version, so each committed report holds for one. Under another
version only the limits are checked, and CI asks for a report: `python -m tests.kernels.aot` writes it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # five minutes of one core
pytest.importorskip("triton", reason="Triton is not installed")
from tests.kernels import aot  # noqa: E402
from tests.kernels.variants import VARIANTS  # noqa: E402

ROOT = Path(__file__).parents[2]
# Bytes of shared memory that a thread block can have; of sm_80 those of sm_86 and sm_89, which take the same rules.
SHARED = {"sm_80": 99 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "sm_120": 99 << 10, "gfx942": 64 << 10}

# A few spills are the assembler's choice: it stops at 64, 80 or 128 registers so that more warps fit. More: a reason.
# Where there is a loop over pairs, what counts is spilled inside it.
A_FEW, A_FEW_IN_A_LOOP = 32, 8
OPERANDS = "sums of 256 + 8 features take 144 registers; mma.sync takes 16 columns of operands from registers too"
TRANSPOSED = "the second product in TF32 takes its features transposed, which only registers can do"
EIGHT = "sixteen values per pair are held at once; nobody is known to train with more than three layers"
WEIGHTS = "beside those sums, a weight per pair"
SPILLS = {
    "JMMD (256, 8), many rows, bf16: fused_loss": OPERANDS,
    "JMMD (256, 8), many rows, bf16, source only: fused_loss": OPERANDS,
    "JMMD (256, 8), many rows, tf32: fused_loss": TRANSPOSED,
    "JMMD of 8 layers: small_loss": EIGHT,
    "JMMD (256, 8), many rows, bf16, sample weights: fused_loss": WEIGHTS,
    "JMMD (256, 8), many rows, bf16, unbiased, sample weights: fused_loss": WEIGHTS,
    "JMMD (256, 8), many rows, tf32, sample weights: fused_loss": WEIGHTS,
    "JMMD (256, 8), many rows, bf16, 16 columns: fused_loss": WEIGHTS,
}

# Without a second product nothing asks for a layout in which every lane has pairs of its own.
REPEATS = {
    ("sm_100", "JMMD (256, 8), many rows, bf16, loss only: fused_loss"): 2.0,
    ("sm_100", "JMMD (256, 8), many rows, bf16, 16 forms: fused_loss"): 2.0,
}

# Instructions per pair, which decide whether a route is fast: 55 for 256 + 8 features leave an H100's tensor cores 60 %
# of their rate in bf16 (docs/performance.md).
MOST_PER_PAIR = {
    "MMD 256, many rows, bf16: fused_loss": {"sm_80": 45, "sm_90": 40, "sm_100": 50, "sm_120": 45},
    "JMMD (256, 8), many rows, bf16: fused_loss": {"sm_80": 72, "sm_90": 50, "sm_100": 65, "sm_120": 72},
    "JMMD (256, 8), many rows, tf32: fused_loss": {"sm_80": 110, "sm_90": 90, "sm_100": 95, "sm_120": 110},
    "JMMD (256, 8), many rows, bf16, sample weights: fused_loss": {
        "sm_80": 80,
        "sm_90": 60,
        "sm_100": 72,
        "sm_120": 80,
    },
    "JMMD (256, 8), many rows, tf32, sample weights: fused_loss": {
        "sm_80": 120,
        "sm_90": 95,
        "sm_100": 100,
        "sm_120": 120,
    },
    "JMMD (256, 8), many rows, bf16, 16 forms: fused_loss": {"sm_80": 60, "sm_90": 55, "sm_120": 60},
} | {
    f"JMMD (2048, 8), many rows{kind}: inner_products_to_coefficients{panels}": dict.fromkeys(
        ("sm_80", "sm_90", "sm_100", "sm_120"), 50
    )
    for kind in ("", ", tf32", ", bf16", ", sample weights", ", bf16, sample weights", ", 31 classes")
    for panels in ("", ", one panel")
}


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, dict]]:
    """target -> kernel -> resources. Each target in a process: compiling holds the interpreter lock."""

    def report(target: str) -> dict[str, dict]:
        command = [sys.executable, "-m", "tests.kernels.aot", target]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{target}: {done.stderr[-6000:]}"
        return json.loads(done.stdout)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip(aot.TARGETS, pool.map(report, aot.TARGETS), strict=True))


@pytest.mark.parametrize("target", aot.TARGETS)
def test_within_limits(reports, target):
    for name, used in reports[target].items():
        assert used["shared"] <= SHARED[target], name
        spills, most = (used["loop_spills"], A_FEW_IN_A_LOOP) if "per_pair" in used else (used["spills"], A_FEW)
        assert spills <= most or name in SPILLS, f"{name}: {spills} spills"


@pytest.mark.parametrize("target", aot.TARGETS)
def test_few_instructions_per_pair(reports, target):
    for name, most in MOST_PER_PAIR.items():
        if target in most:
            assert reports[target][name]["per_pair"] <= most[target], name


@pytest.mark.parametrize("target", aot.TARGETS)
def test_no_layout_computes_a_pair_twice(reports, target):
    for name, used in reports[target].items():
        assert used.get("repeats", 1.0) <= REPEATS.get((target, name), 1.0), name


@pytest.mark.parametrize("target", aot.TARGETS)
def test_matrix_instructions(reports, target):
    """fp32 products in "ieee" have none on NVIDIA; everything else that multiplies uses them, but fp64 where Triton
    takes none."""
    products = ("small_distances", "fused_loss")
    for name, used in reports[target].items():
        if target in ("sm_100", "sm_120") and "fp64" in name:
            continue
        plain = target != "gfx942" and not any(format in name for format in ("tf32", "bf16", "fp64"))
        if name.endswith(products):
            assert (not used["matrix"]) == plain, name


def test_the_second_launch_waits_for_the_first_before_it_reads_what_that_writes():
    """Only features are loaded before; and the first launch lets the second begin at once."""
    (variant,) = [variant for variant in VARIANTS if variant.name == "JMMD (256, 31)"]
    first, second = (aot.compile(launch, "sm_90") for launch in variant.launches("nvidia", 9))
    wait = r"griddepcontrol\.wait|grid_dependency_wait"  # before Triton 3.9; since
    before, after = re.split(wait, second.asm["ttgir"])
    before = before.partition("@small_loss(")[2].partition("\n")[2]  # without the parameters
    written = re.compile(r"%(distances|distance_sums|partial_sums|arrived)_ptr")
    assert written.search(after)
    assert not written.search(before)
    assert "tt.load" in before
    assert "tt.store" not in before
    begin = re.split(r"griddepcontrol\.launch_dependents|grid_dependency_launch_dependents", first.asm["ttgir"])
    assert len(begin) == 2
    assert "tt.load" not in begin[0]


@pytest.mark.parametrize("target", aot.TARGETS)
def test_no_worse_than_reported(reports, target):
    if not aot.REPORT.exists():
        pytest.skip(f"no report of {aot.REPORT.stem}: compares nothing by number")
    before = json.loads(aot.REPORT.read_text())[target]
    assert reports[target].keys() == before.keys(), "the kernels changed: renew the report"
    for name, used in reports[target].items():
        assert used["matrix"] == before[name]["matrix"], name
        assert used["spills"] <= before[name]["spills"] + 4, name
        assert used.get("loop_spills", 0) <= before[name].get("loop_spills", 0) + 2, name
        assert used["registers"] <= before[name]["registers"] + 16, name
        assert used["shared"] <= before[name]["shared"], name
        assert used.get("per_pair", 0) <= 1.02 * before[name].get("per_pair", 0), name
