"""Which problems the CUDA backend takes and how, and what is said where it can't run. No kernel is launched here."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import fastmmd
from fastmmd import Gaussian, dispatch, extension
from fastmmd.backends import cuda, triton
from fastmmd.backends.cuda import architecture, fused, gemm, launch_rules, packed, small
from fastmmd.call import Form
from fastmmd.problem import MAX_LAYERS
from tests.device_modes import nothing_waits, recorded_products
from tests.helpers import call_of

H200, CONSUMER = 227 << 10, 99 << 10  # shared memory of a thread block


def build(**attributes):
    """Stands for an extension with CUDA kernels."""

    def shared_bytes(format, width, layers, with_gradient, launch):
        element = 2 if format == "bf16" else 4
        return 3000 + element * 64 * ((1 + launch.stages) * width + layers * 64)

    usual = {
        "CUDA": True,
        "CUDA_ABSENT": "",
        "CUDA_ON_HOST": False,
        "CUDA_ARCHS": "90",
        "CUDA_MAX_GAUSSIANS": 128,
        "CUDA_MAX_ROWS": 1 << 30,
        "CUDA_FEATURE_GROUP": 16,
        "CUDA_TILE_ROWS": 64,
        "CUDA_FUSED_MAX_LAYERS": 2,
        "CUDA_FUSED_MAX_WIDTH": 320,
        "CudaFusedLaunch": SimpleNamespace,
        "cuda_fused_shared_bytes": shared_bytes,
        "cuda_probe": lambda index: "",
    }
    return SimpleNamespace(**(usual | attributes))


CACHES = (
    launch_rules.choose,
    launch_rules.choose_for_form,
    architecture.not_compiled_for,
    architecture.shared_memory,
    extension.make_problem,
    small._prepared,
)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(extension, "module", build())
    for cache in CACHES:
        cache.cache_clear()
    yield
    for cache in CACHES:
        cache.cache_clear()


@given(
    format=st.sampled_from(launch_rules.FORMATS),
    n=st.integers(2, 1 << 20),
    dims=st.lists(st.integers(1, 100_000), min_size=1, max_size=MAX_LAYERS).map(tuple),
    shared_memory=st.sampled_from([0, H200, CONSUMER]),
)
def test_every_problem_has_a_rule(format, n, dims, shared_memory):
    rule = launch_rules.choose(n, dims, format, shared_memory)
    assert rule.reason
    if isinstance(rule.config, fused.Config):
        assert format != "fp64"
        assert shared_memory > 0


@pytest.mark.parametrize(
    ("n", "dims", "format", "shared_memory", "config"),
    [
        (72, (256, 31), "ieee", H200, small.Config(part_features=64, chunk=32)),
        (128, (2048, 8), "tf32", H200, small.Config(part_features=256, chunk=64)),
        (256, (256,) * 8, "fp64", H200, small.Config(part_features=256, chunk=64)),
        (128, (100_000,), "ieee", H200, gemm.Config(workspace_bytes=24 << 20)),
        (257, (256, 8), "bf16", H200, gemm.Config(workspace_bytes=24 << 20)),
        (8192, (256, 8), "bf16", H200, fused.Config(thread_blocks=264, stages=2)),
        (8192, (256, 8), "bf16", CONSUMER, fused.Config(thread_blocks=264, stages=1)),
        (8192, (256, 8), "tf32x3", H200, fused.Config(thread_blocks=264, stages=1)),
        (8192, (256, 8), "tf32", CONSUMER, gemm.Config(workspace_bytes=24 << 20)),
        (8192, (256, 8), "ieee", H200, gemm.Config(workspace_bytes=24 << 20)),
        (8192, (64, 8), "ieee", H200, gemm.Config(workspace_bytes=24 << 20)),
        (8192, (64, 8), "tf32", H200, fused.Config(thread_blocks=264, stages=2)),
        (8192, (64, 8), "fp64", H200, gemm.Config(workspace_bytes=24 << 20)),
        (8192, (2048,), "bf16", H200, gemm.Config(workspace_bytes=24 << 20)),
        (8192, (64, 8, 8), "bf16", H200, gemm.Config(workspace_bytes=24 << 20)),
    ],
)
def test_each_problem_takes_its_route(n, dims, format, shared_memory, config):
    assert launch_rules.choose(n, dims, format, shared_memory).config == config


def call(*dtypes, n=4, gaussians=5, device="cpu", precision=None, form=None):
    """A layer of 40 features per dtype."""
    kernel = Gaussian(multipliers=tuple(range(1, 1 + gaussians)))
    inputs = [torch.zeros(n // 2, 40, dtype=dtype, device=device) for dtype in dtypes]
    return call_of(inputs, inputs, (kernel,) * len(dtypes), precision=precision, form=form)


@pytest.mark.parametrize(
    ("dims", "config"),
    [
        ((256, 31), small.Config(part_features=64, chunk=32)),
        ((2048, 8), small.Config(part_features=256, chunk=64)),
        ((100_000,), small.Config(part_features=2048, chunk=64)),
    ],
)
def test_weights_of_pairs_take_route_small_at_any_width(dims, config):
    assert launch_rules.choose_for_form(dims).config == config


def test_no_format_is_less_precise_than_asked_for():
    for precision in fastmmd.checks.PRECISIONS:
        assert launch_rules.product_format(precision, call(torch.float32)) == precision
        assert launch_rules.product_format(precision, call(torch.float16)) == precision
        assert launch_rules.product_format(precision, call(torch.float64)) == "fp64"


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        ("80 86 90", (8, 0), True),
        ("80 86 90", (8, 9), True),  # code of an earlier minor version
        ("86", (8, 0), False),
        ("80 90", (10, 0), False),
        ("80 90 90+PTX", (10, 0), True),
        ("80 90 90+PTX", (7, 5), False),
        ("75 80 80+PTX", (7, 5), True),
        ("75", (8, 0), False),
        ("90a", (9, 0), True),
        ("90a", (10, 0), False),
        ("100 120 100+PTX", (12, 1), True),
        ("100 100+PTX", (12, 0), True),
    ],
)
def test_code_runs_on_the_architectures_that_can_read_it(built, capability, runs):
    reason = architecture.missing_architecture(capability, built)
    assert (reason is None) == runs
    if not runs:
        assert built in reason


@pytest.mark.parametrize(
    ("built", "capability", "overlaps"),
    [
        ("80 90", (9, 0), True),
        ("80 90", (8, 0), False),
        ("80 90a", (9, 0), True),
        ("80+PTX", (9, 0), False),  # code for 8.0 would not wait for the launch before it
        ("80+PTX 90", (10, 0), False),
        ("80 90+PTX", (12, 0), True),
        ("120", (12, 0), True),
    ],
)
def test_launches_overlap_where_the_code_that_runs_knows_of_it(monkeypatch, built, capability, overlaps):
    monkeypatch.setattr(extension, "module", build(CUDA_ARCHS=built))
    monkeypatch.setattr(architecture, "capability", lambda device: capability)
    assert architecture.overlaps_launches.__wrapped__(torch.device("cuda", 0)) == overlaps


class Recorder(SimpleNamespace):
    """An extension that keeps what it is asked for, as (route, format of products), and computes nothing."""

    def __init__(self):
        structures = (
            "Layer",
            "Problem",
            "Buffers",
            "CudaDevice",
            "CudaSmallLaunch",
            "CudaPackedRows",
            "CudaPackedSums",
            "CudaFusedBuffers",
            "CudaGemmPass",
        )
        super().__init__(**vars(build(**dict.fromkeys(structures, SimpleNamespace))), asked=[])

    def cuda_small_workspace_bytes(self, problem, f64, launch):
        return 0

    def cuda_small(self, problem, buffers, dtypes, f64, launch, device):
        self.asked.append(("small", None))

    def cuda_pack_workspace_bytes(self, problem, f64):
        return 0

    def cuda_pack(self, *arguments):
        pass

    def cuda_finish(self, *arguments):
        pass

    def cuda_gemm_pass_programs(self, rows, columns):
        return 1

    def cuda_gemm_pass(self, problem, buffers, f64, device):
        self.asked.append(("gemm", buffers.format))

    def cuda_fused(self, problem, buffers, format, launch, device):
        self.asked.append(("fused", format))


@pytest.mark.parametrize(
    ("capability", "n", "route", "format"),
    [
        ((7, 5), 64, "small", None),
        ((7, 5), 300, "gemm", "ieee"),
        ((7, 5), 5000, "gemm", "ieee"),
        ((8, 0), 64, "small", None),
        ((8, 0), 300, "gemm", "tf32"),
        ((8, 0), 5000, "fused", "tf32"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_tensor_core_is_asked_for_below_8_0(monkeypatch, capability, n, route, format, dtype):
    """The fused route traps there, and rounding to TF32 would only lose digits."""
    recorder = Recorder()
    monkeypatch.setattr(extension, "module", recorder)
    monkeypatch.setattr(architecture, "capability", lambda device: capability)
    cuda.run(call(dtype, n=n, precision="tf32"))
    assert set(recorder.asked) == {(route, format)}


@pytest.fixture
def recorded_gpu(monkeypatch):
    """Fake tensors on "cuda" stand for a GPU; its kernels are recorded."""
    recorder = Recorder()
    monkeypatch.setattr(extension, "module", recorder)
    monkeypatch.setattr(architecture, "capability", lambda device: (9, 0))
    monkeypatch.setattr(packed, "current", lambda device: None)  # torch's stream
    monkeypatch.setattr(cuda, "current_device", lambda device: nullcontext())
    return recorder


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("config", [fused.Config(thread_blocks=24, stages=1), gemm.Config(workspace_bytes=1 << 20)])
@pytest.mark.parametrize("gradient", [True, False])
def test_routes_of_many_rows_wait_for_nothing(recorded_gpu, config, gradient):
    with nothing_waits():
        layers = call(torch.float32, torch.float16, n=600, device="cuda:0", precision="tf32")
        result = cuda.run(layers._replace(needs_grad=[gradient] * 4), config)
    assert result.loss.device.type == "cuda"
    assert recorded_gpu.asked


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(("precision", "operands"), [("bf16", torch.bfloat16), ("tf32", torch.float32)])
def test_gemm_multiplies_in_the_format_and_tf32_along_contiguous_dimensions(recorded_gpu, precision, operands):
    """Hopper multiplies 32-bit operands in no other layout; a library would transpose them first."""
    with recorded_products() as products:
        cuda.run(call(torch.float32, n=600, device="cuda:0", precision=precision), gemm.Config(1 << 20))
    assert set(recorded_gpu.asked) == {("gemm", precision)}
    assert len(products) > 3
    for product in products:
        assert {product.a.dtype, product.b.dtype} == {operands}
        if precision == "tf32":
            assert (product.a.stride(1), product.b.stride(0)) == (1, 1)


def on_a_gpu(n, gaussians=5, columns=0):
    """A call of three layers, whose form has `columns`; 0: a plain one."""
    with FakeTensorMode():
        form = None
        if columns:
            form = Form(torch.zeros(n, columns, device="cuda:0"), torch.zeros(columns, device="cuda:0"), False)
        return call(*[torch.float32] * 3, n=n, gaussians=gaussians, device="cuda:0", form=form)


def test_auto_takes_cuda_for_few_rows_and_triton_for_many(monkeypatch):
    monkeypatch.setattr(architecture, "not_compiled_for", lambda index: None)
    monkeypatch.setattr(triton, "unavailable", lambda device: None)
    assert dispatch.choose("auto", on_a_gpu(128)) == "cuda"
    assert dispatch.choose("auto", on_a_gpu(10_000)) == "triton"
    assert dispatch.choose("auto", on_a_gpu(128, gaussians=43)) == "triton"
    monkeypatch.setattr(triton, "unavailable", lambda device: "no compiler")
    assert dispatch.choose("auto", on_a_gpu(10_000)) == "cuda"
    assert dispatch.choose("auto", on_a_gpu(128, gaussians=43)) == "torch"


def test_auto_takes_cuda_for_forms_of_few_rows_alone(monkeypatch):
    monkeypatch.setattr(architecture, "not_compiled_for", lambda index: None)
    monkeypatch.setattr(triton, "unavailable", lambda device: None)
    assert dispatch.choose("auto", on_a_gpu(256, columns=3)) == "cuda"
    assert dispatch.choose("auto", on_a_gpu(258, columns=3)) == "triton"
    monkeypatch.setattr(triton, "unavailable", lambda device: "no compiler")
    assert dispatch.choose("auto", on_a_gpu(258, columns=3)) == "torch"
    message = r"at most 256 rows, got 258\. Backends that can: \['torch', 'reference'\]"
    with pytest.raises(ValueError, match=message):
        dispatch.choose("cuda", on_a_gpu(258, columns=3))


def test_forms_are_computed_by_differences():
    """Whatever their width, so that no bandwidth is too small for them."""
    form = Form(torch.zeros(4, 2), torch.zeros(2), False)
    assert cuda.by_differences(call(torch.float32, form=form))
    wide = [torch.zeros(2, 100_000)]
    assert cuda.by_differences(call_of(wide, wide, (Gaussian(),), form=form))
    assert not cuda.by_differences(call_of(wide, wide, (Gaussian(),)))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (build(CUDA=False, CUDA_ABSENT="no nvcc was found"), "installed without CUDA kernels: no nvcc was found"),
        (build(), "it computes on CUDA devices, the tensors are on cpu"),
        (None, "can't be imported"),
    ],
)
def test_why_it_cannot_run_is_said(monkeypatch, module, reason):
    monkeypatch.setattr(extension, "module", module)
    if module is None:
        monkeypatch.setattr(extension, "reason", "fastmmd._C can't be imported")
    with pytest.raises(RuntimeError, match=reason):
        fastmmd.mmd(torch.zeros(3, 2), torch.zeros(3, 2), backend="cuda")
