"""What the public names say of themselves: every one has an example, and every example runs."""

import doctest
import inspect
from importlib import import_module

import pytest

import fastmmd

PUBLIC = fastmmd.__all__
MODULES = sorted({getattr(fastmmd, name).__module__ for name in PUBLIC})


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    failed, tried = doctest.testmod(import_module(name))
    assert failed == 0
    assert tried >= 2


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_says_what_it_takes_and_shows_it(name):
    """Arguments, what comes back or is raised, and an example; modules defer to the functions they call."""
    documented = getattr(fastmmd, name)
    text = inspect.getdoc(documented)
    assert "Example:" in text
    assert ">>>" in text
    parameters = [p for p in inspect.signature(documented).parameters if p != "self"]
    for parameter in parameters:
        assert f"{parameter}:" in text or f"{parameter}," in text or f", {parameter}" in text, parameter


@pytest.mark.parametrize("name", ["discrepancy", "mmd", "jmmd", "Gaussian"])
def test_errors_are_documented(name):
    assert "Raises:" in inspect.getdoc(getattr(fastmmd, name))
