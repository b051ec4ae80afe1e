"""torch.compile, torch.func, autocast, inference mode, the custom ops."""

import pytest
import torch
from torch.utils._pytree import tree_map_only

import fastmmd
from fastmmd import Gaussian, median
from tests.form_calls import FORM_CALLS
from tests.helpers import FAST, layers

KERNELS = {
    "mean": Gaussian(),
    "mean undetached": Gaussian(detach_bandwidth=False),
    "median": Gaussian("median"),
    "number": Gaussian(2.0, (1, 2, 4)),
    "tensor": Gaussian(torch.tensor(2.0, dtype=torch.float64)),
}


def pair(n=9, m=7, dim=4, seed=0):
    return layers(n, (dim,), seed)[0], layers(m, (dim,), seed + 1, 0.5)[0]


@pytest.mark.parametrize("backend", [*FAST, "reference"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_compile_fullgraph(backend, kernel):
    torch.compiler.reset()

    def step(source, target):
        return 2 * fastmmd.mmd(source * 1.5, target, kernel, backend=backend)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for n in (9, 12):
        source, target = pair(n)
        eager, traced = step(source, target), compiled(source, target)
        torch.testing.assert_close(traced, eager, rtol=1e-13, atol=1e-15)
        for a, b in zip(
            torch.autograd.grad(traced, (source, target)), torch.autograd.grad(eager, (source, target)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_compile_without_gradients(backend, kernel):
    torch.compiler.reset()
    source, target = (x.detach() for x in pair())
    compiled = torch.compile(fastmmd.mmd, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        value = compiled(source, target, kernel, backend=backend)
    torch.testing.assert_close(value, fastmmd.mmd(source, target, kernel, backend=backend))
    source.requires_grad_()  # with gradients after a graph without them
    eager = torch.autograd.grad(fastmmd.mmd(source, target, kernel, backend=backend), source)
    torch.testing.assert_close(torch.autograd.grad(compiled(source, target, kernel, backend=backend), source), eager)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear", "circular"])
def test_compile_modules(estimator):
    torch.compiler.reset()
    loss = fastmmd.TransferLoss(estimator=estimator)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    sources, targets = layers(8, (6, 3), 0), layers(8, (6, 3), 1)
    eager = torch.autograd.grad(loss(sources, targets), sources)
    traced = torch.autograd.grad(compiled(sources, targets), sources)
    torch.testing.assert_close(traced, eager)


@pytest.fixture(params=["one block", "streaming"])
def many_rows(request, monkeypatch):
    """Both ways of the median, with the rows of the second: the plain torch one, as on a GPU, and the CPU's."""
    monkeypatch.setattr(median, "TILE_ELEMENTS", 1 << 21 if request.param == "one block" else 900)
    return request.param


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled kernel", "plain torch"])
@pytest.mark.parametrize("estimator", ["biased", "linear"])
def test_median_under_every_transform(monkeypatch, many_rows, compiled, estimator):
    if not compiled:
        monkeypatch.setattr(median.extension, "module", None)
    torch.compiler.reset()
    source, target = pair(40, 40)

    def loss(s, t):
        return fastmmd.mmd(s * 1.5, t, Gaussian("median"), estimator=estimator, backend="torch")

    class Loss(torch.nn.Module):
        def forward(self, s, t):
            return loss(s, t)

    eager = loss(source, target)
    expected = torch.autograd.grad(eager, (source, target))
    traced = torch.compile(loss, fullgraph=True, backend="aot_eager")(source, target)
    torch.testing.assert_close(traced, eager)
    torch.testing.assert_close(torch.autograd.grad(traced, (source, target)), expected)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(loss)(source[None], target[None])[0], eager.detach())
    plain = source.detach(), target.detach()
    torch.testing.assert_close(torch.func.grad(loss, argnums=(0, 1))(*plain), expected)
    batched = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None))(torch.stack([plain[0], plain[0] + 1]), plain[1])
    torch.testing.assert_close(batched[0], expected[0])
    torch.testing.assert_close(batched[1], torch.func.grad(loss)(plain[0] + 1, plain[1]))
    torch.testing.assert_close(torch.export.export(Loss(), plain).module()(*plain), eager.detach())


def test_compile_median_dynamic_batch():
    torch.compiler.reset()
    compiled = torch.compile(fastmmd.mmd, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 6, 1100):
        source, target = pair(n, n)
        torch.testing.assert_close(
            compiled(source, target, Gaussian("median")), fastmmd.mmd(source, target, Gaussian("median"))
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_opcheck_of_the_median(dtype):
    source, target = (x.detach().to(dtype) for x in pair())
    torch.library.opcheck(torch.ops.fastmmd.median_distance, (source, target))


def test_compile_with_inductor():
    torch.compiler.reset()
    source, target = (x.detach().float().requires_grad_() for x in pair(40, 30, 8))
    step = torch.compile(lambda s, t: fastmmd.mmd(s.relu(), t) * 3, fullgraph=True)
    value = step(source, target)
    expected = fastmmd.mmd(source.relu(), target) * 3
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, source), torch.autograd.grad(expected, source))


@pytest.mark.parametrize("options", [{}, {"backend": "reference"}, {"estimator": "linear"}])
def test_compile_dynamic_batch(options):
    torch.compiler.reset()
    compiled = torch.compile(fastmmd.mmd, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 6, 11):
        source, target = pair(n, n)
        torch.testing.assert_close(compiled(source, target, **options), fastmmd.mmd(source, target, **options))


class Network(torch.nn.Module):
    """A loss on learned features, with a learned bandwidth."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3, dtype=torch.float64)
        self.loss = fastmmd.MMDLoss(Gaussian(torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))))

    def forward(self, source, target):
        return self.loss(self.linear(source), self.linear(target))


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_network_trains(strict):
    source, target = (x.detach() for x in pair())
    network = Network()
    expected = torch.autograd.grad(network(source, target), list(network.parameters()))
    program = torch.export.export(network, (source, target), strict=strict).module()
    value = program(source, target)
    torch.testing.assert_close(value, network(source, target))
    parameters = dict(program.named_parameters())
    gradients = torch.autograd.grad(value, [parameters[name] for name, _ in network.named_parameters()])
    torch.testing.assert_close(gradients, expected)


def test_an_exported_loss_gives_the_gradients_it_was_exported_with_or_says_so():
    class Loss(torch.nn.Module):
        def forward(self, source, target):
            return fastmmd.mmd(source, target)

    source, target = (x.detach() for x in pair())
    constant = torch.export.export(Loss(), (source, target)).module()
    torch.testing.assert_close(constant(source, target), fastmmd.mmd(source, target))
    leaf = source.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="exported or traced with inputs that needed none"):
        constant(leaf, target).backward()


@pytest.mark.parametrize("backend", FAST)
def test_second_derivative_under_a_tensor_mode_is_refused(backend):
    from torch.utils.flop_counter import FlopCounterMode

    source, target = pair()
    with FlopCounterMode(display=False):
        total = source.square().sum() + fastmmd.mmd(source, target, backend=backend)
        (first,) = torch.autograd.grad(total, source, create_graph=True)
        with pytest.raises(RuntimeError, match="backend='reference'"):
            torch.autograd.grad(first.square().sum(), source)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("differentiable", [False, True])
def test_opcheck(backend, dtype, differentiable):
    sources, targets = layers(6, (5, 3), 0, dtype=dtype), layers(4, (5, 3), 1, dtype=dtype)
    arguments = (
        [sources[0].detach().requires_grad_(differentiable), sources[1].detach()],
        [x.detach().requires_grad_(differentiable) for x in targets],
        None,
        [0.5, 1.0, 1.0],
        [1.0, 1.0, 1.0],
        [2, 1],
        ["mean", ""],
        [1.0, 1.68],
        [True, True],
        0.5,
        [0.1, 0.0],
        "biased",
        [False, True, False, True, True],
        backend,
        "ieee",
    )
    # The other checks would differentiate the gradients among its outputs, which is refused.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.fastmmd.discrepancy, arguments, test_utils=checks[: 3 if differentiable else 4])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_func_grad_and_vmap(backend, kernel):
    source, target = pair()
    expected = torch.autograd.grad(fastmmd.mmd(source, target, kernel, backend=backend), (source, target))

    def loss(s, t):
        return fastmmd.mmd(s, t, kernel, backend=backend)

    gradients = torch.func.grad(loss, argnums=(0, 1))(source.detach(), target.detach())
    torch.testing.assert_close(gradients, expected, rtol=1e-11, atol=1e-15)
    many = torch.stack([source.detach(), source.detach() + 1, source.detach() * 2])
    batched = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None))(many, target.detach())
    for single, gradient in zip(many, batched, strict=True):
        torch.testing.assert_close(gradient, torch.func.grad(loss)(single, target.detach()), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_gradients_through_vmap(backend, kernel):
    """Inside vmap no tensor says that it requires a gradient."""
    (source, target), (other, _) = pair(), pair(seed=5)
    many = torch.stack([source, other]).detach().requires_grad_()

    def loss(s):
        return fastmmd.mmd(s, target.detach(), kernel, backend=backend)

    expected = torch.stack([torch.autograd.grad(loss(s), s)[0] for s in (source, other)])
    values = torch.vmap(loss)(many)
    torch.testing.assert_close(values, torch.stack([loss(source), loss(other)]))
    (outside,) = torch.autograd.grad(values.sum(), many)
    torch.testing.assert_close(outside, expected)
    around = torch.func.grad(lambda m: torch.vmap(loss)(m).sum())(many.detach())
    torch.testing.assert_close(around, expected)
    jacobian = torch.func.jacrev(torch.vmap(loss))(many.detach())
    torch.testing.assert_close(jacobian.sum(0), expected)
    nested = many.detach().expand(3, *many.shape).clone().requires_grad_()
    (twice,) = torch.autograd.grad(torch.vmap(torch.vmap(loss))(nested).sum(), nested)
    torch.testing.assert_close(twice, expected.expand_as(twice))


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_a_grid_of_bandwidths_under_vmap(backend):
    source, target = (x.detach() for x in pair())
    grid = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64, requires_grad=True)

    def loss(bandwidth):
        return fastmmd.mmd(source, target, Gaussian(bandwidth), backend=backend)

    values = torch.vmap(loss)(grid)
    torch.testing.assert_close(values, torch.stack([loss(b) for b in grid]))
    (gradient,) = torch.autograd.grad(values.sum(), grid)
    torch.testing.assert_close(gradient, torch.stack([torch.autograd.grad(loss(b), b)[0] for b in grid.unbind()]))


@pytest.mark.parametrize("backend", FAST)
def test_forward_over_reverse_is_refused_in_our_words(backend):
    source, target = (x.detach() for x in pair(4, 3, 2))

    def loss(s):
        return fastmmd.mmd(s, target, Gaussian(2.0), backend=backend)

    with pytest.raises(RuntimeError, match="backend='reference'"):
        torch.func.hessian(loss)(source)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        torch.func.jvp(torch.func.grad(loss), (source,), (source,))
    with pytest.raises(RuntimeError, match="backend='reference'"):
        torch.func.jacrev(torch.func.jacrev(loss))(source)


@pytest.mark.parametrize("backend", FAST)
def test_func_second_derivative_is_refused_and_the_reference_has_it(backend):
    source, target = (x.detach() for x in pair(4, 3, 2))

    def loss(name):
        return lambda s: fastmmd.mmd(s, target, Gaussian(2.0), backend=name)

    def inner(name):
        return torch.func.grad(lambda s: torch.func.grad(loss(name))(s).square().sum())

    with pytest.raises(RuntimeError, match="backend='reference'"):
        inner(backend)(source)
    exact = source.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss("reference")(exact), exact, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), exact)
    torch.testing.assert_close(inner("reference")(source), second)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
@pytest.mark.parametrize("estimator", ["biased", "linear"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
@pytest.mark.parametrize("n", [22, 700])
def test_autocast_changes_nothing(backend, estimator, kernel, n):
    if (estimator == "linear" and backend != "torch") or (backend == "reference" and n > 100):
        pytest.skip("plain torch whatever the backend, or a large dense one")
    source, target = (layers(n, (16,), seed, 0.3 * seed, torch.float32)[0] for seed in range(2))
    options = {"estimator": estimator, "backend": backend}
    expected = fastmmd.mmd(source, target, kernel, **options)
    with torch.autocast("cpu", torch.bfloat16):
        value = fastmmd.mmd(source, target, kernel, **options)
    assert torch.equal(value, expected)
    assert torch.equal(torch.autograd.grad(value, source)[0], torch.autograd.grad(expected, source)[0])


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_inference_mode_and_no_grad(backend):
    source, target = pair()
    expected = fastmmd.mmd(source, target, backend=backend).detach()
    with torch.inference_mode():
        torch.testing.assert_close(fastmmd.mmd(source, target, backend=backend), expected)
    with torch.no_grad():
        value = fastmmd.mmd(source, target, backend=backend)
    assert not value.requires_grad
    torch.testing.assert_close(value, expected)


def test_shapes_of_meta_tensors():
    for kernel in KERNELS.values():
        if isinstance(kernel.bandwidth, torch.Tensor):
            kernel = Gaussian(kernel.bandwidth.to("meta"))
        source, target = torch.empty(5, 3, device="meta", requires_grad=True), torch.empty(4, 3, device="meta")
        loss = fastmmd.mmd(source, target, kernel)
        assert (loss.shape, loss.device.type, loss.dtype) == ((), "meta", torch.float32)
        assert torch.autograd.grad(loss, source)[0].shape == (5, 3)


class Wrapped(torch.Tensor):
    """Holds a tensor and has no memory of its own, as DTensor has."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(Wrapped, lambda x: x.inner, (args, kwargs or {}))
        return tree_map_only(torch.Tensor, cls, func(*args, **kwargs))


@pytest.mark.parametrize("backend", FAST)
def test_a_bandwidth_of_another_tensor_class_is_not_read_as_memory(backend):
    source, target = (x.detach() for x in pair())
    value = fastmmd.mmd(source, target, Gaussian(Wrapped(torch.tensor(4.0, dtype=torch.float64))), backend=backend)
    torch.testing.assert_close(value.inner, fastmmd.mmd(source, target, Gaussian(4.0), backend=backend))


@pytest.mark.parametrize("backend", FAST)
def test_compiled_autograd(backend):
    source, target = pair()
    expected = torch.autograd.grad(fastmmd.mmd(source, target, backend=backend), source)
    loss = fastmmd.mmd(source, target, backend=backend)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        loss.backward()
    torch.testing.assert_close((source.grad,), expected)


def test_fake_tensors_have_the_right_shapes():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        source, target = torch.empty(5, 3, dtype=torch.float16, requires_grad=True), torch.empty(4, 3)
        parts = fastmmd.discrepancy([source], [target], [Gaussian()])
        assert parts.loss.dtype == torch.float32
        assert parts.loss.shape == ()
        assert parts.marginals.shape == (1,)
        assert torch.autograd.grad(parts.loss, source)[0].dtype == torch.float16


def test_a_loss_changed_in_place_keeps_its_gradient():
    """`loss *= weight; total += loss` is how training loops are written."""
    source, target = pair()
    (expected,) = torch.autograd.grad(0.5 * fastmmd.mmd(source, target), source)
    loss = fastmmd.mmd(source, target)
    loss *= 0.5
    torch.testing.assert_close(torch.autograd.grad(loss, source)[0], expected)


@pytest.mark.parametrize("backend", FAST)
def test_a_tensor_that_a_transform_left_behind_is_one_like_others(backend):
    """A memory bank filled inside `torch.func.grad`, met by features that need a gradient."""
    x, y = torch.randn(5, 3), torch.randn(4, 3, requires_grad=True)
    bank = []

    def remember(features):
        bank.append(features)
        return features.sum()

    torch.func.grad(remember)(x)
    expected = torch.autograd.grad(fastmmd.mmd(x, y, backend=backend), y)
    loss = fastmmd.mmd(bank[0], y, backend=backend)
    torch.testing.assert_close(torch.autograd.grad(loss, y), expected)


def test_the_arguments_of_an_exported_op_keep_their_meaning():
    """Programs exported earlier hold them: an empty rule stands for the number behind it."""
    x, y = torch.randn(5, 3), torch.randn(4, 3)
    kernel = ([1.0], [1.0], [1], [""], [2.5], [True])
    options = (1.0, [0.0], "biased", [False, False, False], "torch", "ieee")
    loss, statistics, _ = torch.ops.fastmmd.discrepancy([x], [y], None, *kernel, *options)
    torch.testing.assert_close(loss, fastmmd.mmd(x, y, Gaussian(2.5, (1,))))
    assert statistics[2] == 2.5
    exported = torch.export.export(fastmmd.MMDLoss(Gaussian(2.5, (1,)), backend="torch"), (x, y))
    (node,) = [node for node in exported.graph.nodes if "fastmmd.discrepancy" in str(node.target)]
    assert [""] in node.args
    assert [2.5] in node.args


# Weights of pairs -----------------------------------------------------------------------------------------------------

every_form = pytest.mark.parametrize("call", FORM_CALLS.values(), ids=FORM_CALLS.keys())
fast_and_reference = pytest.mark.parametrize("backend", [*FAST, "reference"])


@every_form
def test_compiled_forms(call):
    """Values and gradients, with another number of rows too, and without gradients."""
    torch.compiler.reset()

    def step(x, other):
        return 2 * call.loss(1.5 * x, other)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for n in (12, 18):
        inputs = call.inputs(n)
        eager, traced = step(*inputs), compiled(*inputs)
        torch.testing.assert_close(traced, eager, rtol=1e-12, atol=1e-14)
        gradients, expected = torch.autograd.grad(traced, inputs), torch.autograd.grad(eager, inputs)
        torch.testing.assert_close(gradients, expected, rtol=1e-11, atol=1e-14)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), eager.detach(), rtol=1e-12, atol=1e-14)


