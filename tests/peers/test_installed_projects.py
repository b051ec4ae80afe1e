"""The formulas, and fastmmd itself, against the projects where they are installed: pytorch-adapt and geomloss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastmmd
from fastmmd import Gaussian
from tests.peers import formulas
from tests.peers.agreement import Layers, assert_agree, batch, layerwise, one_layer, sizes


def import_peer(name: str) -> object:
    return pytest.importorskip(name, exc_type=ImportError, reason=f"{name} is not installed")


@pytest.mark.parametrize("bandwidth", [None, 7.0])
@pytest.mark.parametrize("num_kernels", [1, 5, 33])
@pytest.mark.parametrize("mmd_type", ["quadratic", "linear"])
@pytest.mark.parametrize("layers", [1, 2])
def test_formula_is_pytorch_adapt(layers: int, mmd_type: str, num_kernels: int, bandwidth: float | None) -> None:
    peer = import_peer("pytorch_adapt.layers")
    get_kernel_scales = import_peer("pytorch_adapt.layers.utils").get_kernel_scales
    scales, peer_scales = (1.0,), 1
    if num_kernels > 1:
        scales = formulas.pytorch_adapt_kernel_scales(num_kernels=num_kernels)
        peer_scales = get_kernel_scales(num_kernels=num_kernels)

    def project(sources: Layers, targets: Layers) -> Tensor:
        loss = peer.MMDLoss(kernel_scales=peer_scales, mmd_type=mmd_type, bandwidth=bandwidth)
        return loss(sources[0], targets[0]) if layers == 1 else loss(list(sources), list(targets))

    formula = layerwise(formulas.pytorch_adapt_mmd, scales, mmd_type=mmd_type, bandwidth=bandwidth)
    for n, m, d in sizes(equal_only=mmd_type == "linear"):
        assert_agree(project, formula, *batch(n, m, d, layers), tolerance=1e-9)


@pytest.mark.parametrize("blur", [0.05, 2.0, 10.0])
def test_formula_is_geomloss(blur: float) -> None:
    geomloss = import_peer("geomloss")
    loss = geomloss.SamplesLoss("gaussian", blur=blur, backend="tensorized")
    for n, m, d in sizes(equal_only=False):
        sources, targets = batch(n, m, d)
        assert_agree(
            lambda s, t: loss(s[0], t[0]),
            one_layer(formulas.geomloss_gaussian, blur=blur),
            sources,
            targets,
            tolerance=1e-9,
        )
        a = torch.linspace(0.1, 1.0, n, dtype=torch.float64)
        b = torch.linspace(1.0, 0.2, m, dtype=torch.float64)
        assert_agree(
            lambda s, t, a=a, b=b: loss(a, s[0], b, t[0]),
            one_layer(formulas.geomloss_gaussian, blur=blur, source_weights=a, target_weights=b),
            sources,
            targets,
            tolerance=1e-9,
        )


@pytest.mark.parametrize("blur", [2.0, 10.0])
def test_fastmmd_is_geomloss(blur: float, backend: str) -> None:
    geomloss = import_peer("geomloss")
    loss = geomloss.SamplesLoss("gaussian", blur=blur, backend="tensorized")
    kernel = Gaussian(2 * blur * blur, (1,))
    for n, m, d in sizes(equal_only=False):
        assert_agree(
            lambda s, t: 0.5 * fastmmd.mmd(s[0], t[0], kernel, backend=backend),
            lambda s, t: loss(s[0], t[0]),
            *batch(n, m, d),
            tolerance=1e-9,
        )


@pytest.mark.parametrize("blur", [2.0, 10.0])
def test_fastmmd_is_geomloss_with_weights(blur: float, backend: str) -> None:
    """Of weights that add up to 1, the softmax of the second layers; gradients in them too."""
    geomloss = import_peer("geomloss")
    loss = geomloss.SamplesLoss("gaussian", blur=blur, backend="tensorized")
    kernel = Gaussian(2 * blur * blur, (1,))

    def project(sources: Layers, targets: Layers) -> Tensor:
        return loss(sources[1].softmax(0), sources[0], targets[1].softmax(0), targets[0])

    def ours(sources: Layers, targets: Layers) -> Tensor:
        weights = {"source_weights": sources[1].softmax(0), "target_weights": targets[1].softmax(0)}
        return 0.5 * fastmmd.mmd(sources[0], targets[0], kernel, backend=backend, **weights)

    for n, m, d in sizes(equal_only=False):
        (x,), (y,) = batch(n, m, d)
        assert_agree(ours, project, [x, x.mean(dim=1)], [y, y.mean(dim=1)], tolerance=1e-9)
