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
@pytest.mark.parametrize("wanted", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize("own", ["none", "ieee", "tf32"])
@pytest.mark.parametrize("of_backend", ["none", "ieee", "tf32"])
@pytest.mark.parametrize("of_torch", ["none", "ieee", "tf32"])
def test_every_setting_is_as_it_was(device, wanted, own, of_backend, of_torch):
    def settings():
        """What each of the three is, and what it becomes when a wider one changes."""
        found = []
        for wide in ("ieee", "tf32", of_torch):
            torch.backends.fp32_precision = wide
            for middle in ("ieee", "tf32", of_backend):
                backend(device).fp32_precision = middle
                found.append((products(device).fp32_precision, backend(device).fp32_precision))
        return found

    torch.backends.fp32_precision = of_torch
    backend(device).fp32_precision = of_backend
    products(device).fp32_precision = own
    expected = settings()
    with matmul_precision(device, wanted):
        assert torch_precision(device) == ("ieee" if wanted == "ieee" else "tf32")
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
@pytest.mark.parametrize("wanted", ["ieee", "tf32"])
def test_the_old_setting_is_as_it_was(before, wanted):
    torch.set_float32_matmul_precision(before)
    with matmul_precision(CUDA, wanted):
        assert torch_precision(CUDA) == wanted
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_torch_with_the_old_setting_alone(monkeypatch, before):
    monkeypatch.setattr("fastmmd.precision._setting", lambda device: None)
    torch.set_float32_matmul_precision(before)
    for wanted, within in (("ieee", "highest"), ("tf32", "high")):
        with matmul_precision(CUDA, wanted):
            found = torch.get_float32_matmul_precision()
            assert found == within or (wanted == "tf32" and before == "medium")
        assert torch.get_float32_matmul_precision() == before


@pytest.mark.usefixtures("untouched")
def test_an_error_restores_it_too():
    with pytest.raises(ZeroDivisionError), matmul_precision(CPU, "tf32"):
        1 / 0  # noqa: B018
    assert torch_precision(CPU) == "ieee"


@pytest.mark.usefixtures("untouched")
def test_one_thread_at_a_time():
    entered, leave, seen = threading.Event(), threading.Event(), []

    def hold():
        with matmul_precision(CPU, "tf32"):
            entered.set()
            leave.wait(10)

    def read():
        with matmul_precision(CPU, "ieee"):
            seen.append(torch_precision(CPU))

    threads = [threading.Thread(target=hold), threading.Thread(target=read)]
    threads[0].start()
    entered.wait(10)
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert seen == ["ieee"]