@fast_and_reference
@pytest.mark.parametrize("name", ["sample weights", "forms"])
@pytest.mark.parametrize("needed", [0, 1], ids=["features", "weights"])
def test_compiled_forms_of_one_variable(backend, name, needed):
    """Only features, or only weights, need a gradient."""
    torch.compiler.reset()
    call = FORM_CALLS[name]
    inputs = call.inputs()
    (expected,) = torch.autograd.grad(call.loss(*inputs), inputs[needed])
    compiled = torch.compile(call.loss, fullgraph=True, backend="aot_eager")
    some = [x if index == needed else x.detach() for index, x in enumerate(inputs)]
    (gradient,) = torch.autograd.grad(compiled(*some, backend=backend), inputs[needed])
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("function", ["lmmd", "pairwise_mmd"])
def test_compiled_labels_are_not_constants(function):
    """Other labels, and classes that no longer occur, in the same graph."""
    torch.compiler.reset()
    x = layers(12, (4,))[0]

    def loss(labels):
        if function == "lmmd":
            return fastmmd.lmmd(x[:6], x[6:], labels[:6], torch.eye(3)[labels[6:]])
        return fastmmd.pairwise_mmd([x], labels, num_groups=3).loss

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for labels in ([0, 1, 2] * 4, [0, 0, 1] * 4, [2] * 12, [0] * 6 + [1] * 6):
        labels = torch.tensor(labels)
        torch.testing.assert_close(compiled(labels), loss(labels), rtol=1e-12, atol=1e-15)


