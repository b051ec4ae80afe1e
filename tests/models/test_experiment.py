"""Comparisons: finished runs are kept, interrupted ones resume, changed ones begin anew."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import active_children, get_context

import pytest
import torch
from PIL import Image

import fastmmd
from fastmmd.models import experiment
from fastmmd.models.cli import TransferCLI
from fastmmd.models.data.division import Division
from fastmmd.models.digits import compare
from fastmmd.models.experiment import Run, execute_all
from fastmmd.models.files import write_atomically
from fastmmd.models.module import TransferTask

from .figures import assert_drawn

SHORT = ("--data.steps_per_epoch=5", "--trainer.max_epochs=3")


def run(*args):
    return Run("mnist", "jan", 3, ("--config=digits.yaml", "--config=jan.yaml", *SHORT, *args))


def test_interrupted_run_resumes_to_the_same_predictions(tmp_path, monkeypatch):
    whole = run().execute(tmp_path / "whole")
    assert run().result(tmp_path / "whole") == whole

    step = TransferTask.training_step

    def failing_step(task, batch, batch_idx):
        if task.global_step == 12:
            raise ConnectionError("the power went out")
        return step(task, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TransferTask, "training_step", failing_step)
        with pytest.raises(ConnectionError):
            run().execute(tmp_path / "parts")
    assert run().result(tmp_path / "parts") is None
    steps = []
    monkeypatch.setattr(
        TransferTask, "on_train_batch_start", lambda task, batch, batch_idx: steps.append(task.global_step)
    )
    resumed = run().execute(tmp_path / "parts")
    assert steps == [10, 11, 12, 13, 14]
    assert resumed["accuracy"] == whole["accuracy"]
    files = [tmp_path / name / whole["folder"] / "predictions.csv" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_folder_depends_on_all_that_defines_a_run(tmp_path):
    config = tmp_path / "own.yaml"
    folders = set()
    for text in ("{}", "{output: x}"):
        config.write_text(text)
        folders.add(run(f"--config={config}").folder(tmp_path))
    folders |= {run().folder(tmp_path), run("--trainer.max_epochs=2").folder(tmp_path)}
    split = tmp_path / "split.json"
    for text in ("1", "2"):
        split.write_text(text)
        folders.add(run(f"--data.split={split}").folder(tmp_path))
    folders |= {replace(run(), fold=fold).folder(tmp_path) for fold in (0, 1)}
    assert len(folders) == 8
    assert run().folder(tmp_path) == run().folder(tmp_path)


def test_folder_depends_on_versions_and_code(tmp_path, monkeypatch):
    before = run().folder(tmp_path)
    monkeypatch.setattr(experiment, "code_digest", lambda: "other")
    other_code = run().folder(tmp_path)
    monkeypatch.setitem(experiment.VERSIONS, "torch", "0.1")
    assert len({before, other_code, run().folder(tmp_path)}) == 3


def test_code_digest_sees_every_file(tmp_path, monkeypatch):
    monkeypatch.setattr(fastmmd, "__file__", str(tmp_path / "__init__.py"))
    digests = set()
    for name, content in (("a.py", "1"), ("a.py", "2"), ("_C.so", "1"), ("_C.so", "2"), ("notes.txt", "1")):
        (tmp_path / name).write_text(content)
        digests.add(experiment.code_digest.__wrapped__())
    assert len(digests) == 4


def test_weights_that_are_not_finite_make_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(
        TransferTask, "on_train_end", lambda task: torch.nn.init.constant_(task.network.head.bias, float("nan"))
    )
    monkeypatch.setattr(experiment, "TransferCLI", Untested)
    with pytest.raises(FloatingPointError, match="outputs are not finite"):
        run().execute(tmp_path)
    assert run().result(tmp_path) is None


class Untested(TransferCLI):
    """Tests the weights at hand, not those of a checkpoint."""

    def after_instantiate_classes(self):
        super().after_instantiate_classes()
        test = self.trainer.test
        self.trainer.test = lambda model, data, ckpt_path, verbose: test(model, data, verbose=verbose)


def test_failing_run_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def execute(run, root):
        if run.seed == 1:
            raise ValueError("no such data")
        return {"accuracy": 50.0, "seconds": 0.1}

    monkeypatch.setattr(Run, "execute", execute)
    monkeypatch.setattr(experiment, "check", lambda runs, root: None)
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(jobs))
    with pytest.raises(SystemExit, match="1 of 3 runs failed") as failure:
        execute_all([Run("mnist", "jan", seed, ()) for seed in (0, 1, 2)], tmp_path, jobs=1)
    assert failure.value.code not in (None, 0)
    out = capsys.readouterr().out
    assert "mnist, jan, seed1: failed: ValueError: no such data" in out
    assert "mnist, jan, seed2: 50.0 %" in out


@pytest.fixture
def unspawned(monkeypatch):
    """No run begins."""
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", lambda *_, **__: pytest.fail("a process was begun"))


def seeds(*args, folds=(None,)):
    """Runs of two methods and three seeds."""
    return [
        Run("task", method, seed, ("--config=digits.yaml", f"--config={method}.yaml", *args), fold=fold)
        for method in ("jan", "dan")
        for seed in (0, 1, 2)
        for fold in folds
    ]


def folders(root, *classes):
    for name in classes:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / name / "1.jpg")
    return "torchvision.datasets.ImageFolder", f"--data.source.root={root}"


def test_data_that_cannot_be_used_end_all_before_the_first_run(tmp_path, unspawned, capsys):
    kind, root = folders(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "absent")):
        execute_all(seeds(f"--data.source={kind}", root), tmp_path, jobs=2)
    assert capsys.readouterr().err.count("task, jan: no run was begun") == 1
    kind, root = folders(tmp_path / "photos", "awe", "fear")
    with pytest.raises(ValueError, match=r"same classes in the same order; source has .'awe', 'fear'"):
        execute_all(seeds(f"--data.source={kind}", root), tmp_path, jobs=2)
    with pytest.raises(ValueError, match=r"fold: expected one of 0..4, got 7"):
        execute_all(seeds(folds=(0, 1, 7)), tmp_path, jobs=2)
    assert not (tmp_path / "task").exists()


def test_wrong_overrides_end_all_before_the_first_run(tmp_path, unspawned, capsys):
    with pytest.raises(SystemExit) as end:
        execute_all(seeds("--data.steps_per_epok=3"), tmp_path, jobs=2)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("near to --data.steps_per_epok: --data.steps_per_epoch") == 1


def test_each_set_of_data_is_built_once(tmp_path, monkeypatch):
    built, divide = [], Division.__init__

    def divided(division, domains, **settings):
        built.append(settings["fold"])
        divide(division, domains, **settings)

    monkeypatch.setattr(Division, "__init__", divided)
    experiment.check(seeds(folds=(0, 1, 4)), tmp_path)
    assert built == [0]
    built.clear()
    experiment.check([*seeds(folds=(0, None, 1)), *seeds("--data.target_test=0.3", "--data.workers=1")], tmp_path)
    assert built == [0, None, None]


def test_finished_runs_are_not_checked(tmp_path, unspawned, monkeypatch):
    monkeypatch.setattr(Run, "result", lambda run, root: {"accuracy": 50.0})
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(jobs))
    kind, root = folders(tmp_path / "absent")
    assert len(execute_all(seeds(f"--data.source={kind}", root), tmp_path, jobs=1)) == 6


def test_errors_without_a_path_name_the_run(tmp_path, monkeypatch, capsys):
    def execute(run, root):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Run, "execute", execute)
    monkeypatch.setattr(experiment, "check", lambda runs, root: None)
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(jobs))
    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        execute_all([run()], tmp_path, jobs=1)
    assert f"No space left on device; free space there, or choose another folder: '{run().folder(tmp_path)}'" in (
        capsys.readouterr().out
    )


def test_interruption_is_one_line(tmp_path, monkeypatch):
    def interrupted(futures, return_when):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "wait", interrupted)
    with pytest.raises(SystemExit, match="the same command continues"):
        execute_all([run()], tmp_path, jobs=1)
    assert not active_children()


class Killed(Run):
    """Seed 1 is killed once, seed 2 always, once seed 1 has begun; the others finish."""

    def execute(self, root):
        while self.seed == 2 and not (root / "seed1.txt").exists():
            time.sleep(0.01)
        with open(root / f"{self.name}.txt", "a") as file:
            file.write("begun ")
        tries = (root / f"{self.name}.txt").read_text().count("begun")
        if self.seed == 2 or (self.seed == 1 and tries == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"accuracy": 50.0, "seconds": 0.1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_process_costs_no_other_run(tmp_path, monkeypatch, capsys, jobs):
    """Such as one that the system kills for want of memory."""
    monkeypatch.setattr(experiment, "check", lambda runs, root: None)
    monkeypatch.setattr(experiment, "get_context", lambda _: get_context("fork"))
    runs = [Killed("mnist", "jan", seed, ()) for seed in range(6)]
    with pytest.raises(SystemExit, match="1 of 6 runs failed"):
        execute_all(runs, tmp_path, jobs)
    out = capsys.readouterr().out
    assert "mnist, jan, seed2: failed: BrokenProcessPool" in out
    for seed in (0, 1, 3, 4, 5):
        assert f"mnist, jan, seed{seed}: 50.0 %" in out
    begun = (tmp_path / "seed2.txt").read_text().count("begun")
    assert begun in {1: [2], 2: [1, 2]}[jobs]  # seed 1 beside it may end the first pool before it begins
    assert not active_children()


PARENT = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from fastmmd.models.experiment import _begin_worker
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin_worker)
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 300)
    time.sleep(300)
"""


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)
        parent.kill()
    for _ in range(1200):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker went on")


