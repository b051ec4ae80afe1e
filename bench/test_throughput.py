"""The quick cases under pytest-benchmark: ``pytest bench --benchmark-only``.

Forward + backward, one group per case. For ratios, the compiled version and large cases use throughput.py, which runs
the competitors in turns; here each has a few seconds for itself.
"""

from typing import Any

import pytest
import torch

from bench.cases import CASES, Case
from bench.competitors import BLOCKED, DENSE, FASTMMD, NAIVE, Competitor, line_up
from bench.gate import Gate

pytest.importorskip("pytest_benchmark")

MEASURED = [competitor for competitor in line_up() if competitor.name in (FASTMMD, NAIVE, DENSE, BLOCKED)]


@pytest.mark.parametrize("competitor", MEASURED, ids=lambda competitor: competitor.name)
@pytest.mark.parametrize("case", [case for case in CASES if case.quick], ids=lambda case: case.name)
def test_forward_and_backward(benchmark: Any, case: Case, competitor: Competitor) -> None:
    sources, targets = case.inputs()
    loss = competitor.make(case)
    errors, allowed = Gate(case, sources, targets).errors(loss)
    assert errors.within(allowed)
    benchmark.group = case.name
    benchmark.extra_info["threads"] = torch.get_num_threads()
    inputs = [*sources, *targets]
    benchmark(lambda: torch.autograd.grad(loss(sources, targets), inputs))
