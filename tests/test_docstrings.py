"""Examples in docstrings are run."""

import doctest
from importlib import import_module

import pytest

MODULES = ["functional", "gaussian", "modules"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = import_module(f"fastmmd.{name}")
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0
