"""The compiled CPU kernels where features are far larger than the bandwidth: as right as plain differences of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastmmd import Gaussian
from fastmmd.backends import cpu
from tests.helpers import call_of, relative

compiled = pytest.importorskip("fastmmd._C")
VARIANTS = compiled.cpu_variants()
every_variant = pytest.mark.parametrize("variant", range(len(VARIANTS)), ids=VARIANTS)
SHARP = Gaussian(1.0, (1,))


def run(sources, targets, kernels=(SHARP,), variant=0, estimator="biased", needs_grad=None):
    """Loss and gradients of one instruction-set variant."""
    call = call_of(sources, targets, kernels, estimator=estimator, needs_grad=needs_grad)
    loss, _, gradients, _ = cpu.run(call, cpu.Config(variant))
    return loss, gradients


def by_definition(sources, targets, kernels=(SHARP,), dtype=torch.float64):
    """The biased loss and its gradients from dense differences of rows in `dtype`, with numbers as bandwidths."""
    leaves = [x.detach().to(dtype, copy=True).requires_grad_() for x in (*sources, *targets)]
    count, n = len(sources), len(sources[0])
    product: Tensor | float = 1.0
    for x, y, kernel in zip(leaves[:count], leaves[count:], kernels, strict=True):
        z = torch.cat([x, y])
        bandwidth = kernel.bandwidth
        distances = torch.stack([(row - z).square().sum(1) for row in z])
        if bandwidth == "mean":
            bandwidth = distances.detach().sum() / (len(z) * (len(z) - 1))
        product = product * sum(torch.exp(-distances / (m * bandwidth)) for m in kernel.multipliers)
    loss = product[:n, :n].mean() + product[n:, n:].mean() - 2 * product[:n, n:].mean()
    return loss.detach(), torch.autograd.grad(loss, leaves)


def assert_as_right_as_differences(result, sources, targets, kernels=(SHARP,), floor=2e-6):
    """Error at most three times that of differences in the inputs' computing dtype, and a few ulps."""
    loss, gradients = result
    truth, true_gradients = by_definition(sources, targets, kernels)
    plain, plain_gradients = by_definition(sources, targets, kernels, loss.dtype)
    assert abs(loss.double() - truth) <= 3 * abs(plain.double() - truth) + 0.25 * floor
    for gradient, plain_gradient, exact in zip(gradients, plain_gradients, true_gradients, strict=True):
        assert relative(gradient, exact) <= 3 * relative(plain_gradient, exact) + floor


