"""What must hold of any discrepancy between distributions, whatever computes it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastmmd
from fastmmd import Gaussian
from tests.form_calls import FORM_CALLS
from tests.helpers import FAST, JAN, evaluate, layers, relative

BACKENDS = [*FAST, "reference"]
QUADRATIC = ("biased", "unbiased")


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 40), m=st.integers(2, 40), seed=st.integers(0, 99), estimator=st.sampled_from(QUADRATIC))
def test_shift_permutation_and_swap(backend, n, m, seed, estimator):
    options = {"estimator": estimator, "backend": backend}
    sources, targets = layers(n, (5, 3), seed), layers(m, (5, 3), seed + 1, 0.5)
    before = evaluate(sources, targets, **options)
    shifted = evaluate([x + 3.25 for x in sources], [x + 3.25 for x in targets], **options)
    torch.testing.assert_close(shifted.loss, before.loss, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(shifted.gradients, before.gradients, rtol=1e-9, atol=1e-13)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    permuted = evaluate([x[order] for x in sources], targets, **options)
    torch.testing.assert_close(permuted.loss, before.loss, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(permuted.gradients[0], before.gradients[0][order], rtol=1e-9, atol=1e-13)
    swapped = evaluate(targets, sources, **options)
    torch.testing.assert_close(swapped.loss, before.loss, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(swapped.gradients[2], before.gradients[0], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_samples_have_no_discrepancy(backend, dtype):
    x = layers(50, (20, 4), 0, dtype=dtype)
    result = evaluate(x, x, joint=0.5, marginal=0.5, backend=backend)
    epsilon = torch.finfo(dtype).eps
    assert 0 <= result.loss.item() <= 4 * epsilon
    assert max(g.abs().max().item() for g in result.gradients) <= 10 * epsilon


@pytest.mark.parametrize("backend", BACKENDS)
def test_biased_is_never_negative_unbiased_can_be(backend):
    unbiased = []
    for seed in range(20):
        x, y = (layers(9, (3,), number, dtype=torch.float32)[0] for number in (seed, seed + 50))
        assert fastmmd.mmd(x, x.flip(0), backend=backend) >= 0  # 0 but for round-off
        unbiased.append(fastmmd.mmd(x, y, estimator="unbiased", backend=backend).item())
    assert min(unbiased) < 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_rows_add_up_to_zero(backend):
    """A common shift of all rows changes nothing."""
    result = evaluate(layers(31, (7, 3), 0), layers(20, (7, 3), 1, 1.0), backend=backend)
    for layer in range(2):
        total = result.gradients[layer].sum(0) + result.gradients[2 + layer].sum(0)
        assert total.abs().max() < 1e-15


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_pass_equals_the_sum_of_its_terms(backend):
    """He & Ding's transfer term in one pass, against its parts one at a time."""
    sources, targets = layers(30, (9, 4), 0), layers(22, (9, 4), 1, 0.5)
    whole = evaluate(sources, targets, joint=0.2, marginal=(0.3, 0.1), backend=backend)
    joint = evaluate(sources, targets, backend=backend)
    parts = [evaluate([s], [t], [k], backend=backend) for s, t, k in zip(sources, targets, JAN, strict=True)]
    torch.testing.assert_close(whole.loss, 0.2 * joint.loss + 0.3 * parts[0].loss + 0.1 * parts[1].loss)
    torch.testing.assert_close(whole.joint, joint.loss)
    torch.testing.assert_close(whole.marginals, torch.stack([p.loss for p in parts]))
    for layer, weight in enumerate((0.3, 0.1)):
        for side in range(2):
            expected = 0.2 * joint.gradients[2 * side + layer] + weight * parts[layer].gradients[side]
            torch.testing.assert_close(whole.gradients[2 * side + layer], expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_constant_layer_changes_nothing(backend):
    """k = 1 everywhere on it: the product is that of the other layers."""
    source, target = layers(20, (6,), 0)[0], layers(15, (6,), 1, 0.5)[0]
    constant = [torch.full((n, 3), 0.1, dtype=torch.float64) for n in (20, 15)]
    joint = evaluate(
        [source, constant[0]], [target, constant[1]], (Gaussian(), Gaussian("mean", (1,))), backend=backend
    )
    alone = evaluate([source], [target], (Gaussian(),), backend=backend)
    torch.testing.assert_close(joint.loss, alone.loss)
    torch.testing.assert_close(joint.gradients[0], alone.gradients[0])
    assert not joint.gradients[1].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("estimator", [*QUADRATIC, "linear", "circular"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("detach", [True, False])
def test_constant_features_give_zero_not_nan(backend, estimator, dtype, detach):
    source, target = (torch.full((12, 7), 0.1, dtype=dtype, requires_grad=True) for _ in range(2))
    loss = fastmmd.mmd(source, target, Gaussian(detach_bandwidth=detach), estimator=estimator, backend=backend)
    assert abs(loss.item()) < 1e-14
    for gradient in torch.autograd.grad(loss, (source, target)):
        assert not gradient.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_not_hidden(backend, bad):
    source, target = layers(40, (7,), 0)[0].detach().float(), layers(40, (7,), 1)[0].detach().float()
    source[3, 2] = bad
    source.requires_grad_()
    loss = fastmmd.mmd(source, target, backend=backend)
    assert loss.isnan()
    assert torch.autograd.grad(loss, source)[0].isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_far_apart_domains(backend):
    """Cross kernels underflow to 0: the loss is that of two separate samples, gradients are finite. (In fp32 distances
    carry an error of about 1e-7 of the squared gap, here 1e-3.)"""
    source, target = layers(10, (4,), 0, dtype=torch.float32)[0], layers(10, (4,), 1, 50.0, torch.float32)[0]
    kernels = (Gaussian(1.0, (1, 2, 4)),)
    result = evaluate([source], [target], kernels, backend=backend)
    exact = evaluate([source], [target], kernels, torch.float64, backend="reference")
    assert result.loss.item() == pytest.approx(exact.loss.item(), rel=1e-3)
    assert all(relative(f, e) < 1e-2 for f, e in zip(result.gradients, exact.gradients, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_are_never_written(backend):
    sources, targets = layers(33, (9, 4), 0, dtype=torch.float32), layers(20, (9, 4), 1, dtype=torch.float32)
    copies = [x.detach().clone() for x in (*sources, *targets)]
    versions = [x._version for x in (*sources, *targets)]
    fastmmd.jmmd(sources, targets, backend=backend).backward()
    for x, copy, version in zip((*sources, *targets), copies, versions, strict=True):
        assert torch.equal(x.detach(), copy)
        assert x._version == version


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("n", [40, 700])
def test_same_bits_every_time(backend, n):
    sources, targets = layers(n, (33, 4), 0, dtype=torch.float32), layers(n, (33, 4), 1, dtype=torch.float32)
    first = evaluate(sources, targets, backend=backend)
    for _ in range(4):
        again = evaluate(sources, targets, backend=backend)
        assert torch.equal(again.loss, first.loss)
        assert all(torch.equal(a, b) for a, b in zip(again.gradients, first.gradients, strict=True))


@pytest.mark.parametrize("n", [40, 200, 700])
def test_cpu_bits_do_not_depend_on_the_thread_count(n):
    pytest.importorskip("fastmmd._C")
    sources, targets = layers(n, (100, 4), 0, dtype=torch.float32), layers(n, (100, 4), 1, dtype=torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results.append(evaluate(sources, targets, backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert torch.equal(other.loss, results[0].loss)
        assert all(torch.equal(a, b) for a, b in zip(other.gradients, results[0].gradients, strict=True))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("count", [6, 17, 64])
def test_long_chains_of_ratio_two_stay_exact(backend, count):
    """Squaring doubles the relative error each time; a long chain must not eat the digits."""
    kernel = Gaussian(1.0, tuple(2.0 ** (q - count / 2) for q in range(count)))
    sources, targets = layers(20, (5,), 0, dtype=torch.float32), layers(20, (5,), 1, 0.5, torch.float32)
    exact = evaluate(sources, targets, (kernel,), torch.float64, backend="reference")
    result = evaluate(sources, targets, (kernel,), backend=backend)
    assert result.loss.item() == pytest.approx(exact.loss.item(), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_median_of_zero_stands_for_its_limit(backend, dtype):
    """Most rows coincide but the domains differ: k is 1 at distance 0 and 0 beyond."""
    source = torch.zeros(10, 2, dtype=dtype, requires_grad=True)
    target = torch.tensor([[1.0, 1.0]] * 3 + [[0.0, 0.0]] * 7, dtype=dtype, requires_grad=True)
    loss = fastmmd.mmd(source, target, Gaussian("median", (1,)), backend=backend)
    assert loss.item() == pytest.approx(1 + (0.3**2 + 0.7**2) - 2 * 0.7, rel=1e-5)
    for gradient in torch.autograd.grad(loss, (source, target)):
        assert not gradient.any()


@pytest.mark.parametrize("backend", FAST)
def test_threads_that_call_at_once(backend):
    """The interpreter lock is released while a backend computes; precisions of other threads do not leak."""
    sources, targets = layers(200, (33, 4), 0, dtype=torch.float32), layers(150, (33, 4), 1, dtype=torch.float32)
    expected = evaluate(sources, targets, backend=backend, precision="ieee")
    before = torch.get_float32_matmul_precision()
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(evaluate, sources, targets, backend=backend, precision=precision)
            for precision in ("ieee", "tf32") * 8
        ]
        results = [call.result() for call in calls][::2]
    assert torch.get_float32_matmul_precision() == before
    for result in results:
        torch.testing.assert_close(result.loss, expected.loss, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("backend", FAST)
def test_torchs_precision_settings_do_not_reach_an_ieee_result(backend):
    sources, targets = layers(64, (256, 4), 0, dtype=torch.float32), layers(64, (256, 4), 1, dtype=torch.float32)
    expected = evaluate(sources, targets, backend=backend, precision="ieee")
    setting = torch.backends.mkldnn.matmul if hasattr(torch.backends.mkldnn, "matmul") else None
    if setting is None:
        pytest.skip("this torch has one setting for all backends")
    before = setting.fp32_precision
    try:
        setting.fp32_precision = "bf16"
        result = evaluate(sources, targets, backend=backend, precision="ieee")
        evaluate(sources, targets, backend=backend)
        assert setting.fp32_precision == "bf16"
    finally:
        setting.fp32_precision = before
    assert torch.equal(result.loss, expected.loss)
    assert all(torch.equal(a, b) for a, b in zip(result.gradients, expected.gradients, strict=True))


# Weights of pairs -----------------------------------------------------------------------------------------------------

every_form = pytest.mark.parametrize("call", FORM_CALLS.values(), ids=FORM_CALLS.keys())


def form_and_gradients(call, inputs, backend):
    loss = call.loss(*inputs, backend=backend)
    return [loss, *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("n", [40, pytest.param(500, id="many_rows")])
@every_form
def test_forms_have_the_same_bits_every_time(backend, n, call):
    inputs = call.inputs(n, 33, dtype=torch.float32)
    first = form_and_gradients(call, inputs, backend)
    for _ in range(2):
        again = form_and_gradients(call, inputs, backend)
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


@pytest.mark.parametrize("n", [40, 500])
@every_form
def test_cpu_bits_of_forms_do_not_depend_on_the_thread_count(n, call):
    pytest.importorskip("fastmmd._C")
    inputs = call.inputs(n, 33, dtype=torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(form_and_gradients(call, inputs, "cpu"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@every_form
def test_a_common_shift_changes_no_form(backend, call):
    """Nor has any form a gradient along it."""
    x, other = call.inputs()
    before = form_and_gradients(call, (x, other), backend)
    after = form_and_gradients(call, (x + 3.25, other), backend)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)
    assert before[1].sum(0).abs().max() < 1e-13


@pytest.mark.parametrize("backend", FAST)
@every_form
def test_forms_write_no_input(backend, call):
    inputs = call.inputs(33, 9, dtype=torch.float32)
    copies, versions = [x.detach().clone() for x in inputs], [x._version for x in inputs]
    call.loss(*inputs, backend=backend).backward()
    for x, copy, version in zip(inputs, copies, versions, strict=True):
        assert torch.equal(x.detach(), copy)
        assert x._version == version


@pytest.mark.parametrize("backend", FAST)
@every_form
def test_threads_that_compute_forms_at_once(backend, call):
    inputs = call.inputs(100, 9, dtype=torch.float32)
    expected = form_and_gradients(call, inputs, backend)
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(form_and_gradients, call, inputs, backend) for _ in range(8)]
    for result in results:
        torch.testing.assert_close(result.result(), expected, rtol=1e-6, atol=1e-8)
