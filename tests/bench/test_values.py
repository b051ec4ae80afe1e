"""Values of routes against fp64. Where kernels run on the CPU (tests/conftest.py) the GPU's routes are computed too."""

import json
import sys

import pytest
import torch

from bench import values
from bench.values import Variant
from fastmmd import dispatch
from fastmmd.backends import cuda, triton
from tests.bench.test_gate import CPU

TINY = (5, 3, (7, 4))
FORCED = [name for name in values.route_names() if name in values.configs()]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(values, "FORCED_SIZES", (TINY,))
    monkeypatch.setattr(values, "TABLE_SIZES", (TINY,))


def compute(route, precision="ieee", dtype=torch.float32, sizes=TINY):
    return values.evaluate(Variant(route, precision, dtype, sizes), CPU)


def test_every_route_has_every_format_and_dtype():
    every = {
        *((precision, dtype) for precision in values.PRECISIONS for dtype in (torch.float32, *values.ROUNDING)),
        ("ieee", torch.float64),
    }
    assert set(values.KINDS) == every
    for route in values.route_names(values.BACKENDS):
        kinds = {(variant.precision, variant.dtype) for variant in values.variants(route)}
        assert kinds == (every - {("ieee", torch.float64)} if "tiles" in route else every)
    assert len(set(values.route_names(values.BACKENDS))) == len(values.route_names(values.BACKENDS))


def test_sizes_are_odd_and_ragged_and_on_both_sides_of_the_tables_bounds():
    assert any(n == 1 for n, *_ in values.FORCED_SIZES)
    assert any(n % 2 and n > 256 for n, *_ in values.FORCED_SIZES)
    rows = [n + m for n, m, _ in values.TABLE_SIZES]
    assert min(rows) <= cuda.SMALL_ROWS < max(rows)
    assert max(rows) >= 4096


def test_routes_that_compile_nothing_come_first():
    names = [values.backend_of(route) for route in values.route_names()]
    assert names == sorted(names, key=("cuda", "torch", "triton").index)


@pytest.mark.parametrize("route", ["torch", "cpu"])
@pytest.mark.parametrize(("precision", "dtype"), values.KINDS, ids=str)
def test_backends_of_the_cpu_are_right(route, precision, dtype):
    if reason := dispatch.unavailable(route, CPU):
        pytest.skip(reason)
    line = compute(route, precision, dtype, (33, 31, (20, 4)))
    assert line["right"], line
    assert json.loads(json.dumps(line)) == line | {"dims": [20, 4]}


@pytest.mark.parametrize("route", FORCED)
@pytest.mark.parametrize(("precision", "dtype"), values.KINDS[:7], ids=str)
def test_forced_routes_are_right_where_they_run_on_the_cpu(route, precision, dtype, tiny):
    if reason := dispatch.unavailable(values.backend_of(route), CPU):
        pytest.skip(reason)
    if Variant(route, precision, dtype, TINY) not in values.variants(route):
        pytest.skip("this route has no such values")
    if triton.interpreted() and (precision, dtype) not in values.KINDS[1:4:2]:
        pytest.skip("its interpreter takes long")
    line = compute(route, precision, dtype)
    assert line["right"], line


@pytest.mark.parametrize("route", FORCED)
def test_a_forced_route_is_what_its_backend_takes(route):
    backend = values.backend_of(route)
    table = values.table_of(backend)
    arguments = (4096, (256, 8), "bf16", 227 << 10) if backend == "cuda" else ("nvidia", 4096, (256, 8), "bf16")
    with values.taking(route):
        assert table.line(*arguments).config == values.configs()[route]
    with values.taking(backend):
        assert table.line in (cuda.line, table.line)


@pytest.mark.parametrize(
    ("broken", "key"),
    [
        (lambda loss: loss * 1.001, "loss_error"),
        (lambda loss: loss + 0.001 * (loss - loss.detach()), "gradient_error"),
        (lambda loss: loss if loss.requires_grad else loss + 1e-4, "loss_error_without_gradients"),
        (lambda loss: loss * float("nan"), "loss_error"),
    ],
    ids=["loss", "gradient", "loss without gradients", "NaN"],
)
def test_a_wrong_value_is_wrong(monkeypatch, broken, key):
    right = values.discrepancy
    monkeypatch.setattr(values, "discrepancy", lambda *a, **o: (r := right(*a, **o))._replace(loss=broken(r.loss)))
    line = compute("torch")
    assert values.outcome(line) == "wrong"
    assert not line[key] <= line["allowed"][key == "gradient_error"]


