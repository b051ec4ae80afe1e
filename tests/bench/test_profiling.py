"""The profile per kernel, with a script in the place of ncu."""

import json
import sys

import pytest

from bench import environment, nsight, profiling
from bench.profiling import PROFILED, Kernel

HEAD = (
    '"ID","Process ID","Process Name","Host Name","thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:'
    'Msg_Type:Msg","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","Section Name",'
    '"Metric Name","Metric Unit","Metric Value"'
)
ACTIVE = nsight.ACTIVE


def output(*launches):
    """What ncu prints: (position in PROFILED or None, kernel, {metric: (unit, value)}) per launch."""
    lines = ["a program's words", "==PROF== Connected to process 7", "==PROF== Disconnected from process 7", HEAD]
    for number, (position, kernel, metrics) in enumerate(launches):
        nvtx = (
            "" if position is None else f"1 <default domain>:{profiling.label(position)}:none:none:none:none:none:none"
        )
        for metric, (unit, value) in metrics.items():
            cells = (number, 7, "python3", "127.0.0.1", nvtx, kernel, 1, 7, "(256, 1, 1)", "(64, 1, 1)", 0, "9.0")
            cells += ("Command line profiler metrics", metric, unit, value)
            lines.append(",".join(f'"{cell}"' for cell in cells))
    return "\n".join(lines) + "\n"


ALL = {
    "gpu__time_duration.sum": ("ns", "1,000"),
    f"sm__pipe_tensor_cycles_active.{ACTIVE}": ("%", "40"),
    f"sm__inst_executed_pipe_tensor.{ACTIVE}": ("%", "99"),
    f"sm__pipe_fma_cycles_active.{ACTIVE}": ("%", "20.5"),
    f"sm__inst_issued.{ACTIVE}": ("%", "80"),
    "dram__bytes.sum": ("byte", "2,048"),
    "lts__t_bytes.sum": ("byte", "4,096"),
}


def test_quantities_of_a_kernel_are_read_in_their_units():
    (kernel,) = profiling.parse(output((2, "fused_kernel(int, float)", ALL)))
    expected = Kernel(*PROFILED[2], "fused_kernel(int, float)", 1, 1e-6, 0.4, 0.205, 0.8, 2048, 4096)
    assert vars(kernel) == {
        name: pytest.approx(value) if isinstance(value, float) else value for name, value in vars(expected).items()
    }


def test_launches_of_a_kernel_are_added_and_shares_are_weighted_by_time():
    longer = ALL | {"gpu__time_duration.sum": ("us", "3"), f"sm__pipe_tensor_cycles_active.{ACTIVE}": ("%", "80")}
    other = ALL | {"gpu__time_duration.sum": ("ms", "1")}
    kernels = profiling.parse(output((0, "a", ALL), (0, "b", other), (0, "a", longer), (1, "a", ALL)))
    assert [(k.case, k.backend, k.kernel, k.launches) for k in kernels] == [
        (*PROFILED[0], "a", 2),
        (*PROFILED[0], "b", 1),
        (*PROFILED[1], "a", 1),
    ]
    assert kernels[0].seconds == pytest.approx(4e-6)
    assert kernels[0].tensor == pytest.approx((1 * 0.4 + 3 * 0.8) / 4)
    assert kernels[0].memory_bytes == 4096
    assert kernels[1].seconds == pytest.approx(1e-3)


def test_a_metric_that_the_gpu_lacks_is_replaced_or_not_read():
    lacking = ALL | {
        f"sm__pipe_tensor_cycles_active.{ACTIVE}": ("", "n/a"),
        "dram__bytes.sum": ("", "n/a"),
        "dram__bytes_read.sum": ("byte", "3"),
        "dram__bytes_write.sum": ("byte", "4"),
        "lts__t_bytes.sum": ("", "n/a"),
    }
    (kernel,) = profiling.parse(output((0, "a", lacking)))
    assert kernel.tensor == pytest.approx(0.99)
    assert (kernel.memory_bytes, kernel.l2_bytes) == (7, None)


