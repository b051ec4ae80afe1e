"""fastmmd gives what other projects' losses give, in float64, values and gradients; docs/migration.md says how."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastmmd
from fastmmd import Gaussian
from tests.peers import formulas
from tests.peers.agreement import TOLERANCE, Layers, Loss, assert_agree, batch, sizes
from tests.peers.estimators import lower_median_of_source, mean_off_diagonal, pooled_squared_distances
from tests.peers.migration import (
    MIGRATION,
    TRVAE_MULTIPLIERS,
    WEIGHTED,
    Row,
    WeightedRow,
    weighted_batch,
    with_weights,
)


def fastmmd_call(row: Row, backend: str) -> Loss:
    """The right-hand side of the table: scale * discrepancy + constant(n)."""

    def loss(sources: Layers, targets: Layers) -> Tensor:
        kernels = row.kernels(sources) if callable(row.kernels) else row.kernels
        options = {"estimator": row.estimator, "backend": backend}
        if row.layers == 1:
            estimate = fastmmd.mmd(sources[0], targets[0], kernels[0], **options)
        else:
            estimate = fastmmd.jmmd(sources, targets, kernels, **options)
        return row.scale * estimate + row.constant(len(sources[0]))

    return loss


@pytest.mark.parametrize("row", MIGRATION, ids=lambda row: row.peer)
def test_migration(row: Row, backend: str) -> None:
    for n, m, d in sizes(row.equal_sizes):
        sources, targets = batch(n, m, d, row.layers)
        assert_agree(fastmmd_call(row, backend), row.formula, sources, targets, scale=row.scale)


DOCUMENTED = dict(
    re.findall(
        r"^\| `(.+)` \| `(.+)` \|$", (Path(__file__).parents[2] / "docs" / "migration.md").read_text(), re.MULTILINE
    )
)


def test_the_documented_calls_are_these() -> None:
    assert set(DOCUMENTED) == {row.peer for row in (*MIGRATION, *WEIGHTED)}


@pytest.mark.parametrize("row", MIGRATION, ids=lambda row: row.peer)
def test_a_documented_call_gives_the_peers_value(row: Row) -> None:
    for n, m, d in sizes(row.equal_sizes):
        sources, targets = batch(n, m, d, row.layers)
        medians = [lower_median_of_source(source) for source in sources]
        names = {"x": sources[0], "y": targets[0], "xs": sources, "ys": targets, "b": medians[0], "bs": medians, "n": n}
        functions = {"mmd": fastmmd.mmd, "jmmd": fastmmd.jmmd, "Gaussian": Gaussian}
        value = eval(DOCUMENTED[row.peer], functions | names)
        torch.testing.assert_close(value, row.formula(sources, targets), rtol=TOLERANCE, atol=TOLERANCE * row.scale)


@pytest.mark.parametrize("row", MIGRATION, ids=lambda row: row.peer)
def test_migration_far_from_the_origin(row: Row, backend: str) -> None:
    """Features of mean 100: none of the losses depends on a common shift."""
    sources, targets = batch(8, 8, 17, row.layers, offset=100.0)
    assert_agree(fastmmd_call(row, backend), row.formula, sources, targets, scale=row.scale)


def assert_documented_call_agrees(row: WeightedRow, tensors: dict[str, Tensor], backend: str) -> None:
    """In value and gradients of the row's variables."""
    names = ("mmd", "lmmd", "pairwise_mmd", "kernel_forms")
    functions = {name: partial(getattr(fastmmd, name), backend=backend) for name in names}
    functions |= {"Gaussian": Gaussian, "torch": torch, "MULTIPLIERS": TRVAE_MULTIPLIERS}

    def changed(variables: Layers) -> dict[str, Tensor]:
        return with_weights(tensors | dict(zip(row.variables, variables, strict=True)))

    assert_agree(
        lambda variables, _: eval(DOCUMENTED[row.peer], functions | changed(variables)),
        lambda variables, _: row.theirs(changed(variables)),
        [tensors[name] for name in row.variables],
        [],
    )


@pytest.mark.parametrize("row", WEIGHTED, ids=lambda row: row.peer)
def test_migration_with_weights_of_pairs(row: WeightedRow, backend: str) -> None:
    for n, m, d in sizes(row.equal_sizes):
        assert_documented_call_agrees(row, weighted_batch(n, m, d), backend)


@pytest.mark.parametrize("row", WEIGHTED, ids=lambda row: row.peer)
def test_migration_with_weights_of_pairs_far_from_the_origin(row: WeightedRow, backend: str) -> None:
    assert_documented_call_agrees(row, weighted_batch(8, 8, 17, offset=100.0), backend)


@pytest.mark.parametrize("estimator", ["unbiased", "circular"])
def test_dan_and_jan_in_one_pass(estimator: str, backend: str) -> None:
    """0.2 JAN + 0.3 DAN of the features: elsewhere two losses, here one pass."""
    jan, dan = {
        "unbiased": (formulas.xlearn_jan, formulas.xlearn_dan),
        "circular": (formulas.xlearn_jan_linear, formulas.xlearn_dan_linear),
    }[estimator]
    kernels = (Gaussian("mean", (0.25, 0.5, 1, 2, 4)), Gaussian(1.68, (1,)))

    def one_pass(sources: Layers, targets: Layers) -> fastmmd.Discrepancy:
        return fastmmd.discrepancy(
            sources,
            targets,
            kernels,
            joint=0.2,
            marginal=(0.3, 0.0),
            estimator=estimator,
            backend=backend,
        )

    for n, m, d in sizes(equal_only=True):
        sources, targets = batch(n, m, d, layers=2)
        assert_agree(
            lambda s, t: one_pass(s, t).loss,
            lambda s, t: 0.2 * jan(s, t) + 0.3 * dan(s[0], t[0]),
            sources,
            targets,
        )
        parts = one_pass(sources, targets)
        assert parts.joint.item() == pytest.approx(jan(sources, targets).item(), rel=TOLERANCE, abs=TOLERANCE)
        assert parts.marginals[0].item() == pytest.approx(
            dan(sources[0], targets[0]).item(), rel=TOLERANCE, abs=TOLERANCE
        )
        distances = pooled_squared_distances(sources[0], targets[0])
        assert parts.bandwidths.tolist() == pytest.approx([mean_off_diagonal(distances).item(), 1.68], rel=TOLERANCE)
