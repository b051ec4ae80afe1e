"""Every CUDA kernel compiles into what the committed report says, spills nothing that isn't meant to, and takes few
instructions per pair.

Registers, spills and instructions depend on nvcc's version, so the report holds for one; under another only the limits
are checked. It covers every target; some are compiled again here. To renew it: `python -m tests.csrc.cuda_resources`
(five minutes on one core).
"""

from __future__ import annotations

import json
import re

import pytest

from tests.csrc import cuda_resources

SAMPLE = ("sm_75", "sm_90", "sm_120")  # a minute and a half on one core

# A few bytes are the assembler's choice: it stops at 64, 80 or 128 registers so that more warps fit. Beyond: a reason.
A_FEW = 64
EIGHT = "eight layers: sixteen values per pair are held at once; nobody is known to train with more than three"
SPILLS = {
    "small: small_loss<double, 8, 32, true, false>": EIGHT,
    "small: small_loss<double, 8, 64, true, false>": EIGHT,
    "small: small_loss<float, 8, 32, false, false>": EIGHT,
    "small: small_loss<float, 8, 32, true, false>": EIGHT,
    "small: small_loss<float, 8, 64, true, false>": EIGHT,
    "small: small_loss<double, 8, 64, true, true>": EIGHT,
    "small: small_loss<float, 8, 32, true, true>": EIGHT,
    "small: small_loss<float, 8, 64, true, true>": EIGHT,
}

# Kernels of usual mixtures: instructions per pair in the loop over pairs. That of fused does both products, copies and
# row sums, for as many features as fit into a kernel's registers.
MOST_PER_PAIR = {
    "gemm_pass: gemm_coefficients<float, float, 1, 1>": 25,
    "gemm_pass: gemm_coefficients<float, float, 1, 5>": 35,
    "gemm_pass: gemm_coefficients<float, float, 2, 5>": 50,
    "gemm_pass: gemm_coefficients<float, bf16, 1, 1>": 25,
    "gemm_pass: gemm_coefficients<float, bf16, 1, 5>": 35,
    "gemm_pass: gemm_coefficients<float, bf16, 2, 5>": 45,
    "fused: fused_loss<bf16, 1, 1, 2>": 30,
    "fused: fused_loss<bf16, 1, 1, 5>": 40,
    "fused: fused_loss<bf16, 1, 5, 2>": 42,
    "fused: fused_loss<bf16, 1, 5, 5>": 50,
    "fused: fused_loss<bf16, 2, 5, 2>": 70,
    "fused: fused_loss<bf16, 2, 5, 5>": 85,
}
TENSOR_CORES = {"bf16": ["HMMA.16816.F32.BF16"], "tf32": ["HMMA.1688.F32.TF32"], "tf32x3": ["HMMA.1688.F32.TF32"]}


def check_limits(report):
    """Returns the kernels that spill more than a few bytes."""
    spilling = set()
    for target, kernels in report.items():
        for name, used in kernels.items():
            spills = used["spill_stores"] + used["spill_loads"]
            assert spills <= A_FEW or name in SPILLS, f"{name}, {target}: {spills} bytes"
            spilling |= {name} if spills > A_FEW else set()
            if "per_pair" in used:
                assert used["loop_spills"] == 0, f"{name}, {target}"
            if format := re.match(r"fused: fused_loss<(\w+),", name):
                assert used["matrix"] == ([] if target == "sm_75" else TENSOR_CORES[format[1]]), f"{name}, {target}"
        for name, most in MOST_PER_PAIR.items():
            if target != "sm_75":  # where fused traps, and bf16 and NaN take more
                assert kernels[name]["per_pair"] <= most, f"{name}, {target}"
    return spilling


def test_kernels_are_named_and_their_spills_added_up():
    """Several kernels, one that calls a function, with names as nvcc mangles them."""
    output = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7fastmmd40_GLOBAL__N__d6727685_8_small_cu_e02d94bb12small_kernelIfLi16\
