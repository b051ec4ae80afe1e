"""Figures, tables and tests of significance: known answers, and pictures that show what they should."""

import csv
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fastmmd.models.analysis import embedding, figures, published
from fastmmd.models.analysis.accuracy import class_accuracy
from fastmmd.models.analysis.distance import proxy_a_distance
from fastmmd.models.analysis.predictions import paired, read_predictions
from fastmmd.models.analysis.significance import (
    compare,
    holm,
    mcnemar,
    paired_difference,
    pairs_table,
    published_margin,
)
from fastmmd.models.analysis.tables import Table

CLASSES = ("amusement", "anger", "awe")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved in a test."""
    figures_saved = []
    savefig = Figure.savefig

    def remember(figure, *args, **kwargs):
        if figure not in figures_saved:
            figures_saved.append(figure)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures_saved


def assert_pictures(path):
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 5
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert {file.suffix for file in path.parent.iterdir()} == {".png", ".pdf"}  # no drafts


def booleans(text):
    return np.array([character == "1" for character in text])


def matrices(*accuracies, folds=3):
    """Method -> [folds, 3, 3] with 10 images per class, `accuracies` tenths of which are right."""
    return {
        f"method {right}": np.array(
            [np.full((3, 3), (10 - right) // 2) + np.eye(3, dtype=int) * (right - (10 - right) // 2)] * folds
        )
        for right in accuracies
    }


# Accuracy of classes


def test_binomial_spread_is_wilsons_interval():
    accuracy, low, high = class_accuracy(np.array([[5, 5, 0], [0, 0, 0], [0, 0, 10]]))
    np.testing.assert_allclose(accuracy, [50, np.nan, 100])
    np.testing.assert_allclose(low, [23.66, np.nan, 72.25], atol=0.01)  # 5 and 10 of 10, published tables
    np.testing.assert_allclose(high, [76.34, np.nan, 100], atol=0.01)


def test_spread_over_folds_ignores_folds_without_images():
    folds = np.array([[[2, 0], [0, 1]], [[0, 2], [0, 0]], [[1, 1], [1, 0]]])
    accuracy, low, high = class_accuracy(folds, "folds")
    np.testing.assert_allclose(accuracy, [50, 50])  # pooled: 3 of 6, 1 of 2
    np.testing.assert_allclose(low, [0, 0])  # 50 - 50, and 50 - 70.7 cut at 0
    np.testing.assert_allclose(high, [100, 100])


@pytest.mark.parametrize(("matrix", "spread"), [(np.ones((2, 3)), "binomial"), (np.ones((1, 2, 2)), "folds")])
def test_accuracy_refuses(matrix, spread):
    with pytest.raises(ValueError, match="expected"):
        class_accuracy(matrix, spread)


# Figures


def test_bars_by_class(tmp_path, drawn):
    figures.by_class(matrices(4, 6, 8), CLASSES, tmp_path / "bars.png", "title", leave_out=["anger"])
    assert_pictures(tmp_path / "bars.png")
    (axes,) = drawn[0].axes
    assert [[bar.get_height() for bar in bars.patches] for bars in axes.containers if hasattr(bars, "patches")] == [
        pytest.approx([height] * 2) for height in (40, 60, 80)
    ]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["amusement\n(30)", "awe\n(30)"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["method 4", "method 6", "method 8"]
    with pytest.raises(ValueError, match=re.escape("got ['joy']")):
        figures.by_class(matrices(4), CLASSES, tmp_path / "bars.png", leave_out=["joy"])
    with pytest.raises(ValueError, match="as the others"):
        figures.by_class(matrices(4) | {"b": np.eye(3, dtype=int)}, CLASSES, tmp_path / "bars.png")
    with pytest.raises(ValueError, match=re.escape("ends in .png")):
        figures.by_class(matrices(4), CLASSES, tmp_path / "bars.jpg")


def test_grid_of_confusions(tmp_path, drawn):
    counts = {name: matrix.sum(axis=0) for name, matrix in matrices(2, 4, 6, 8, 10).items()}
    figures.confusions(counts, CLASSES, tmp_path / "grid.png")
    assert_pictures(tmp_path / "grid.png")
    axes = drawn[0].axes
    assert [ax.axison for ax in axes] == [True] * 5 + [False]
    cells = [text for text in axes[3].texts if text.get_visible()]
    assert [(cell.get_text(), cell.get_color()) for cell in cells[:2]] == [("80", "black"), ("10", "white")]


def test_sweep(tmp_path, drawn):
    results = {"F->I": {0.0: [20, 22], 0.3: [30, 28], 0.1: [25]}, "A->I": {0.0: [18], 0.3: [19]}}
    figures.sweep(results, tmp_path / "sweep.png", "title", published={"F->I": {0.0: 26, 0.3: 30}})
    assert_pictures(tmp_path / "sweep.png")
    lines = {line.get_label(): line.get_xydata().tolist() for line in drawn[0].axes[0].lines}
    assert lines == {
        "F->I": [[0, 21], [0.1, 25], [0.3, 29]],
        "F->I, published": [[0, 26], [0.3, 30]],
        "A->I": [[0, 18], [0.3, 19]],
    }
    with pytest.raises(ValueError, match="published"):
        figures.sweep(results, tmp_path / "sweep.png", published={"I->A": {}})


def test_methods_keep_their_colours_over_tasks(tmp_path, drawn):
    figures.methods({"one": {"a": [50.0], "b": [60.0]}, "two": {"b": [70.0]}}, "title", tmp_path / "methods.png")
    assert_pictures(tmp_path / "methods.png")
    one, two = drawn[0].axes
    assert one.patches[1].get_facecolor() == two.patches[0].get_facecolor()


# Domains


def domain(count, shift, seed, classes=3):
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    return random.normal(shift, 1, (count, 8)) + 4 * np.eye(8)[labels], labels


def test_tsne_is_deterministic_and_keeps_neighbours():
    features, labels = domain(90, 0, seed=0)
    points = embedding.tsne(features, seed=3)
    np.testing.assert_array_equal(points, embedding.tsne(features, seed=3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(90)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.9
    with pytest.raises(ValueError, match="n >= 8"):
        embedding.tsne(features[:7])


@pytest.mark.parametrize("count", [3, 10, 12])
def test_domains_before_and_after(tmp_path, drawn, count):
    stages = {
        name: {"FI": domain(60, 0, 0, min(count, 8)), "ArtPhoto": domain(30, shift, 1, min(count, 8))}
        for name, shift in (("before", 5), ("after", 0))
    }
    embedding.draw_domains(stages, [f"class {k}" for k in range(count)], tmp_path / "tsne.png", "title", limit=40)
    assert_pictures(tmp_path / "tsne.png")
    before, after = drawn[0].axes
    assert [len(points.get_offsets()) for points in before.collections] == [40, 30]
    assert before.get_title() == "before\nproxy A-distance 2.00 of 2"
    assert after.get_title().startswith("after\nproxy A-distance 0.")
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names == ["FI", "ArtPhoto", *(f"class {k}" for k in range(count))]


def test_a_distance_of_equal_and_of_separable_domains():
    random = np.random.default_rng(0)
    source = random.normal(size=(900, 5))
    assert proxy_a_distance(source, random.normal(size=(300, 5))) < 0.2
    assert proxy_a_distance(source, random.normal(4, 1, size=(300, 5))) > 1.95
    assert proxy_a_distance(np.repeat(source, 2, axis=0), source[:50]) < 0.3  # balanced: sizes tell nothing
    # N(0, 1) against N(2, 1): the best error is Phi(-1) = 0.1587.
    assert proxy_a_distance(random.normal(size=(4000, 1)), random.normal(2, 1, (4000, 1))) == pytest.approx(
        1.365, abs=0.05
    )


@pytest.mark.parametrize(
    ("shapes", "message"), [(((9, 2), (9, 3)), r"got \(9, 2\) and \(9, 3\)"), (((9, 2), (4, 2)), "at least 5 items")]
)
def test_a_distance_refuses(shapes, message):
    with pytest.raises(ValueError, match=message):
        proxy_a_distance(*map(np.zeros, shapes))
    with pytest.raises(ValueError, match="NaN"):
        proxy_a_distance(np.full((9, 2), np.nan), np.zeros((9, 2)))


# Significance


def test_mcnemar_by_hand():
    #        both, 6 only the first, 1 only the second, neither: 2 (C(7,0) + C(7,1)) / 2^7 = 16 / 128
    first, second = booleans("1111" + "111111" + "0" + "00"), booleans("1111" + "000000" + "1" + "00")
    assert mcnemar(first, second) == (6, 1, 0.125)
    assert mcnemar(second, first) == (1, 6, 0.125)
    assert mcnemar(first, first) == (0, 0, 1.0)
    with pytest.raises(ValueError, match="expected booleans"):
        mcnemar(first.astype(int), second)
    with pytest.raises(ValueError, match="of one length"):
        mcnemar(first, second[:-1])


def test_holm_by_hand():
    # 0.01 x 4, 0.02 x 3 = 0.06, 0.03 x 2 = 0.06, 0.9 x 1
    np.testing.assert_allclose(holm([0.03, 0.9, 0.01, 0.02]), [0.06, 0.9, 0.04, 0.06])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])


def test_paired_difference_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1; t(0.975, 2) = 4.3027; p = 2 P(t_2 > 2 sqrt 3) = 0.0742.
    difference = paired_difference([11, 22, 33], [10, 20, 30])
    assert difference.mean == pytest.approx(2)
    assert (difference.low, difference.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert difference.p == pytest.approx(0.0742, abs=1e-4)
    wider = paired_difference([11, 22, 33], [10, 20, 30], test_share=2 / 3)
    assert wider.high == pytest.approx(2 + 4.3027, abs=1e-4)  # 1/3 + 2/3 = 1
    same = paired_difference([1, 2], [1, 2])
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_difference([1, 2], [1])


def test_pairs_of_methods():
    pairs = compare({"CTD": booleans("0" * 12), "JAN": booleans("1" * 11 + "0"), "Ours": booleans("1" * 12)})
    assert [(pair.first, pair.second, pair.only_first, pair.only_second) for pair in pairs] == [
        ("CTD", "JAN", 0, 11),
        ("CTD", "Ours", 0, 12),
        ("JAN", "Ours", 0, 1),
    ]
    assert [pair.p for pair in pairs] == pytest.approx([2 / 2**11, 2 / 2**12, 1])
    assert [pair.p_holm for pair in pairs] == pytest.approx([4 / 2**11, 6 / 2**12, 1])
    text = pairs_table(pairs, "F->I").markdown()
    assert "| CTD - Ours | 0 | 12 | -12 of 12 | < 0.001 | 0.001 |" in text
    assert "Pairs that differ at the 5 % level after correction: 2 of 3." in text
    assert text.endswith(published_margin("F->I") + "\n")
    with pytest.raises(ValueError, match="at least two methods"):
        compare({"CTD": booleans("01")})


def test_published_margins_are_a_handful_of_images():
    assert published_margin("F->I") == (
        "In He & Ding's table 2, Ours is 5 of 270 images ahead of JAN on F->I, where one standard error of either "
        "count is about 7 images."
    )
    assert "Ours is 1 of 270 images behind JAN on A->I" in published_margin("A->I")
    with pytest.raises(ValueError, match="got F->X, Ours, JAN"):
        published_margin("F->X")


def test_published_accuracies_are_whole_images_on_iaps():
    correct = {
        task: [round(270 * accuracy / 100, 1) for accuracy in published.ACCURACY[task].values()]
        for task in ("F->I", "A->I")
    }
    assert correct == {"F->I": [67, 71, 70, 75, 80], "A->I": [62, 66, 81, 74, 73]}


# Predictions


def write_predictions(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "label", "prediction", "p_awe", "p_fear"])
        writer.writerows([*row, "0.25", "0.75"] for row in rows)
    return path


def test_predictions_of_folds_and_methods(tmp_path):
    first = write_predictions(tmp_path / "1.csv", [("x.jpg", "awe", "awe"), ("y.jpg", "fear", "awe")])
    second = write_predictions(tmp_path / "2.csv", [("z.jpg", "fear", "fear")])
    whole, turned = read_predictions(first, second), read_predictions(second, first)
    assert whole.confusion.tolist() == [[1, 0], [1, 1]]
    assert whole.without("awe").correct.tolist() == [False, True]
    assert whole.probabilities.tolist() == [[0.25, 0.75]] * 3
    correct = paired({"a": whole, "b": turned})
    assert [right.tolist() for right in correct.values()] == [[True, False, True]] * 2

    with pytest.raises(ValueError, match="every image once, got 4 rows for 2"):
        paired({"a": read_predictions(first, first)})
    with pytest.raises(ValueError, match="b: expected the test images and labels of a, got 3 others"):
        paired({"a": read_predictions(first), "b": read_predictions(second)})
    with pytest.raises(ValueError, match=re.escape("got ['joy']")):
        whole.without("joy")
    with pytest.raises(ValueError, match="at least one file"):
        read_predictions()


def test_predictions_refuse_other_files(tmp_path):
    (tmp_path / "other.csv").write_text("path,class\nx,awe\n")
    with pytest.raises(ValueError, match="expected the columns item, label"):
        read_predictions(tmp_path / "other.csv")
    with pytest.raises(ValueError, match="expected labels among"):
        read_predictions(write_predictions(tmp_path / "label.csv", [("x", "joy", "awe")]))
    with pytest.raises(ValueError, match="rows"):
        read_predictions(write_predictions(tmp_path / "empty.csv", []))
    other = tmp_path / "classes.csv"
    other.write_text("item,label,prediction,p_joy\nx,joy,joy,1\n")
    with pytest.raises(ValueError, match=re.escape("expected the classes ['awe', 'fear']")):
        read_predictions(write_predictions(tmp_path / "1.csv", [("x", "awe", "awe")]), other)


# Tables


def test_table_in_both_languages(tmp_path):
    table = Table(("task", "a_b"), [("F->I", "5 ± 1 %"), ("x|y", "< 1")], "90 % & more")
    table.write(tmp_path / "table.md", "What it says", "tab:x")
    assert (tmp_path / "table.md").read_text() == (
        "| task | a_b |\n| --- | --- |\n| F->I | 5 ± 1 % |\n| x&#124;y | < 1 |\n\n90 % & more\n"
    )
    assert (
        (tmp_path / "table.tex").read_text()
        == r"""\begin{table}
\centering
\caption{What it says}
\label{tab:x}
\begin{tabular}{lr}
\toprule
task & a\_b \\
\midrule
F$\to$I & 5 $\pm$ 1 \% \\
x|y & $<$ 1 \\
\bottomrule
\end{tabular}
\par\smallskip\footnotesize 90 \% \& more
\end{table}
"""
    )
    with pytest.raises(ValueError, match=re.escape("expected 2 cells, as the header, got ['1']")):
        Table(("a", "b"), [("1",)])
    with pytest.raises(ValueError, match=re.escape("ends in .md")):
        table.write(tmp_path / "table.txt")
