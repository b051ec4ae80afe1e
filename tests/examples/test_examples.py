"""The examples run, as they are but for fewer steps, and say what they say of themselves."""

import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def threads():
    """An example may set them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_domain_generalisation_learns_with_and_without_the_mmd(capsys):
    """Features that shrink to nothing would leave 10 %, one class of ten."""
    runpy.run_path(str(EXAMPLES / "domain_generalisation.py"))["main"](seeds=2, steps=100)
    rows = re.findall(r"\| turned by (\d+) degrees \| ([\d.]+) \+- [\d.]+ \| ([\d.]+) \+-", capsys.readouterr().out)
    assert [int(angle) for angle, *_ in rows] == [0, 25, 50, 75]
    without, with_mmd = (torch.tensor([float(row[column]) for row in rows]) for column in (1, 2))
    assert without.min() > 20
    assert with_mmd.min() > 20
    assert not without.equal(with_mmd)
