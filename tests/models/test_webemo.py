"""WEBEmo: three levels of classes, lists of addresses, and pictures wherever they were saved."""

import shutil

import pytest

from fastmmd.models.data import layouts
from fastmmd.models.data.readers import read_domain, read_webemo
from fastmmd.models.data.readers.webemo import FINE

from .test_folders import kinds
from .test_readers import pictures


@pytest.fixture
def root(tmp_path):
    return layouts.write_webemo(tmp_path, {"train": pictures(FINE, 2), "test": pictures(FINE, 1)})


def test_levels_group_the_same_pictures(root):
    fine, six, two = (read_domain("webemo", str(root), {"levels": levels}) for levels in (25, 6, 2))
    assert fine.classes == list(FINE)
    assert len(fine) == 75
    assert fine.names[:2] == ["train/0/220_F_00000001_x.jpg", "train/1/220_F_00000002_x.jpg"]
    assert fine.targets[:50] == [*range(25), *range(25)]
    assert six.classes == ["anger", "fear", "joy", "love", "sadness", "surprise"]
    assert [six.targets.count(label) for label in range(6)] == [15, 6, 21, 9, 18, 3]
    assert six.dropped == {"confusion, which is none of the six emotions": [n for n, k in fine.samples if k == 2]}
    assert two.classes == ["negative", "positive"]
    assert [two.targets.count(label) for label in range(2)] == [42, 33]
    for name, kind in kinds(fine).items():
        assert kinds(two)[name] == ("positive" if kind in POSITIVE else "negative")
    assert kinds(six)["train/7/220_F_00000008_x.jpg"] == "anger"  # envy
    with pytest.raises(ValueError, match=r"levels: expected one of \[2, 6, 25\], got 7"):
        read_webemo(root, 7)


POSITIVE = {
    *("affection", "cheerfullness", "contentment", "enthrallment", "gratitude", "lust", "optimism", "pride", "relief"),
    *("surprise", "zest"),
}


def test_parts_are_those_of_the_lists(root):
    domain = read_webemo(root, part=None)
    assert domain.parts == ["train"] * 50 + ["test"] * 25
    assert read_webemo(root, part="test").names == domain.names[50:]
    assert read_webemo(root, 6, part=None).parts == ["train"] * 48 + ["test"] * 24


def test_pictures_wherever_they_lie(root):
    expected = [kind for _, kind in sorted(kinds(read_webemo(root)).items(), key=lambda item: item[0][-14:])]
    for path in sorted(root.glob("*/*/*.jpg")):
        shutil.move(path, root / f"{path.parent.name}_{path.name}" if path.name[-7] > "5" else root / path.name)
    moved = sorted(kinds(read_webemo(root)).items(), key=lambda item: item[0][-14:])
    assert [kind for _, kind in moved] == expected


def test_pictures_that_vanished_and_pictures_of_no_list(root):
    next(root.glob("train/3/*")).unlink()
    (root / "train" / "3" / "more.jpg").write_bytes(b"content")
    with pytest.warns(UserWarning, match=r"1 of 75 listed images are not there: 3/220_F_"):
        domain = read_webemo(root)
    assert len(domain) == 74
    assert domain.dropped["not in train25.txt, test25.txt"] == ["train/3/more.jpg"]
    assert len(domain.dropped["absent"]) == 1


def test_images_of_several_classes_or_parts_are_left_out(root):
    train, test = root / "train25.txt", root / "test25.txt"
    lines = train.read_text().splitlines()
    train.write_text("\n".join([*lines, lines[0], f"{lines[1].rsplit(' ', 1)[0]} 9"]))
    test.write_text(f"{test.read_text()}{lines[2]}")
    domain = read_webemo(root)
    assert domain.dropped == {
        "listed under several classes": ["train/1/220_F_00000002_x.jpg"],
        "listed in both parts": ["train/2/220_F_00000003_x.jpg"],
    }
    assert len(domain) == 73


def test_two_copies_of_an_image(root):
    path = next(root.glob("train/3/*"))
    shutil.copy(path, root / "train" / "4" / path.name)
    assert f"train/3/{path.name}" in read_webemo(root).names
    (root / "train" / "4" / path.name).unlink()
    (root / "test").rename(root / "images")
    shutil.copytree(root / "images", root / "copy")  # neither's folder says that it is the test's
    with pytest.raises(ValueError, match=r"test25.txt, line 1: which file is meant is unknown: copy/0/.*, images/0/"):
        read_webemo(root)


def test_class_folders_without_lists(tmp_path):
    for part in ("train", "validation", "test"):
        layouts.write_folders(tmp_path / part, pictures(FINE[:5], 1))
    assert read_webemo(tmp_path, part=None).parts == ["train"] * 5 + ["val"] * 5 + ["test"] * 5
    assert read_webemo(tmp_path, 2).targets == [1, 1, 0, 1, 0] * 3


@pytest.mark.parametrize("line", ["https://x/1.jpg", "https://x/1.jpg 25", "https://x/1.jpg love"])
def test_lines_that_do_not_fit(root, line):
    (root / "test25.txt").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"test25.txt, line 1: expected an address and a number from 0 to 24; found"):
        read_webemo(root)