def test_comparison_writes_table_and_pictures_once(tmp_path, capsys):
    settings = {"tasks": ["mnist"], "methods": ["statistics", "dan"], "seeds": [0], "overrides": SHORT, "jobs": 1}
    compare(output=tmp_path, **settings)
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(first) == 2
    compare(output=tmp_path, **settings)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == first
    table = (tmp_path / "results.md").read_text()
    assert table in capsys.readouterr().out
    assert "| MNIST-5k to optdigits | batch statistics only |" in table
    assert "| MNIST-5k to optdigits | DAN |" in table
    assert "target labels ignored in training. Checkpoint: last, not selected. Steps: 15." in table
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["task"], row["method"], row["steps"]) for row in rows] == [
        ("mnist", "statistics", "15"),
        ("mnist", "dan", "15"),
    ]
    for name in ("accuracy.png", "confusion_mnist.png"):
        assert_drawn(tmp_path / name)


def test_file_is_complete_or_absent(tmp_path):
    path = tmp_path / "new" / "file.json"
    with write_atomically(path) as file:
        json.dump([1], file)
    with suppress(KeyError), write_atomically(path) as file:
        file.write("half")
        raise KeyError
    assert json.loads(path.read_text()) == [1]
    assert list(path.parent.iterdir()) == [path]