def test_a_launch_outside_of_all_labels_is_kept():
    (kernel,) = profiling.parse(output((None, "a", ALL)))
    assert (kernel.case, kernel.backend) == ("?", "?")


def test_labels_are_not_prefixes_of_each_other():
    labels = [profiling.label(position) for position in range(len(PROFILED) + 10)]
    assert not any(a != b and a in b for a in labels for b in labels)


@pytest.mark.parametrize(
    ("text", "kernels"),
    [("", 0), ("==ERROR== no permission\n", 0), (HEAD, 0), (output((0, "a", ALL))[:-40], 1)],
    ids=["nothing", "an error", "the head", "half of it"],
)
def test_no_output_or_half_of_it_is_no_failure(text, kernels):
    assert len(profiling.parse(text)) == kernels


@pytest.fixture
def ncu(tmp_path, monkeypatch):
    """Writes the tool and runs it; the record, and what it was called with."""
    monkeypatch.setattr(environment, "describe", lambda device: {"gpu": "a GPU"})
    monkeypatch.setattr(profiling, "steps", lambda: iter([(4, lambda: None)]))
    monkeypatch.setattr(profiling.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(profiling.measure, "kernel_times", lambda step: [("k", 1e-6), ("k", 2e-6), ("l", 5e-6)])

    def run(script):
        tool = tmp_path / "ncu"
        tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n{script}\n')
        tool.chmod(0o755)
        tools = {nsight.NCU: str(tool)} if script is not None else {}
        monkeypatch.setattr(environment, "tool", tools.get)
        out = tmp_path / "profile.json"
        assert profiling.main(["--out", str(out), "--seconds", "600"]) == 0
        return json.loads(out.read_text())

    run.folder = tmp_path
    return run


def test_the_record_holds_what_ncu_counts(ncu, capsys):
    (ncu.folder / "output").write_text(output((1, "a kernel", ALL)))
    record = ncu(f"cat {ncu.folder}/output")
    assert (record["tool"], record["refusal"]) == ("ncu", None)
    assert [kernel["kernel"] for kernel in record["kernels"]] == ["a kernel"]
    assert "| a kernel | 1 | 1 | 40 | 20.5 | 80 | 0.00205 | 0.0041 |" in capsys.readouterr().out
    arguments = (ncu.folder / "arguments").read_text()
    assert "--clock-control none" in arguments
    assert f"{sys.executable} -m bench.profiling --program" in arguments


@pytest.mark.parametrize(
    ("script", "share", "refusal"),
    [
        (
            "echo '==ERROR== ERR_NVGPUCTRPERM - no permission'; exit 1",
            0.75,
            "ncu ended with status 1; ERR_NVGPUCTRPERM - no permission",
        ),
        ("exit 0", 0.75, "ncu ended with status 0"),
        ("sleep 600", 0.005, "ncu did not end in 3 s"),
        (None, 0.75, "ncu is not installed"),
    ],
    ids=["refused", "silent", "hangs", "missing"],
)
def test_without_ncu_there_are_times_and_the_reason(ncu, capsys, monkeypatch, script, share, refusal):
    monkeypatch.setattr(profiling, "NCU_SHARE", share)  # of 600 s, of which enough are left on a busy machine
    record = ncu(script)
    assert (record["tool"], record["refusal"]) == ("torch.profiler", refusal)
    assert [(k["kernel"], k["launches"], k["seconds"], k["tensor"]) for k in record["kernels"]] == [
        ("k", 2, pytest.approx(3e-6), None),
        ("l", 1, 5e-6, None),
    ]
    assert (record["kernels"][0]["case"], record["kernels"][0]["backend"]) == PROFILED[4]
    assert f"Times by torch.profiler alone: {refusal}." in capsys.readouterr().out


def test_what_is_profiled_are_cases_of_the_benchmark():
    names = {case.name for case in profiling.CASES}
    assert {name for name, _ in PROFILED} <= names
    assert {backend for _, backend in PROFILED} == {"cuda", "triton"}
