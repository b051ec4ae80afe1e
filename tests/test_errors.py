"""Bad input: the right exception, with the argument's name, what was expected and what came."""

import numpy as np
import pytest
import torch

import fastmmd
from fastmmd import Gaussian
from tests.helpers import JAN

X = torch.randn(6, 3)


def lost_bandwidth():
    module = fastmmd.MMDLoss(Gaussian(torch.tensor(2.0)))
    del module.bandwidth0
    module(X, X)


BAD_CALLS = {
    "1-d": (lambda: fastmmd.mmd(X[0], X), ValueError, r"sources\[0\].*\[n, d\].*\(3,\)"),
    "3-d": (lambda: fastmmd.mmd(X, X[None]), ValueError, r"targets\[0\].*\[n, d\]"),
    "no rows": (lambda: fastmmd.mmd(X[:0], X), ValueError, r"sources\[0\].*at least one row.*\(0, 3\)"),
    "no features": (lambda: fastmmd.mmd(X[:, :0], X[:, :0]), ValueError, r"sources\[0\].*one feature"),
    "widths": (lambda: fastmmd.mmd(X, X[:, :2]), ValueError, r"targets\[0\].*3 features.*got 2"),
    "integers": (lambda: fastmmd.mmd(X.long(), X), TypeError, r"sources\[0\].*float.*int64"),
    "complex": (lambda: fastmmd.mmd(X, X + 1j), TypeError, r"targets\[0\].*complex64"),
    "not a tensor": (lambda: fastmmd.mmd([[1.0]], X), TypeError, r"sources\[0\].*tensor.*list"),
    "tensor for layers": (lambda: fastmmd.jmmd(X, X), TypeError, "sources.*sequence.*Tensor"),
    "no layers": (lambda: fastmmd.jmmd([], []), ValueError, "sources.*1 to 8.*got 0"),
    "nine layers": (lambda: fastmmd.jmmd([X] * 9, [X] * 9, [Gaussian()] * 9), ValueError, "1 to 8.*got 9"),
    "layer counts": (lambda: fastmmd.jmmd([X, X], [X]), ValueError, "targets.*2 layers.*got 1"),
    "rows of layers": (lambda: fastmmd.jmmd([X, X[:5]], [X, X]), ValueError, r"sources\[1\].*6 rows.*got 5"),
    "kernel count": (lambda: fastmmd.jmmd([X], [X], JAN), ValueError, "kernels.*1.*got 2"),
    "one kernel": (lambda: fastmmd.jmmd([X], [X], Gaussian()), TypeError, "kernels.*sequence.*Gaussian"),
    "kernel type": (lambda: fastmmd.mmd(X, X, 1.0), TypeError, "kernel: .*Gaussian.*float"),
    "devices": (lambda: fastmmd.mmd(X, X.to("meta")), ValueError, r"targets\[0\].*cpu.*meta"),
    "estimator": (lambda: fastmmd.mmd(X, X, estimator="v"), ValueError, "estimator.*biased.*'v'"),
    "precision": (lambda: fastmmd.mmd(X, X, precision="fp8"), ValueError, "precision.*ieee.*'fp8'"),
    "backend": (lambda: fastmmd.mmd(X, X, backend="tpu"), ValueError, "backend.*'cpu'.*'tpu'"),
    "unbiased of 1": (lambda: fastmmd.mmd(X[:1], X, estimator="unbiased"), ValueError, "sources.*at least 2.*1"),
    "linear n != m": (lambda: fastmmd.mmd(X, X[:5], estimator="linear"), ValueError, r"as many rows.*6.*got 5"),
    "circular of 1": (lambda: fastmmd.mmd(X[:1], X[:1], estimator="circular"), ValueError, "at least 2"),
    "joint": (lambda: fastmmd.discrepancy([X], [X], [Gaussian()], joint=-1), ValueError, "joint.*>= 0.*-1"),
    "joint type": (lambda: fastmmd.discrepancy([X], [X], [Gaussian()], joint="a"), TypeError, "joint.*number.*str"),
    "marginal nan": (
        lambda: fastmmd.discrepancy([X], [X], [Gaussian()], marginal=float("nan")),
        ValueError,
        "marginal.*finite",
    ),
    "marginal none": (
        lambda: fastmmd.discrepancy([X], [X], [Gaussian()], marginal=None),
        TypeError,
        "marginal.*sequence.*NoneType",
    ),
    "sparse": (lambda: fastmmd.mmd(X.to_sparse(), X), TypeError, r"sources\[0\].*dense.*sparse"),
    "huge bandwidth": (lambda: Gaussian(10**400), ValueError, "bandwidth.*positive"),
    "bandwidth device": (
        lambda: fastmmd.mmd(X, X, Gaussian(torch.ones((), device="meta"))),
        ValueError,
        "bandwidth.*cpu.*meta",
    ),
    "marginals": (
        lambda: fastmmd.discrepancy([X], [X], [Gaussian()], marginal=(1, 2)),
        ValueError,
        "marginal.*1 numbers.*got 2",
    ),
    "bandwidth 0": (lambda: Gaussian(0.0), ValueError, "bandwidth.*positive.*0"),
    "bandwidth < 0": (lambda: Gaussian(-1), ValueError, "bandwidth.*positive.*-1"),
    "bandwidth nan": (lambda: Gaussian(float("nan")), ValueError, "bandwidth.*positive.*nan"),
    "bandwidth rule": (lambda: Gaussian("average"), ValueError, "bandwidth.*mean.*'average'"),
    "bandwidth type": (lambda: Gaussian(None), TypeError, "bandwidth.*None"),
    "bandwidth bool": (lambda: Gaussian(True), TypeError, "bandwidth.*True"),
    "bandwidth 1-d": (lambda: Gaussian(torch.ones(2)), ValueError, r"bandwidth.*0-d.*\(2,\)"),
    "bandwidth tensor inf": (lambda: Gaussian(torch.tensor(torch.inf)), ValueError, "bandwidth.*finite.*inf"),
    "bandwidth overflows": (
        lambda: fastmmd.MMDLoss(Gaussian(torch.tensor(1e5))).half()(X, X),
        ValueError,
        "bandwidth.*finite.*inf",
    ),
    "bandwidth lost": (lost_bandwidth, RuntimeError, "lacks its own tensor.*bandwidth0"),
    "squared": (lambda: fastmmd.mmd(X, X, squared="no"), TypeError, "squared.*bool.*'no'"),
    "module squared": (lambda: fastmmd.JMMDLoss(squared=0), TypeError, "squared.*bool.*0"),
    "multipliers text": (lambda: Gaussian(1.0, "12"), TypeError, "multipliers.*sequence.*'12'"),
    "vmap of none": (
        lambda: torch.vmap(fastmmd.mmd)(torch.ones(0, 4, 3), torch.ones(0, 4, 3)),
        ValueError,
        "batch of 0",
    ),
    "bandwidth tensor < 0": (lambda: Gaussian(torch.tensor(-2.0)), ValueError, "bandwidth.*positive.*-2"),
    "multipliers": (lambda: Gaussian(multipliers=(1, 0)), ValueError, "multipliers.*positive"),
    "no multipliers": (lambda: Gaussian(multipliers=()), ValueError, "multipliers.*1 to 64"),
    "multipliers type": (lambda: Gaussian(multipliers=2.0), TypeError, "multipliers.*sequence.*2.0"),
    "weights": (lambda: Gaussian(multipliers=(1, 2), weights=(1,)), ValueError, "weights.*2 numbers.*got 1"),
    "weights < 0": (lambda: Gaussian(multipliers=(1,), weights=(-1,)), ValueError, "weights.*non-negative"),
    "weights 0": (lambda: Gaussian(multipliers=(1,), weights=(0,)), ValueError, "weights.*not all 0"),
    "weights tensor": (
        lambda: Gaussian(multipliers=(1, 2), weights=torch.ones(3)),
        ValueError,
        r"weights.*shape \(2,\).*\(3,\)",
    ),
    "weights device": (
        lambda: fastmmd.mmd(X, X, Gaussian(weights=torch.ones(5, device="meta"))),
        ValueError,
        "weights.*cpu.*meta",
    ),
    "weights of variables": (
        lambda: Gaussian(multipliers=(1,), weights=(torch.ones((), requires_grad=True),)),
        TypeError,
        "weights.*numbers.*gradient would be lost",
    ),
    "learned multipliers": (
        lambda: Gaussian(multipliers=torch.ones(2, requires_grad=True)),
        TypeError,
        "multipliers.*numbers.*gradient would be lost",
    ),
    "learned joint": (
        lambda: fastmmd.discrepancy([X], [X], [Gaussian()], joint=torch.ones((), requires_grad=True)),
        TypeError,
        "joint.*number.*Tensor",
    ),
    "detach type": (lambda: Gaussian(detach_bandwidth="no"), TypeError, "detach_bandwidth.*bool.*'no'"),
    "module kernel rule": (lambda: fastmmd.MMDLoss("median"), TypeError, "kernel: .*Gaussian.*str"),
    "module kernel number": (lambda: fastmmd.MMDLoss(2.0), TypeError, "kernel: .*Gaussian.*float"),
    "module one kernel": (lambda: fastmmd.JMMDLoss(Gaussian()), TypeError, "kernels.*sequence.*Gaussian"),
    "module no kernels": (lambda: fastmmd.JMMDLoss(()), ValueError, "kernels.*1 to 8.*got 0"),
    "module kernels none": (lambda: fastmmd.JMMDLoss(None), TypeError, "kernels.*sequence.*NoneType"),
    "module kernels type": (
        lambda: fastmmd.TransferLoss(kernels=(Gaussian(), 1.68)),
        TypeError,
        r"kernels\[1\].*float",
    ),
    "module estimator": (lambda: fastmmd.JMMDLoss(estimator="v"), ValueError, "estimator.*biased.*'v'"),
    "module backend": (lambda: fastmmd.MMDLoss(backend="tpu"), ValueError, "backend.*'cpu'.*'tpu'"),
    "module precision": (lambda: fastmmd.TransferLoss(precision="fp8"), ValueError, "precision.*ieee.*'fp8'"),
    "module joint": (lambda: fastmmd.TransferLoss(joint=-1.0), ValueError, "joint.*>= 0.*-1"),
    "module marginals": (lambda: fastmmd.TransferLoss(marginal=(1, 2, 3)), ValueError, "marginal.*2 numbers.*got 3"),
    "module graph": (
        lambda: fastmmd.MMDLoss(Gaussian(torch.zeros((), requires_grad=True).exp())),
        TypeError,
        "bandwidth.*Parameter.*every step",
    ),
    "module weights graph": (
        lambda: fastmmd.MMDLoss(Gaussian(weights=torch.zeros(5, requires_grad=True).softmax(0))),
        TypeError,
        "weights.*Parameter.*every step",
    ),
    "jit.trace": (lambda: torch.jit.trace(fastmmd.mmd, (X, X)), RuntimeError, "torch.compile or torch.export"),
    "median gradient": (lambda: Gaussian("median", detach_bandwidth=False), ValueError, "detach_bandwidth.*median"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:FutureWarning")
@pytest.mark.parametrize(("call", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_a_learned_bandwidth_that_left_its_range(backend):
    if fastmmd.build_info()["backends"][backend] is not None:
        pytest.skip(f"no {backend} here")
    bandwidth = torch.tensor(1.0, requires_grad=True)
    kernel = Gaussian(bandwidth)
    with torch.no_grad():
        bandwidth.sub_(2)
    with pytest.raises(ValueError, match=r"bandwidth.*positive.*-1"):
        fastmmd.mmd(X, X, kernel, backend=backend)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_named_backend_works_or_says_why(backend):
    reason = fastmmd.build_info()["backends"][backend]
    if reason is None:
        pytest.skip(f"{backend} runs here")
    with pytest.raises(RuntimeError, match=rf"backend '{backend}' can't run here.*torch.*reference"):
        fastmmd.mmd(X, X, backend=backend)


def test_without_the_extension(monkeypatch):
    """An installation without compiled kernels: "auto" falls back, "cpu" says how to mend it."""
    from fastmmd import extension

    expected = fastmmd.mmd(X, X + 1)
    monkeypatch.setattr(extension, "module", None)
    monkeypatch.setattr(extension, "reason", "not built")
    assert fastmmd.build_info()["compiled"] is None
    assert fastmmd.mmd(X, X + 1).item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(RuntimeError, match=r"backend 'cpu' can't run here: not built.*'torch'.*'reference'"):
        fastmmd.mmd(X, X, backend="cpu")


def test_numpy_numbers_are_numbers():
    kernel = Gaussian(np.float32(2.0), np.array([1.0, 2.0]))
    result = fastmmd.discrepancy([X], [X + 1], [kernel], joint=np.float32(0.5), marginal=(np.float64(0.5),))
    assert result.loss.item() == pytest.approx(fastmmd.mmd(X, X + 1, Gaussian(2.0, (1, 2))).item(), rel=1e-6)