def two_clusters(n, m, dim, gap, dtype=torch.float32, seed=0):
    """Rows within about 1 of each other, in two clusters `gap` apart that both domains share."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n + m, dim, generator=generator, dtype=torch.float64) / (4 * dim) ** 0.5
    side = torch.randint(0, 2, (n + m, 1), generator=generator)
    direction = torch.randn(dim, generator=generator, dtype=torch.float64)
    z = z + side * gap * direction / direction.norm()
    z[n:] += 0.3 / dim**0.5
    return z[:n].to(dtype), z[n:].to(dtype)


@every_variant
@pytest.mark.parametrize("gap", [30.0, 3e3, 1e5, 1e8])
@pytest.mark.parametrize(("n", "m", "dim"), [(64, 64, 2), (33, 31, 300), (5, 70, 1)])
def test_two_far_clusters(variant, gap, n, m, dim):
    x, y = two_clusters(n, m, dim, gap)
    assert_as_right_as_differences(run([x], [y], variant=variant), [x], [y])


@every_variant
@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(1, 70),
    m=st.integers(1, 70),
    dim=st.sampled_from([1, 2, 7, 33, 260]),
    ratio=st.floats(0, 16),
    offset=st.sampled_from([0.0, 100.0]),
)
def test_any_ratio_of_size_to_bandwidth(variant, n, m, dim, ratio, offset):
    """Where products are kept, they lose six bits at most."""
    x, y = two_clusters(n, m, dim, 10 ** (ratio / 2))
    x, y = x + offset, y + offset
    assert_as_right_as_differences(run([x], [y], variant=variant), [x], [y], floor=1e-4)


@every_variant
@pytest.mark.parametrize(("far", "kernel"), [(1e5, SHARP), (1e5, Gaussian()), (1e30, SHARP)])
def test_one_far_row(variant, far, kernel):
    x, y = two_clusters(64, 64, 8, 0.0)
    x[3] = far
    assert_as_right_as_differences(run([x], [y], (kernel,), variant), [x], [y], (kernel,))


@every_variant
def test_joint_of_a_far_layer_and_an_ordinary_one(variant):
    x, y = two_clusters(70, 45, 9, 1e5)
    p, q = torch.randn(70, 5).softmax(1), torch.randn(45, 5).softmax(1)
    for order in (1, -1):
        kernels = (SHARP, Gaussian(1.68, (1,)))[::order]
        sources, targets = [x, p][::order], [y, q][::order]
        assert_as_right_as_differences(run(sources, targets, kernels, variant), sources, targets, kernels)


@every_variant
def test_fp64(variant):
    x, y = two_clusters(40, 30, 5, 1e7, torch.float64)
    result, exact = run([x], [y], variant=variant), by_definition([x], [y])
    assert result[0].item() == pytest.approx(exact[0].item(), abs=1e-14)
    for gradient, truth in zip(result[1], exact[1], strict=True):
        assert relative(gradient, truth) < 1e-13


@every_variant
@pytest.mark.parametrize(("dtype", "gap"), [(torch.float16, 3e4), (torch.bfloat16, 1e6)])
def test_half_inputs(variant, dtype, gap):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 3, generator=generator).to(dtype) for n in (50, 60))
    x[::2] = gap
    y[::3] = gap
    loss, gradients = run([x], [y], variant=variant)
    assert_as_right_as_differences((loss, gradients), [x.float()], [y.float()])


@every_variant
@pytest.mark.parametrize("size", [-60, 60])
def test_far_rows_of_extreme_size(variant, size):
    """A power of two in features and bandwidth changes no digit, though squares leave fp32's range."""
    x, y = two_clusters(20, 30, 4, 1e5)
    usual, usual_gradients = run([x], [y], variant=variant)
    kernel = Gaussian(2.0 ** (2 * size), (1,))
    loss, gradients = run([x * 2.0**size], [y * 2.0**size], (kernel,), variant)
    assert loss == usual
    for gradient, usual_gradient in zip(gradients, usual_gradients, strict=True):
        torch.testing.assert_close(gradient * 2.0**size, usual_gradient, rtol=0, atol=0)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_are_at_distance_zero(variant, dtype):
    """The sharpest kernel tells equal rows from all others, so the loss counts them."""
    x = 1e3 * torch.randn(8, 50, dtype=dtype)
    sharp = (Gaussian(1e-30, (1,)),)
    assert run([x], [x.clone()], sharp, variant)[0] == 0
    assert run([x], [x.nextafter(x + 1)], sharp, variant)[0] == 2 / 8


@every_variant
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_and_infinity_give_nan(variant, poison):
    x, y = two_clusters(40, 30, 4, 1e5)
    x[7, 1] = poison
    assert run([x], [y], variant=variant)[0].isnan()


def test_bits_do_not_depend_on_threads():
    x, y = two_clusters(400, 301, 20, 1e4)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        loss, gradients = run([x], [y])
        torch.set_num_threads(2)
        again, gradients_again = run([x], [y])
    finally:
        torch.set_num_threads(threads)
    assert_as_right_as_differences((loss, gradients), [x], [y])
    assert loss == again
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_again, strict=True))


def test_strided_rows_and_one_gradient():
    x, y = two_clusters(40, 33, 12, 1e4)
    wide, steps = torch.full((40, 20), torch.nan), torch.full((66, 12), torch.nan)
    wide[:, 3:15], steps[::2] = x, y
    loss, gradients = run([x], [y])
    again, gradients_again = run([wide[:, 3:15]], [steps[::2]], needs_grad=(False, True))
    assert loss == again
    assert gradients_again[0] is None
    assert torch.equal(gradients_again[1], gradients[1])