def test_half_inputs_may_not_err_more_than_their_rounding(monkeypatch):
    right = values.discrepancy
    monkeypatch.setattr(
        values,
        "discrepancy",
        lambda s, t, *a, **o: right([x.bfloat16() for x in s], [x.bfloat16() for x in t], *a, **o),
    )
    assert values.outcome(compute("torch", dtype=torch.float16)) == "wrong"
    assert values.outcome(compute("torch", dtype=torch.bfloat16)) == "right"


def test_a_failure_is_a_line(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(values, "discrepancy", fails)
    line = compute("torch")
    assert values.outcome(line) == "failed"
    assert line["failed"] == "RuntimeError: no luck"


# The processes of a route --------------------------------------------------------------------------------------------

WORKER = """
import json, os, signal, sys, time
first = int(sys.argv[1])
for number in range(first, 4):
    {event}
    print(json.dumps({{"route": "torch", "right": True, "number": number}}), flush=True)
"""


def of_processes(monkeypatch, event, patience=30.0):
    """The lines of a route of four values whose processes do `event` before each."""
    start = values.subprocess.Popen

    def instead(command, **options):
        return start([sys.executable, "-c", WORKER.format(event=event), command[-1]], **options)

    monkeypatch.setattr(
        values, "variants", lambda route: [Variant(route, "ieee", torch.float32, (n, 9, (1,))) for n in range(4)]
    )
    monkeypatch.setattr(values.subprocess, "Popen", instead)
    monkeypatch.setattr(values, "PATIENCE", patience)
    return [line.get("number", line.get("failed")) for line in values.lines("torch", CPU)]


def test_all_lines_of_one_process(monkeypatch):
    assert of_processes(monkeypatch, "pass") == [0, 1, 2, 3]


def test_a_crash_is_a_failed_value_and_the_next_is_computed(monkeypatch):
    crash = "number == 1 and os.kill(os.getpid(), signal.SIGSEGV)"
    assert of_processes(monkeypatch, crash) == [0, "its process ended with status -11", 2, 3]


def test_words_between_the_values_are_no_values(monkeypatch, capfd):
    """Triton prints what its assembler refuses."""
    assert of_processes(monkeypatch, "print('ptxas: no luck')") == [0, 1, 2, 3]
    assert capfd.readouterr().err.count("ptxas: no luck") == 4


def test_a_hang_is_a_failed_value_and_the_next_is_computed(monkeypatch):
    hang = "number == 1 and time.sleep(600)"
    assert of_processes(monkeypatch, hang, 5.0) == [0, "no value in 5 s", 2, 3]


def test_an_unusable_device_has_a_line_already(monkeypatch):
    """The process ends after it has said which value failed, and a new one goes on."""
    said = {"route": "torch", "right": False, "failed": "illegal access"}
    event = f"number == 1 and (print({json.dumps(json.dumps(said))}, flush=True), os._exit({values.UNUSABLE}))"
    assert of_processes(monkeypatch, event) == [0, "illegal access", 2, 3]


def test_a_route_that_always_crashes_is_given_up(monkeypatch):
    monkeypatch.setattr(values, "MOST_CRASHES", 2)
    found = of_processes(monkeypatch, "os._exit(9)")
    assert found == ["its process ended with status 9"] * 2 + ["2 crashes: 2 not computed"]


def test_a_process_prints_the_lines_from_a_value_on(tiny, capsys):
    todo = values.variants("torch")
    try:
        assert values.work("torch", len(todo) - 2, CPU) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [(line["precision"], line["dtype"]) for line in lines] == [
        (variant.precision, str(variant.dtype).removeprefix("torch.")) for variant in todo[-2:]
    ]
    assert all(line["right"] for line in lines)


def test_a_route_that_cannot_run_on_the_device_is_absent(tmp_path, capsys):
    """Through a process of its own."""
    out = tmp_path / "new" / "values.jsonl"
    assert values.main(["--out", str(out), "--device", "cpu", "--routes", "cuda"]) == 0
    absent, summary = (json.loads(text) for text in out.read_text().splitlines())
    assert absent["route"] == "cuda"
    assert "CUDA" in absent["absent"]
    assert summary == {"summary": {"absent": 1}}
    assert "values: 1 absent" in capsys.readouterr().out


def test_a_wrong_value_shows_in_the_status(tmp_path, monkeypatch):
    wrong = {"route": "torch", "right": False, "gradient_error": 1.0}
    monkeypatch.setattr(values, "lines", lambda route, device: iter([wrong]))
    out = tmp_path / "values.jsonl"
    assert values.main(["--out", str(out), "--device", "cpu", "--routes", "torch"]) == 1
    assert [json.loads(text) for text in out.read_text().splitlines()] == [wrong, {"summary": {"wrong": 1}}]