class FormLoss(torch.nn.Module):
    """A loss of `FORM_CALLS` whose other variable is a parameter."""

    def __init__(self, call, other):
        super().__init__()
        self.call = call
        self.other = torch.nn.Parameter(other.detach().clone())

    def forward(self, x):
        return self.call.loss(x, self.other)


@pytest.mark.parametrize("name", [name for name in FORM_CALLS if not name.startswith("forms")])
def test_an_exported_form_gives_values_and_gradients(name):
    call = FORM_CALLS[name]
    inputs = call.inputs()
    program = torch.export.export(FormLoss(call, inputs[1]), (inputs[0],)).module()
    value, expected = program(inputs[0]), call.loss(*inputs)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-15)
    gradients = torch.autograd.grad(value, [inputs[0], *program.parameters()])
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs), rtol=1e-11, atol=1e-14)


def test_exported_kernel_forms_give_values_and_say_that_they_have_no_gradients():
    call = FORM_CALLS["forms"]
    inputs = call.inputs()
    program = torch.export.export(FormLoss(call, inputs[1]), (inputs[0],)).module()
    value = program(inputs[0])
    torch.testing.assert_close(value, call.loss(*inputs), rtol=1e-12, atol=1e-15)
    with pytest.raises(RuntimeError, match="exported kernel_forms has values alone"):
        torch.autograd.grad(value, inputs[0])


