"""torch's setting for fp32 products is held for a computation, and then as it was."""

import threading

import pytest
import torch

from fastmmd.precision import matmul_precision, torch_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
by_backend = pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="this torch has one setting for all backends"
)


def products(device):
    return torch.backends.cuda.matmul if device.type == "cuda" else torch.backends.mkldnn.matmul


def backend(device):
    """The setting of all operations of a backend, which that of its products follows if it is "none"."""
    return torch.backends.cudnn if device.type == "cuda" else torch.backends.mkldnn


@pytest.fixture
def untouched():
    yield
    torch.set_float32_matmul_precision("highest")
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        for device in (CPU, CUDA):
            products(device).fp32_precision = backend(device).fp32_precision = "none"
        torch.backends.fp32_precision = "none"


@by_backend
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize("of_products", ["none", "ieee", "tf32"])
@pytest.mark.parametrize("of_backend", ["none", "ieee", "tf32"])
@pytest.mark.parametrize("of_torch", ["none", "ieee", "tf32"])
def test_every_setting_is_as_it_was(device, precision, of_products, of_backend, of_torch):
    def settings():
        """What each of the three is, and what it becomes when a wider one changes."""
        values = []
        for wide in ("ieee", "tf32", of_torch):
            torch.backends.fp32_precision = wide
            for middle in ("ieee", "tf32", of_backend):
                backend(device).fp32_precision = middle
                values.append((products(device).fp32_precision, backend(device).fp32_precision))
        return values

    torch.backends.fp32_precision = of_torch
    backend(device).fp32_precision = of_backend
    products(device).fp32_precision = of_products
    expected = settings()
    with matmul_precision(device, precision):
        assert torch_precision(device) == ("ieee" if precision == "ieee" else "tf32")
    assert settings() == expected


@by_backend
@pytest.mark.usefixtures("untouched")
def test_a_later_global_setting_still_arrives():
    with matmul_precision(CUDA, "tf32"):
        pass
    torch.backends.fp32_precision = "tf32"
    assert torch_precision(CUDA) == "tf32"
    with matmul_precision(CUDA, "ieee"):
        assert torch_precision(CUDA) == "ieee"
    torch.backends.fp32_precision = "ieee"
    assert torch_precision(CUDA) == "ieee"


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_the_old_setting_is_as_it_was(before, precision):
    torch.set_float32_matmul_precision(before)
    with matmul_precision(CUDA, precision):
        assert torch_precision(CUDA) == precision
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_torch_with_the_old_setting_alone(monkeypatch, before):
    monkeypatch.setattr("fastmmd.precision._setting", lambda device: None)
    torch.set_float32_matmul_precision(before)
    for precision, within in (("ieee", "highest"), ("tf32", "high")):
        with matmul_precision(CUDA, precision):
            assert torch.get_float32_matmul_precision() == within
        assert torch.get_float32_matmul_precision() == before


@pytest.mark.usefixtures("untouched")
def test_the_setting_is_restored_after_an_error():
    with pytest.raises(ZeroDivisionError), matmul_precision(CPU, "tf32"):
        1 / 0  # noqa: B018
    assert torch_precision(CPU) == "ieee"


HANG = 60.0  # seconds; no machine is so busy


@pytest.mark.usefixtures("untouched")
def test_threads_hold_the_setting_one_at_a_time():
    """While a thread computes with TF32, another one that needs full fp32 waits for it."""
    holds, leave, enters, events = threading.Event(), threading.Event(), threading.Event(), []

    def hold():
        with matmul_precision(CPU, "tf32"):
            holds.set()
            leave.wait(HANG)
            events.append("left")

    def read():
        with matmul_precision(CPU, "ieee"):
            enters.set()
            events.append(torch_precision(CPU))

    threads = [threading.Thread(target=target, daemon=True) for target in (hold, read)]
    threads[0].start()
    assert holds.wait(HANG)
    threads[1].start()
    try:
        assert not enters.wait(0.2)  # without the lock it enters at once
    finally:
        leave.set()
    for thread in threads:
        thread.join(HANG)
    assert events == ["left", "ieee"]
