"""Backend "torch" as a route, with tiles of 32 rows."""

import pytest

from fastmmd.backends import torch_tiles
from tests.routes import FormTests, Route

TORCH = Route(name="torch", backend=torch_tiles, config=torch_tiles.Config(workspace_bytes=1))


class TestForms(FormTests):
    @pytest.fixture
    def route(self):
        return TORCH
