from __future__ import annotations

import pytest

import fastmmd


@pytest.fixture(params=["reference", "torch", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    reason = fastmmd.build_info()["backends"][request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param} can't run here: {reason}")
    return request.param