ELNS_4cuda6FormatE1EEEvPT_i' for 'sm_90'
ptxas info    : Function properties for _ZN7fastmmd4callEv
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Function properties for _ZN7fastmmd40_GLOBAL__N__d6727685_8_small_cu_e02d94bb12small_kernelIfLi16\
ELNS_4cuda6FormatE1EEEvPT_i
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, used 1 barriers, 16 bytes cumulative stack size, 64 bytes smem, 364 bytes cmem[0]
ptxas info    : Compile time = 10.441 ms
ptxas info    : Compiling entry function '_ZN7fastmmd6finishEPf' for 'sm_90'
ptxas info    : Function properties for _ZN7fastmmd6finishEPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers
"""
    named = {"registers": 30, "stack": 24, "spill_stores": 4, "spill_loads": 12, "shared": 64}
    small = {"registers": 8, "stack": 0, "spill_stores": 0, "spill_loads": 0, "shared": 0}
    assert cuda_resources.parse(output) == {"small_kernel<float, 16, tf32x3>": named, "finish": small}


def test_the_loop_over_pairs_is_found_and_counted():
    """One of a body for inner tiles and a longer one for edges, in a loop; and a kernel without a loop, whose pairs
    begin behind a barrier."""
    pairs = ["MUFU.EX2 R1, R1", "MUFU.EX2 R2, R2", "FADD R1, R1, R2"]
    body = ["@P0 BRA `(.L_x_1)", *pairs, "FSEL R1, R1, RZ, P1", "BRA `(.L_x_2)", ".L_x_1:", *pairs, ".L_x_2:", "STS R1"]
    loop = ["MOV R1", ".L_x_0:", "HMMA.16816.F32.BF16 R4, R8, R6, R4", *body, "@P2 BRA `(.L_x_0)", "EXIT"]
    straight = ["LDG.E R1", "LDL R2", "BAR.SYNC.DEFER_BLOCKING 0x0", *body, "EXIT"]

    def code(lines):
        return "\n".join([line if line.endswith(":") else f"        /*0000*/  {line} ;" for line in lines])

    counted = cuda_resources.counts("fused_loss<bf16, 2, 5, 5>", code(loop))
    assert counted == {"matrix": ["HMMA.16816.F32.BF16"], "loop_spills": 0, "per_pair": 10.5}
    counted = cuda_resources.counts("gemm_coefficients<float, bf16, 1, 1>", code(straight))
    assert counted["per_pair"] == 4.5  # with what comes before the barrier in its block
    assert cuda_resources.counts("small_loss<float, 2, 32, true, false>", code(loop)) == {
        "matrix": ["HMMA.16816.F32.BF16"],
        "loop_spills": 0,
    }
    assert cuda_resources.counts("nothing", code(["EXIT"])) == {"matrix": []}


@pytest.mark.parametrize("path", sorted(cuda_resources.REPORTS.glob("*.json")), ids=lambda path: path.stem)
def test_reported_kernels_are_within_limits(path):
    report = json.loads(path.read_text())
    spilling = check_limits({target: report[target] for target in cuda_resources.TARGETS})
    assert spilling == SPILLS.keys(), "some spill no longer"


@pytest.fixture(scope="module")
def compiled():
    if cuda_resources.NVCC is None:
        pytest.skip("there is no nvcc here")
    return cuda_resources.compile(SAMPLE)


@pytest.mark.slow
def test_kernels_compile_within_limits(compiled):
    """Whatever nvcc's version."""
    check_limits(compiled)


@pytest.mark.slow
def test_kernels_compile_into_what_the_report_says(compiled):
    version = cuda_resources.version()
    path = cuda_resources.report_path(version)
    reported = json.loads(path.read_text()) if path.exists() else {}
    if reported.get("nvcc") != version:
        pytest.skip(f"no report of nvcc {version}: compares nothing by number")
    for target, kernels in compiled.items():
        message = f"{target}: the kernels changed; renew the report: python -m tests.csrc.cuda_resources"
        assert kernels == reported[target], message