@fast_and_reference
@every_form
def test_func_grad_vmap_and_jacrev_of_forms(backend, call):
    inputs, others = call.inputs(), call.inputs(seed=5)
    plain = [x.detach() for x in inputs]

    def loss(x, other):
        return call.loss(x, other, backend=backend)

    close = {"rtol": 1e-10, "atol": 1e-14}
    expected = torch.autograd.grad(loss(*inputs), inputs)
    torch.testing.assert_close(torch.func.grad(loss, argnums=(0, 1))(*plain), expected, **close)
    torch.testing.assert_close(torch.func.jacrev(loss, argnums=(0, 1))(*plain), expected, **close)
    many = torch.stack([inputs[0].detach(), others[0].detach()])
    grid = torch.stack([plain[1], 1.5 * plain[1]])
    for dims, batch in (((0, None), (many, plain[1])), ((None, 0), (plain[0], grid)), ((0, 0), (many, grid))):
        problems = [[x if dim is None else x[i] for x, dim in zip(batch, dims, strict=True)] for i in range(2)]
        values = torch.stack([loss(*problem) for problem in problems])
        torch.testing.assert_close(torch.vmap(loss, dims)(*batch), values, **close)
        batched = torch.vmap(torch.func.grad(loss, argnums=(0, 1)), dims)(*batch)
        singles = [torch.func.grad(loss, argnums=(0, 1))(*problem) for problem in problems]
        torch.testing.assert_close(batched, tuple(map(torch.stack, zip(*singles, strict=True))), **close)


