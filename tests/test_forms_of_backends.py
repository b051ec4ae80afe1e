"""Calls with a form on the backends "cpu", in every variant that runs here, and "torch", in one tile and in many."""

import pytest
import torch

from fastmmd import dispatch, extension
from fastmmd.backends import cpu, torch_tiles
from tests.routes import FormTests, Route

UNAVAILABLE = dispatch.unavailable("cpu", torch.device("cpu"))
VARIANTS = [] if extension.module is None else extension.module.cpu_variants()
ROUTES = [
    *[Route(name=f"cpu {name}", backend=cpu, config=cpu.Config(index)) for index, name in enumerate(VARIANTS)],
    Route(name="torch", backend=torch_tiles, config=None),
    Route(name="torch in tiles of 32 rows", backend=torch_tiles, config=torch_tiles.Config(workspace_bytes=1)),
]


class TestForms(FormTests):
    @pytest.fixture(params=ROUTES, ids=lambda route: route.name)
    def route(self, request):
        if request.param.backend is cpu and UNAVAILABLE is not None:
            pytest.skip(f"backend cpu: {UNAVAILABLE}")
        return request.param
