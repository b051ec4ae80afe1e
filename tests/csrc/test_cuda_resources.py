"""Every CUDA kernel compiles into what the committed report says, and spills nothing that isn't meant to.

Registers and spills depend on nvcc's version, so the report holds for one. It covers every target; some are compiled
again here. To renew it: `python -m tests.csrc.cuda_resources` (four minutes on one core).
"""

from __future__ import annotations

import json

import pytest

from tests.csrc import cuda_resources

SAMPLE = ("sm_75", "sm_90", "sm_120")  # a minute and a half on one core

# A few bytes are the assembler's choice: it stops at 64, 80 or 128 registers so that more warps fit. Beyond: a reason.
A_FEW = 64
EIGHT = "eight layers: sixteen values per pair are held at once; nobody is known to train with more than three"
SHARED = "held to 128 registers, so that two thread blocks share a multiprocessor"
SPILLS = {
    "fused: fused_loss<bf16, 2, 2>": SHARED,
    "gemm_pass: gemm_coefficients<double, 8>": EIGHT,
    "small: small_loss<double, 8, 32, true>": EIGHT,
    "small: small_loss<double, 8, 64, true>": EIGHT,
    "small: small_loss<float, 8, 32, false>": EIGHT,
    "small: small_loss<float, 8, 32, true>": EIGHT,
    "small: small_loss<float, 8, 64, true>": EIGHT,
}


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


@pytest.mark.parametrize("path", sorted(cuda_resources.REPORTS.glob("*.json")), ids=lambda path: path.stem)
def test_no_kernel_spills_without_a_reason(path):
    report = json.loads(path.read_text())
    spilling = set()
    for target in cuda_resources.TARGETS:
        for name, resources in report[target].items():
            spills = resources["spill_stores"] + resources["spill_loads"]
            assert spills <= A_FEW or name in SPILLS, f"{name}, {target}: {spills} bytes"
            spilling |= {name} if spills > A_FEW else set()
    assert spilling == SPILLS.keys(), "some spill no longer"


@pytest.mark.slow
@pytest.mark.skipif(cuda_resources.NVCC is None, reason="there is no nvcc here")
def test_kernels_compile_into_what_the_report_says():
    version = cuda_resources.version()
    path = cuda_resources.report_path(version)
    reported = json.loads(path.read_text()) if path.exists() else {}
    if reported.get("nvcc") != version:
        pytest.skip(f"no report of nvcc {version}: compares nothing by number")
    for target, kernels in cuda_resources.compile(SAMPLE).items():
        message = f"{target}: the kernels changed; renew the report: python -m tests.csrc.cuda_resources"
        assert kernels == reported[target], message