@pytest.mark.parametrize("backend", FAST)
@every_form
def test_gradients_through_vmap_of_forms(backend, call):
    """Inside vmap no tensor says that it requires a gradient."""
    inputs, (other_x, _) = call.inputs(), call.inputs(seed=5)
    batch = [torch.stack([inputs[0], other_x]).detach(), torch.stack([inputs[1], 1.5 * inputs[1]]).detach()]
    batch = [x.requires_grad_() for x in batch]

    def loss(x, other):
        return call.loss(x, other, backend=backend)

    gradients = torch.autograd.grad(torch.vmap(loss)(*batch).sum(), batch)
    expected = torch.autograd.grad(loss(batch[0][0], batch[1][0]) + loss(batch[0][1], batch[1][1]), batch)
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-14)


SECOND_DERIVATIVES = {  # inner and outer variable
    "features": (0, 0),
    "other variable": (1, 1),
    "features of the other's gradient": (1, 0),
    "other variable of the features' gradient": (0, 1),
}


@pytest.mark.parametrize("backend", FAST)
@every_form
@pytest.mark.parametrize(("inner", "outer"), SECOND_DERIVATIVES.values(), ids=SECOND_DERIVATIVES.keys())
def test_second_derivatives_of_forms_are_refused_under_transforms(backend, call, inner, outer):
    """None of them may be a silent zero; the reference has them."""
    inputs = call.inputs()
    plain = [x.detach() for x in inputs]

    def penalty(name):
        def function(*variables):
            gradient = torch.func.grad(lambda *v: call.loss(*v, backend=name), argnums=inner)(*variables)
            return gradient.square().sum()

        return function

    with pytest.raises(RuntimeError, match=r"second derivatives.*backend='reference'"):
        torch.func.grad(penalty(backend), argnums=outer)(*plain)
    (first,) = torch.autograd.grad(call.loss(*inputs, backend=backend), inputs[inner], create_graph=True)
    (exact,) = torch.autograd.grad(first.square().sum(), inputs[outer], allow_unused=True, materialize_grads=True)
    second = torch.func.grad(penalty("reference"), argnums=outer)(*plain)
    torch.testing.assert_close(second, exact, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("backend", FAST)
@every_form
@pytest.mark.parametrize("variable", [0, 1], ids=["features", "other variable"])
def test_forward_mode_of_forms_is_refused(backend, call, variable):
    plain = [x.detach() for x in call.inputs()]

    def loss(v):
        return call.loss(*[v if index == variable else x for index, x in enumerate(plain)], backend=backend)

    with pytest.raises(RuntimeError, match=r"forward-mode.*backend='reference'"):
        torch.func.hessian(loss)(plain[variable])
    with pytest.raises(RuntimeError, match=r"forward-mode.*backend='reference'"):
        torch.func.jvp(loss, (plain[variable],), (plain[variable],))


@pytest.mark.parametrize("backend", FAST)
@every_form
@pytest.mark.parametrize("variable", [0, 1], ids=["features", "other variable"])
def test_second_derivative_of_forms_under_a_tensor_mode_is_refused(backend, call, variable):
    from torch.utils.flop_counter import FlopCounterMode

    inputs = call.inputs()
    with FlopCounterMode(display=False):
        total = inputs[variable].square().sum() + call.loss(*inputs, backend=backend)
        (first,) = torch.autograd.grad(total, inputs[variable], create_graph=True)
        with pytest.raises(RuntimeError, match="backend='reference'"):
            torch.autograd.grad(first.square().sum(), inputs[variable])


@fast_and_reference
@every_form
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_no_form(backend, call, low):
    inputs = call.inputs(30, 16, dtype=torch.float32)
    expected = call.loss(*inputs, backend=backend)
    with torch.autocast("cpu", low):
        value = call.loss(*inputs, backend=backend)
    assert torch.equal(value, expected)
    gradients = zip(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs), strict=True)
    assert all(torch.equal(a, b) for a, b in gradients)


