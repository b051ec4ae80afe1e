"""Folds are disjoint, complete and a function of names and seed; their files tell when the data have changed."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmmd.models.data.folds import Split, floor_split, stratified_split
from fastmmd.models.data.readers.scans import sha256

MIKELS = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
IAPS = (37, 8, 54, 53, 74, 55, 42, 62)
ARTPHOTO = (101, 77, 102, 70, 70, 105, 115, 166)


def items(sizes, classes=MIKELS):
    names = [f"{label}/{k}.jpg" for label, size in zip(classes, sizes, strict=True) for k in range(size)]
    return names, [name.split("/")[0] for name in names]


def counts(part, classes=MIKELS):
    by_label = Counter(name.split("/")[0] for name in part)
    return [by_label[label] for label in classes]


@pytest.mark.parametrize(
    ("sizes", "tested", "total", "validated"),
    [
        (IAPS, [5, 1, 8, 7, 11, 8, 6, 9], 55, 15),
        (ARTPHOTO, [15, 11, 15, 10, 10, 15, 17, 24], 117, 37),
    ],
)
def test_counts_of_the_paper(sizes, tested, total, validated):
    split = floor_split(*items(sizes), MIKELS)
    assert len(split.folds) == 5
    for fold in split.folds:
        assert counts(fold.test) == tested
        assert len(fold.test) == total
        assert len(fold.validation) == validated
    if sizes == IAPS:
        assert total - counts(split.folds[0].test)[MIKELS.index("anger")] == 54


@st.composite
def problems(draw):
    classes = MIKELS[: draw(st.integers(1, 4))]
    sizes = draw(st.lists(st.integers(0, 60), min_size=len(classes), max_size=len(classes)))
    folds = draw(st.integers(1, 6))
    test = draw(st.integers(0, 100 // folds))
    validation = draw(st.integers(0, 100 // folds - test))
    protocol = {"folds": folds, "test": test, "validation": validation, "seed": draw(st.integers(0, 3))}
    return items(sizes, classes), classes, protocol | {"repeats": draw(st.integers(1, 2))}


@given(problems(), st.randoms())
@settings(max_examples=60, deadline=None)
def test_floor_split_holds_for_all_sizes(problem, random):
    (names, labels), classes, protocol = problem
    split = floor_split(names, labels, classes, **protocol)
    assert len(split.folds) == protocol["folds"] * protocol["repeats"]
    sizes = counts(names, classes)
    for fold in split.folds:
        # Disjoint and complete: every name is in one part, once.
        assert sorted(fold.train + fold.validation + fold.test) == sorted(names)
        assert counts(fold.test, classes) == [n * protocol["test"] // 100 for n in sizes]
        assert counts(fold.validation, classes) == [n * protocol["validation"] // 100 for n in sizes]
    for repeat in range(protocol["repeats"]):
        block = split.folds[repeat * protocol["folds"] : (repeat + 1) * protocol["folds"]]
        held_out = [name for fold in block for name in fold.test + fold.validation]
        assert len(set(held_out)) == len(held_out)
    shuffled = list(zip(names, labels, strict=True))
    random.shuffle(shuffled)
    other = floor_split([name for name, _ in shuffled], [label for _, label in shuffled], classes, **protocol)
    assert other == split


def test_seed_and_repeat_change_the_folds():
    names, labels = items(IAPS)
    split = floor_split(names, labels, MIKELS, repeats=2)
    assert split.folds[0] != split.folds[5]
    assert split.folds[0] != floor_split(names, labels, MIKELS, seed=1).folds[0]
    assert split.folds[:5] == floor_split(names, labels, MIKELS).folds


def test_new_item_leaves_other_classes_where_they_were():
    names, labels = items(IAPS)
    before = floor_split(names, labels, MIKELS).folds[2].test
    after = floor_split([*names, "awe/new.jpg"], [*labels, "awe"], MIKELS).folds[2].test
    assert [name for name in after if "awe" not in name] == [name for name in before if "awe" not in name]


def test_parts_must_fit_into_a_block():
    with pytest.raises(ValueError, match="5 disjoint blocks cannot hold 15 % test and 6 % validation"):
        floor_split(*items(IAPS), MIKELS, validation=6)


@pytest.mark.parametrize("make", [floor_split, stratified_split])
def test_faulty_items_are_named(make):
    with pytest.raises(ValueError, match="unique; 1 are not: a"):
        make(["a", "a"], ["awe", "awe"], MIKELS)
    with pytest.raises(ValueError, match="others are joy"):
        make(["a", "b"], ["awe", "joy"], MIKELS)


@given(st.integers(0, 5), st.integers(2, 5), st.randoms())
@settings(max_examples=20, deadline=None)
def test_stratified_split_tests_everything_once(seed, folds, random):
    names, labels = items((7, 5, 12), MIKELS[:3])
    split = stratified_split(names, labels, MIKELS[:3], seed, folds)
    assert sorted(name for fold in split.folds for name in fold.test) == sorted(names)
    for fold in split.folds:
        assert sorted(fold.train + fold.test) == sorted(names)
        assert all(abs(k - n / folds) < 1 for k, n in zip(counts(fold.test, MIKELS[:3]), (7, 5, 12), strict=True))
    shuffled = random.sample(names, len(names))
    other = stratified_split(shuffled, [name.split("/")[0] for name in shuffled], MIKELS[:3], seed, folds)
    assert other == split


def test_groups_stay_together():
    names = [f"{label}/{vendor}/{k}" for label in ("awe", "fear") for k in range(8) for vendor in ("noto", "twemoji")]
    labels = [name.split("/")[0] for name in names]
    identity = {name: name.replace("noto/", "").replace("twemoji/", "") for name in names}
    split = stratified_split(names, labels, ("awe", "fear"), folds=4, groups=[identity[name] for name in names])
    assert sorted(name for fold in split.folds for name in fold.test) == sorted(names)
    for fold in split.folds:
        assert {identity[name] for name in fold.train}.isdisjoint(identity[name] for name in fold.test)
        assert counts(fold.test, ("awe", "fear")) == [4, 4]


def test_class_too_small_for_folds_is_named():
    with pytest.raises(ValueError, match="class 'awe' has 3 items, too few for 5 folds"):
        stratified_split(*items((9, 9, 3), MIKELS[:3]), MIKELS[:3])
    names, labels = items((8, 8), MIKELS[:2])
    with pytest.raises(ValueError, match="class 'anger' has 2 groups, too few for 4 folds"):
        stratified_split(names, labels, MIKELS[:2], folds=4, groups=[*range(8), *"aaaabbbb"])


@pytest.fixture
def folder(tmp_path):
    """A data set of 3 x 20 files, its names and its class names."""
    names, labels = items((20, 20, 20), MIKELS[:3])
    for name in names:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "data", names, labels


def hashes(root, names):
    return {name: sha256(root / name) for name in names}


def test_split_file_holds_everything(folder, tmp_path):
    root, names, labels = folder
    split = replace(floor_split(names, labels, MIKELS[:3], seed=4), hashes=hashes(root, names))
    split.write(tmp_path / "split.json")
    read = Split.read(tmp_path / "split.json")
    assert read == split
    assert read.protocol["seed"] == 4
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["split.json"]
    read.verify(dict(zip(names[::-1], labels[::-1], strict=True)), hashes(root, names))


def test_split_without_hashes_compares_names_and_classes_alone(folder, tmp_path):
    root, names, labels = folder
    split = floor_split(names, labels, MIKELS[:3])
    split.write(tmp_path / "split.json")
    (root / names[7]).write_text("something else")
    read = Split.read(tmp_path / "split.json")
    assert read == split
    read.verify(dict(zip(names, labels, strict=True)), hashes(root, names))


def test_changed_data_set_is_described(folder):
    root, names, labels = folder
    split = replace(floor_split(names, labels, MIKELS[:3]), hashes=hashes(root, names))
    (root / "awe/3.jpg").write_text("something else")
    names[0], labels[1] = "amusement/new.jpg", "awe"
    with pytest.raises(ValueError, match="not the data set") as caught:
        split.verify(dict(zip(names, labels, strict=True)), hashes(root, set(names) - {"amusement/new.jpg"}))
    assert str(caught.value).split("; ")[1:] == [
        "1 missing: amusement/0.jpg",
        "1 new: amusement/new.jpg",
        "1 of another class: amusement/1.jpg",
        "1 of another content: awe/3.jpg",
    ]
    with pytest.raises(ValueError, match=r"41 missing: amusement/0.jpg, .*, \.\.\. \(41 in all\);"):
        split.verify(dict(zip(names[1:20], labels[1:20], strict=True)))


def test_edited_split_file_is_refused(folder, tmp_path):
    _, names, labels = folder
    path = tmp_path / "split.json"
    floor_split(names, labels, MIKELS[:3]).write(path)
    content = json.loads(path.read_text())
    content["folds"][0]["test"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not as it was written"):
        Split.read(path)
    with pytest.raises(FileNotFoundError, match=r"split: no file .*nothing.json"):
        Split.read(tmp_path / "nothing.json")
