"""Values of routes against fp64, and the processes that compute them."""

import json
import sys

import torch

from bench import values, variants
from bench.variants import Variant
from tests.bench.test_gate import CPU
from tests.bench.test_variants import TINY


def line_of(route):
    return values.evaluate(Variant(route, "ieee", torch.float32, TINY), CPU)


def test_a_failure_is_a_line(monkeypatch):
    def fails(*_):
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(variants, "errors", fails)
    line = line_of("torch")
    assert values.outcome(line) == "failed"
    assert line["failed"] == "RuntimeError: no luck"


def test_an_error_beyond_what_is_allowed_is_wrong():
    line = line_of("torch")
    assert values.outcome(line) == "right"
    assert values.outcome(line | {"right": False}) == "wrong"


# The processes of a route --------------------------------------------------------------------------------------------

WORKER = """
import json, os, signal, sys, time
first = int(sys.argv[1])
for number in range(first, 4):
    {event}
    print(json.dumps({{"route": "torch", "right": True, "number": number}}), flush=True)
"""


def lines_of_processes(monkeypatch, event, patience=60.0):
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


def test_one_process_computes_all_values_where_none_fails(monkeypatch):
    assert lines_of_processes(monkeypatch, "pass") == [0, 1, 2, 3]


def test_a_crash_is_a_failed_value_and_the_next_is_computed(monkeypatch):
    crash = "number == 1 and os.kill(os.getpid(), signal.SIGSEGV)"
    assert lines_of_processes(monkeypatch, crash) == [0, "its process ended with status -11", 2, 3]


def test_words_between_the_values_are_no_values(monkeypatch, capfd):
    """Triton prints what its assembler refuses."""
    assert lines_of_processes(monkeypatch, "print('ptxas: no luck')") == [0, 1, 2, 3]
    assert capfd.readouterr().err.count("ptxas: no luck") == 4


def test_a_hang_is_a_failed_value_and_the_next_is_computed(monkeypatch):
    """Patience is enough for a bare Python to start on a busy machine."""
    hang = "number == 1 and time.sleep(600)"
    assert lines_of_processes(monkeypatch, hang, 10.0) == [0, "no value in 10 s", 2, 3]


def test_an_unusable_device_has_a_line_already(monkeypatch):
    """The process ends after the line of the value that failed, and a new one goes on."""
    line = {"route": "torch", "right": False, "failed": "illegal access"}
    event = f"number == 1 and (print({json.dumps(json.dumps(line))}, flush=True), os._exit({values.UNUSABLE}))"
    assert lines_of_processes(monkeypatch, event) == [0, "illegal access", 2, 3]


def test_a_route_that_always_crashes_is_given_up(monkeypatch):
    monkeypatch.setattr(values, "MOST_CRASHES", 2)
    lines = lines_of_processes(monkeypatch, "os._exit(9)")
    assert lines == ["its process ended with status 9"] * 2 + ["2 crashes: 2 not computed"]


def test_a_process_prints_the_lines_from_a_value_on(capsys, monkeypatch):
    monkeypatch.setattr(variants, "RULE_SIZES", (TINY,))
    todo = variants.variants("torch")
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