@fast_and_reference
@every_form
def test_inference_mode_and_no_grad_of_forms(backend, call):
    inputs = call.inputs()
    expected = call.loss(*inputs, backend=backend).detach()
    with torch.inference_mode():
        torch.testing.assert_close(call.loss(*inputs, backend=backend), expected, rtol=1e-12, atol=1e-15)
    with torch.no_grad():
        value = call.loss(*inputs, backend=backend)
    assert not value.requires_grad
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("backend", FAST)
@every_form
@pytest.mark.parametrize("frozen", [0, 1], ids=["features", "other variable"])
def test_an_inference_tensor_beside_one_that_needs_a_gradient(backend, call, frozen):
    inputs = call.inputs()
    (expected,) = torch.autograd.grad(call.loss(*inputs, backend=backend), inputs[1 - frozen])
    with torch.inference_mode():
        copy = inputs[frozen].clone()
    loss = call.loss(*[copy if index == frozen else x for index, x in enumerate(inputs)], backend=backend)
    torch.testing.assert_close(torch.autograd.grad(loss, inputs[1 - frozen])[0], expected, rtol=1e-12, atol=1e-15)


@every_form
def test_forms_of_meta_tensors_have_shapes(call):
    inputs = [torch.empty_like(x, device="meta").requires_grad_() for x in call.inputs(dtype=torch.float32)]
    loss = call.loss(*inputs)
    assert (loss.shape, loss.device.type, loss.dtype) == ((), "meta", torch.float32)
    assert [g.shape for g in torch.autograd.grad(loss, inputs)] == [x.shape for x in inputs]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("rows_alone", [False, True])
