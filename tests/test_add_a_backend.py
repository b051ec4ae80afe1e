"""The backend that docs/add_a_backend.md prints, as it is printed."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fastmmd import dispatch
from tests.helpers import JAN, evaluate, layers
from tests.routes import Route, RouteTests, check, exact, route_call

PAGE = Path(__file__).parents[1] / "docs" / "add_a_backend.md"
toy = ModuleType("toy")
exec(re.search(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1], toy.__dict__)
TOY = Route(name="toy", backend=toy, config=None)


class TestPrinted(RouteTests):
    @pytest.fixture
    def route(self):
        return TOY


def test_its_name_is_all_that_the_public_functions_need(monkeypatch):
    monkeypatch.setitem(dispatch.BACKENDS, "toy", toy)
    monkeypatch.setattr(dispatch, "NAMES", (*dispatch.NAMES, "toy"))
    sources, targets = layers(20, (9, 4), 1), layers(15, (9, 4), 2, 0.3)
    expected, result = (evaluate(sources, targets, backend=name) for name in ("reference", "toy"))
    torch.testing.assert_close(result, expected)
    many = [torch.zeros(toy.MOST_ROWS, 1)]
    with pytest.raises(ValueError, match=r"'toy' can't compute this: it takes at most 4096 rows, got 8192.*'torch'"):
        evaluate(many, many, JAN[:1], backend="toy")


def test_autocast_does_not_reach_it():
    call = route_call(layers(20, (16,), 1, dtype=torch.float32), layers(15, (16,), 2, 0.3, torch.float32), JAN[:1])
    with torch.autocast("cpu", torch.bfloat16):
        result = TOY.run(call)
    check(result, exact(call), 4e-6)
