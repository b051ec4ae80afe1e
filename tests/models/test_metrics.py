"""What a test says beside its accuracy: values by hand, on the command line, and in tables of many runs."""

import csv
import doctest
import json
import re

import numpy as np
import pytest

from fastmmd.models.analysis import metrics
from fastmmd.models.analysis.metrics import polarity, report
from fastmmd.models.cli import main
from fastmmd.models.data.readers.classes import EKMAN, MIKELS
from fastmmd.models.emotion import read_results
from fastmmd.models.results import accuracy_table, method_table, write_csv


def certain(predictions, count):
    """Probabilities of a network that is always sure."""
    return np.eye(count)[predictions]


def test_values_by_hand():
    labels, predictions = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]
    values = report(labels, certain(predictions, 3), ["a", "b", "c"])
    assert values == pytest.approx(
        {
            # precisions 1, 1/2, 1/2, recalls 2/3, 1/2, 1: F1 4/5, 1/2, 2/3
            "macro_f1": (4 / 5 + 1 / 2 + 2 / 3) / 3,
            "balanced_accuracy": (2 / 3 + 1 / 2 + 1) / 3,
        }
    )


def test_classes_without_images_are_left_out_of_means():
    """As He & Ding's anger. What is taken for such a class still lowers the recall of the others."""
    labels, predictions = [0, 0, 2, 2], [0, 1, 2, 2]
    values = report(labels, certain(predictions, 3), ["a", "b", "c"])
    assert values == pytest.approx({"macro_f1": (2 / 3 + 1) / 2, "balanced_accuracy": (1 / 2 + 1) / 2})


def test_one_tested_class():
    assert report([1, 1], certain([1, 0], 2), ["a", "b"]) == pytest.approx(
        {"macro_f1": 2 / 3, "balanced_accuracy": 1 / 2}
    )
    assert report([0, 0], certain([1, 1], 2), ["a", "b"]) == {"macro_f1": 0.0, "balanced_accuracy": 0.0}


def test_polarity_is_of_summed_probabilities():
    """Two positive emotions together outweigh a negative one that is more probable than each."""
    classes = ["fear", "awe", "amusement"]
    probabilities = np.array([[0.4, 0.35, 0.25], [0.6, 0.2, 0.2], [0.6, 0.2, 0.2], [0.1, 0.9, 0.0]])
    values = report([1, 0, 2, 2], probabilities, classes)
    assert values["polarity_accuracy"] == 3 / 4
    assert values["macro_f1"] == pytest.approx((1 / 2 + 0 + 0) / 3)


def test_polarity_of_two_classes_is_their_accuracy():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    assert report([0, 0, 1], probabilities, ["negative", "positive"])["polarity_accuracy"] == 2 / 3


def test_known_polarities():
    sides = dict(zip(MIKELS, polarity(MIKELS).tolist(), strict=True))
    assert [name for name, positive in sides.items() if positive] == ["amusement", "awe", "contentment", "excitement"]
    assert polarity(["Awe", "Sadness"]).tolist() == [True, False]
    for classes in (EKMAN, list("0123456789"), ["awe", "amusement"], ["fear"], [*MIKELS, "neutral"]):
        assert polarity(classes) is None


@pytest.mark.parametrize(("labels", "shape"), [([], (0, 2)), ([0], (2, 2)), ([0], (1, 3))])
def test_shapes_that_do_not_agree(labels, shape):
    with pytest.raises(ValueError, match=re.escape("labels [n] and probabilities [n, 2]")):
        report(labels, np.ones(shape), ["a", "b"])


def test_examples():
    assert doctest.testmod(metrics).failed == 0


def test_command_line(tmp_path, caplog):
    short = ["--data.steps_per_epoch=2", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    args = ["--config=digits.yaml", "--config=source_only.yaml", f"--output={tmp_path}", *short]
    main(["fit", *args])
    main(["test", *args])
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert set(values) == {"macro_f1", "balanced_accuracy"}  # a digit is neither positive nor negative
    assert re.search(
        rf"target test accuracy .*; checkpoint: .*; macro-F1 {values['macro_f1']:.1%}, balanced accuracy ", caplog.text
    )
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    recalls = [
        np.mean([row["prediction"] == digit for row in rows if row["label"] == digit])
        for digit in sorted({row["label"] for row in rows})
    ]
    assert values["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    (log,) = (tmp_path / "logs" / "version_1").glob("metrics.csv")
    with open(log, newline="") as file:
        logged = [float(row["test/macro_f1"]) for row in csv.DictReader(file) if row["test/macro_f1"]]
    assert logged == pytest.approx([values["macro_f1"]])


def result(method, seed, **more):
    return {
        **{"task": "t", "method": method, "seed": seed, "accuracy": 50.0 + seed, "correct": 5, "test_images": 10},
        **{"target_labels": "ignored", "checkpoint": "last", "steps": 1, **more},
    }


def test_tables_show_metrics_that_all_runs_of_a_method_have():
    results = [
        result("a", 0, macro_f1=40.0),
        result("a", 1, macro_f1=44.0),
        result("b", 0),
        result("b", 1, macro_f1=9.0),
    ]
    table = method_table(results, {"t": "Task"}, {"a": "A", "b": "B"})
    assert list(table.header) == ["method", "Task, %", "correct/tested", "macro-F1, %"]
    assert [list(row) for row in table.rows] == [
        ["A", "50.5 ± 0.7", "10/20", "42.0 ± 2.8"],
        ["B", "50.5 ± 0.7", "10/20", "-"],
    ]
    rows = {row[1]: list(row[2:]) for row in accuracy_table(results, {"t": "Task"}, {"a": "A", "b": "B"}).rows}
    assert rows["macro-F1, mean of runs"] == ["42.0 ± 2.8", "-"]
    assert "positive against negative, mean of runs" not in rows


def test_tables_without_metrics_stay_as_they_were():
    results = [result("a", 0), result("a", 1)]
    published = {"Task": {"A": 60.0}}
    assert list(method_table(results, {"t": "Task"}, {"a": "A"}, published).header) == [
        *("method", "Task, %", "correct/tested", "published")
    ]
    assert [row[1] for row in accuracy_table(results, {"t": "Task"}, {"a": "A"}, published).rows] == [
        *("pooled", "mean of runs", "published")
    ]


def test_results_with_and_without_metrics_in_one_file(tmp_path):
    results = [result("a", 0), result("b", 0, macro_f1=40.5, polarity_accuracy=80.0)]
    write_csv(results, tmp_path / "results.csv")
    first, second = read_results(tmp_path / "results.csv")
    assert "macro_f1" not in first
    assert (second["macro_f1"], second["polarity_accuracy"], second["correct"]) == (40.5, 80.0, 5)