def test_opcheck_of_forms(backend, dtype, differentiable, rows_alone):
    sources, targets = layers(6, (5, 3), 0, dtype=dtype), layers(4, (5, 3), 1, dtype=dtype)
    needed = differentiable and not rows_alone
    w = torch.randn(10, 3, requires_grad=needed)
    a = None if rows_alone else torch.eye(3, dtype=torch.float64, requires_grad=needed)
    arguments = (
        [x.detach().requires_grad_(needed) for x in sources],
        [x.detach() for x in targets],
        None,
        w,
        a,
        [0.5, 1.0, 1.0],
        [1.0, 1.0, 1.0],
        [2, 1],
        ["mean", ""],
        [1.0, 1.68],
        [True, True],
        0.5,
        [0.1, 0.0],
        "biased",
        True,
        rows_alone,
        [False, needed, needed, needed, needed, False, False],
        backend,
        "ieee",
    )
    # The other checks would differentiate the gradients among its outputs, which is refused.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.fastmmd.quadratic_form, arguments, test_utils=checks[: 3 if needed else 4])


@pytest.mark.parametrize("backend", FAST)
@every_form
def test_weights_of_another_tensor_class_are_not_read_as_memory(backend, call):
    x, other = (v.detach() for v in call.inputs())
    value = call.loss(x, Wrapped(other), backend=backend)
    torch.testing.assert_close(value.inner, call.loss(x, other, backend=backend))


