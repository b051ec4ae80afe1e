"""Sums up skipped tests by reason. Under CI (FASTMMD_CI, set by .ci/run) a reason that is not listed here fails the
run, so that nothing stays untested unseen."""

import os
import re
from collections import Counter

import pytest

EXPECTED = (
    # Combinations of parameters that mean nothing, or that cost more than they could show.
    r"plain torch whatever the backend",
    r"the loss has a single term",
    r"computes another loss",
    r"the projects' own losses stand for it",
    r"its round-off is large beside the narrowest Gaussian",
    r"products around the mean",
    r"a GPU can't see it without waiting",
    r"this torch has one setting for all backends",
    r"\w+ takes at most \d+ layers of \d+ features",
    r"\w+ takes at most \d+ columns of W",
    r"this route has no such values",
    r"its interpreter takes (too )?long",
    # Run in processes of their own, by tests/kernels/test_interpreter.py and tests/cuda/test_on_host.py.
    r"needs Triton's interpreter",
    r"((backend )?\w+: )?it computes on CUDA( and ROCm)? devices, the tensors are on cpu",
    r"(cuda|triton) runs here",
    # No GPU, and perhaps no kernels for one.
    r"no CUDA device",
    r"there is no nvcc here",
    r"nvcc < 12\.8 knows fewer",
    r"((backend )?cuda: )?fastmmd was installed without CUDA kernels: (no nvcc was found|built with FASTMMD_CUDA=off)",
    # Packages that only a comparison needs, and pictures that a user brings.
    r"(pytorch_adapt.*|geomloss) is not installed",
    r"not installed$",
    r"no icon sets",
)


def _reasons(config: pytest.Config) -> Counter[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")  # a worker of pytest-xdist has none
    skipped = reporter.stats.get("skipped", []) if reporter else []
    return Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)


def _unexpected(reason: str) -> bool:
    return "FASTMMD_CI" in os.environ and not any(re.match(pattern, reason) for pattern in EXPECTED)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and any(
        map(_unexpected, _reasons(session.config))
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reasons = _reasons(config)
    if reasons:
        terminalreporter.section("skipped")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5}  {reason}{'  <- UNEXPECTED' if _unexpected(reason) else ''}")