@pytest.mark.parametrize("backend", FAST)
@every_form
def test_compiled_autograd_of_forms(backend, call):
    inputs = call.inputs()
    expected = torch.autograd.grad(call.loss(*inputs, backend=backend), inputs)
    loss = call.loss(*inputs, backend=backend)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        loss.backward()
    torch.testing.assert_close(tuple(x.grad for x in inputs), expected)


def test_the_arguments_of_an_exported_form_keep_their_meaning():
    """Programs exported earlier hold them: W by the sources' rows first, A as a matrix or its diagonal."""
    x, y = torch.randn(5, 3), torch.randn(4, 3)
    kernel = ([1.0], [1.0], [1], [""], [2.5], [True])
    options = (1.0, [0.0], "biased", True, True, [False] * 5, "torch", "ieee")
    signed = torch.tensor([1 / 5] * 5 + [-1 / 4] * 4)[:, None]
    indicators = torch.cat([signed.clamp(min=0), -signed.clamp(max=0)], 1)
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    expected = fastmmd.mmd(x, y, Gaussian(2.5, (1,)))
    for w, a in ((signed, torch.ones(1, dtype=torch.float64)), (indicators, signs)):
        loss, statistics, rows, _ = torch.ops.fastmmd.quadratic_form([x], [y], None, w, a, *kernel, *options)
        torch.testing.assert_close(loss, expected)
        assert statistics[2] == 2.5
        distances = torch.cdist(torch.cat([x, y]), torch.cat([x, y])).square()
        torch.testing.assert_close(rows, torch.exp(-distances / 2.5).fill_diagonal_(0) @ w)
