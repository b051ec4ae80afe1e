"""Folders of pictures: what is read, what is named as left out, and layouts that leave open what is meant."""

import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastmmd.models.data import layouts, pictures
from fastmmd.models.data.domain import UNLABELLED
from fastmmd.models.data.readers import (
    EKMAN,
    MIKELS,
    SENTIMENT,
    files,
    read_abstract,
    read_artphoto,
    read_domain,
    read_emotion_roi,
    read_fi,
    read_iaps,
    read_image_folder,
    read_mart,
    read_office31,
    read_office_home,
    read_unlabelled,
    read_visda2017,
)

from . import test_readers

PICTURE = Image.new("RGB", (3, 2), "red")


def fill(root, *names):
    """Writes pictures, or files of other kinds, or (a name with "/" at its end) folders."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        elif pictures.is_picture(name):
            layouts.save(PICTURE, path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"content")
    return root


def kinds(domain):
    """name -> class, None without a label."""
    return {name: None if k == UNLABELLED else domain.classes[k] for name, k in domain.samples}


# The listing


def test_every_format_is_read_whatever_its_extension(tmp_path):
    names = [f"{kind}/1.{suffix}" for kind in "ab" for suffix in ("jfif", "avif", "gif", "jp2", "TIF", "webp", "jpe")]
    assert read_image_folder(fill(tmp_path, *names)).names == sorted(names)


def test_junk_is_never_looked_at(tmp_path):
    junk = [
        *("a/.DS_Store", "a/._1.jpg", "__MACOSX/a/1.jpg", ".ipynb_checkpoints/1.jpg", "a/Thumbs.db", "desktop.ini"),
        *("@eaDir/1.jpg/thumb.jpg", "a/.AppleDouble/1.jpg", "$RECYCLE.BIN/1.jpg", "System Volume Information/1.jpg"),
        *(".Trashes/1.jpg", "lost+found/"),
    ]
    domain = read_image_folder(fill(tmp_path, "a/1.jpg", "b/1.jpg", *junk))
    assert domain.names == ["a/1.jpg", "b/1.jpg"]
    assert domain.classes == ["a", "b"]
    assert not domain.dropped


def test_what_is_left_out_is_named_under_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "extensions", lambda: frozenset({".jpg", ".png"}))
    fill(tmp_path, "a/1.jpg", "b/1.png", "b/2.heic", "b/3.NEF", "a/4.svg", "a/notes.txt", "ReadMe", "0.jpg")
    (tmp_path / "a" / "5.jpg").symlink_to("nowhere.jpg")
    domain = read_image_folder(tmp_path)
    assert domain.names == ["a/1.jpg", "b/1.png"]
    assert {reason.split(":")[0]: names for reason, names in domain.dropped.items()} == {
        "needs Pillow's plugin": ["b/2.heic"],
        "a camera's raw file": ["b/3.NEF"],
        "a drawing, not pixels": ["a/4.svg"],
        "a link to nothing": ["a/5.jpg"],
        "beside the class folders": ["0.jpg"],
        "no pictures": ["ReadMe", "a/notes.txt"],
    }


def test_links_are_followed_and_loops_end(tmp_path):
    fill(tmp_path / "elsewhere", "1.jpg", "deep/2.jpg")
    root = fill(tmp_path / "root", "b/3.jpg", "b/c/4.jpg")
    (root / "a").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "5.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    (root / "b" / "c" / "up").symlink_to(root / "b")
    (root / "b" / "round").symlink_to(root)
    domain = read_image_folder(root)
    assert domain.names == ["a/1.jpg", "a/deep/2.jpg", "b/3.jpg", "b/5.jpg", "b/c/4.jpg"]
    assert domain.dropped == {files.LOOP: ["b/c/up", "b/round"]}


def test_names_that_are_not_utf8_are_named(tmp_path):
    root = fill(tmp_path, "a/1.jpg", "b/2.jpg")
    with open(os.fsencode(root) + b"/a/caf\xe9.jpg", "wb") as file:
        file.write(b"content")
    domain = read_image_folder(root)
    assert domain.names == ["a/1.jpg", "b/2.jpg"]
    assert domain.dropped == {files.NOT_UTF8: ["a/caf\\udce9.jpg"]}
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    with pytest.raises(ValueError, match=r"the folder caf\\udce9 has a name that is not UTF-8: rename it"):
        read_image_folder(root)


def test_folders_that_may_not_be_read_are_an_error(tmp_path, monkeypatch):
    root = fill(tmp_path, "a/1.jpg", "b/2.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(files.os, "scandir", refuse)
    with pytest.raises(PermissionError, match="/b'"):
        read_image_folder(root)


@given(st.lists(st.sampled_from("aAbéz-_."), min_size=1, max_size=12, unique=True), st.randoms())
@settings(deadline=None, max_examples=15)
def test_the_order_is_that_of_the_names(tmp_path_factory, stems, random):
    root = tmp_path_factory.mktemp("order")
    random.shuffle(stems)
    fill(root, *(f"{kind}/x{name}.png" for name in stems for kind in "ab"))
    names = read_image_folder(root).names
    assert names == sorted(names)
    assert len(names) == 2 * len(stems)


# Class folders


@pytest.mark.parametrize("above", ["photos", "photos/photos", "amazon/images"])
def test_folders_above_the_class_folders_are_passed_through(tmp_path, above):
    fill(tmp_path, f"{above}/a/1.jpg", f"{above}/b/deep/2.jpg", "readme.txt", "annotations/a.json")
    domain = read_image_folder(tmp_path)
    assert kinds(domain) == {"a/1.jpg": "a", "b/deep/2.jpg": "b"}
    assert domain.root == tmp_path / above
    up = "../" * (above.count("/") + 1)
    assert domain.dropped == {"no pictures": [f"{up}annotations/a.json", f"{up}readme.txt"]}
    assert read_image_folder(tmp_path / above).names == domain.names


def test_one_class_folder_is_no_data_set(tmp_path):
    fill(tmp_path, "cats/1.jpg", "notes/2.txt")
    with pytest.raises(ValueError, match=r"expected at least 2 class folders .* found 1: cats; .*reader unlabelled"):
        read_image_folder(tmp_path)
    assert read_image_folder(tmp_path, ["cats", "dogs"]).targets == [0]


def test_a_flat_folder_has_no_classes(tmp_path):
    fill(tmp_path, "1.jpg", "2.jpg", "notes/2.txt")
    with pytest.raises(ValueError, match=r"expected class folders.*found 2 pictures.*--data.target.reader=unlabelled"):
        read_image_folder(tmp_path)


@pytest.mark.parametrize("content", ["c/", "c/deep/", "c/1.heic"])
def test_a_class_folder_without_pictures(tmp_path, monkeypatch, content):
    monkeypatch.setattr(pictures, "extensions", lambda: frozenset({".jpg", ".png"}))
    fill(tmp_path, "a/1.jpg", "b/1.jpg", content)
    reason = r" \(c/1.heic: .*pip install pillow-heif\)" if content.endswith("heic") else ""
    with pytest.raises(ValueError, match=rf"no pictures .* in the folders c{reason}; delete .*option classes"):
        read_image_folder(tmp_path)
    domain = read_image_folder(tmp_path, ["c", "b", "a"])
    assert (domain.classes, domain.targets) == (["c", "b", "a"], [2, 1])


def test_a_folder_of_other_files_is_no_class(tmp_path):
    domain = read_image_folder(fill(tmp_path, "a/1.jpg", "b/1.jpg", "annotations/x/1.xml"))
    assert domain.classes == ["a", "b"]
    assert domain.dropped == {"no pictures": ["annotations/x/1.xml"]}


@pytest.mark.parametrize("other", ["Cat", unicodedata.normalize("NFD", "é")])
def test_class_folders_that_differ_in_case_or_form_only(tmp_path, other):
    plain = unicodedata.normalize("NFC", other).lower()
    fill(tmp_path, f"{plain}/1.jpg", f"{other}/2.jpg")
    with pytest.raises(ValueError, match="differ in case or in Unicode's form only"):
        read_image_folder(tmp_path)
    assert read_image_folder(tmp_path, [plain]).targets == [0, 0]


@pytest.mark.parametrize("inside", [("mug", "pen"), ("train", "test")])
def test_domains_are_no_classes_and_classes_may_hold_parts(tmp_path, inside):
    fill(tmp_path, *(f"{folder}/{name}/1.jpg" for folder in ("Art", "Real World") for name in inside))
    with pytest.raises(ValueError, match=r"the folders Art, Real World all hold the same folders, .*give one of the"):
        read_image_folder(tmp_path)
    assert read_image_folder(tmp_path, ["Art", "Real World"]).targets == [0, 0, 1, 1]
    fill(tmp_path, "Art/of one alone/1.jpg")
    with pytest.raises(ValueError, match=r"the folders Art, Real World all hold the same folders"):
        read_image_folder(tmp_path)
    assert len(read_image_folder(fill(tmp_path, "Art/more.jpg"))) == 6


def test_classes_may_have_one_folder_in_common(tmp_path):
    assert len(read_image_folder(fill(tmp_path, "a/2019/1.jpg", "b/2019/1.jpg", "b/2020/1.jpg"))) == 3


def test_pictures_that_cannot_be_opened_are_named_where_there_are_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "extensions", lambda: frozenset({".jpg", ".png"}))
    fill(tmp_path, "a/1.heic", "b/1.heic")
    for read in (read_image_folder, read_unlabelled):
        with pytest.raises(FileNotFoundError, match=r"a/1.heic: needs Pillow's plugin: pip install pillow-heif"):
            read(tmp_path)


# Parts


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "VALIDATION", "testing"), ("train", "dev")])
@pytest.mark.parametrize("above", ["", "photos/"])
def test_parts_are_no_classes(tmp_path, names, above):
    fill(tmp_path, *(f"{above}{part}/{kind}/1.jpg" for part in names for kind in "ab" if (part, kind) != ("val", "b")))
    domain = read_image_folder(tmp_path)
    assert domain.classes == ["a", "b"]
    expected = {"train": "train", "Training": "train", "VALIDATION": "val", "dev": "val", "val": "val"}
    assert domain.parts == [expected.get(name.split("/")[0], "test") for name in domain.names]
    assert kinds(domain) == {name: name.split("/")[1] for name in domain.names}
    assert len(domain) == sum(1 for _ in tmp_path.rglob("*.jpg"))
    whole = read_image_folder(tmp_path, part="all")
    assert (whole.samples, whole.parts) == (domain.samples, None)
    validation = read_image_folder(tmp_path, part="val")
    assert validation.names == [name for name, part in zip(domain.names, domain.parts, strict=True) if part == "val"]
    assert (validation.parts, validation.classes) == (None, ["a", "b"])
    left = [name for name, part in zip(domain.names, domain.parts, strict=True) if part != "val"]
    assert validation.dropped == {"not in the part that is asked for": sorted(left)}


def test_a_part_without_class_folders_has_no_labels(tmp_path):
    fill(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "test/3.jpg", "test/4.jpg", "train/5.jpg")
    domain = read_image_folder(tmp_path)
    assert kinds(domain) == {"train/a/1.jpg": "a", "train/b/2.jpg": "b", "test/3.jpg": None, "test/4.jpg": None}
    assert domain.parts == ["train", "train", "test", "test"]
    assert domain.dropped == {"beside the class folders": ["train/5.jpg"]}
    assert read_image_folder(tmp_path, part="test").targets == [UNLABELLED] * 2


def test_parts_of_which_none_has_class_folders(tmp_path):
    fill(tmp_path, "train/1.jpg", "test/2.jpg")
    with pytest.raises(ValueError, match=r"test, train are parts .* none of them holds class folders; sort .*; if"):
        read_image_folder(tmp_path)
    assert read_image_folder(tmp_path, ["test", "train"]).targets == [0, 1]


def test_parts_beside_other_folders_are_ambiguous(tmp_path):
    fill(tmp_path, "train/a/1.jpg", "test/a/2.jpg", "cat/3.jpg")
    with pytest.raises(ValueError, match=r"test, train are called as the parts .* cat beside them are not; if all"):
        read_image_folder(tmp_path)
    assert read_image_folder(tmp_path, ["train", "cat", "test"]).targets == [1, 2, 0]


def test_a_single_part_beside_other_classes_is_a_class(tmp_path):
    assert read_image_folder(fill(tmp_path, "train/1.jpg", "car/2.jpg", "plane/3.jpg")).classes == [
        *("car", "plane", "train")
    ]


def test_one_part_in_two_folders(tmp_path):
    fill(tmp_path, *(f"{part}/{kind}/1.jpg" for part in ("train", "val", "valid") for kind in "ab"))
    with pytest.raises(ValueError, match="val and valid are both called as the part val; keep one of them"):
        read_image_folder(tmp_path)


def test_a_part_that_is_not_there(tmp_path):
    fill(tmp_path, *(f"{part}/{kind}/1.jpg" for part in ("train", "test") for kind in "ab"))
    with pytest.raises(FileNotFoundError, match=r"expected val/ in .*; found test/, train/"):
        read_image_folder(tmp_path, part="val")
    with pytest.raises(FileNotFoundError, match=r"expected train/ in .*; found a/, b/"):
        read_image_folder(tmp_path / "train", part="train")
    with pytest.raises(ValueError, match="part: expected all, train, val, test or none, got 'dev'"):
        read_image_folder(tmp_path, part="dev")


@pytest.mark.parametrize("levels", [("images", "images"), ("train_images", "val_images")])
def test_folders_above_the_class_folders_of_parts(tmp_path, levels):
    parts = [f"{part}/{level}" for part, level in zip(("train", "val"), levels, strict=True)]
    fill(tmp_path, *(f"{part}/{kind}/1.jpg" for part in parts for kind in "ab"))
    domain = read_image_folder(tmp_path)
    assert domain.classes == ["a", "b"]
    assert domain.parts == ["train", "train", "val", "val"]


def test_a_part_with_one_class_of_folders(tmp_path):
    fill(tmp_path, "train/a/2019/1.jpg", "train/b/2.jpg", "val/a/2019/3.jpg", "val/a/2020/4.jpg")
    assert kinds(read_image_folder(tmp_path))["val/a/2020/4.jpg"] == "a"


def test_an_empty_class_folder_of_a_part(tmp_path):
    fill(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/")
    assert read_image_folder(tmp_path).classes == ["a", "b"]
    fill(tmp_path, "val/c/")
    with pytest.raises(ValueError, match=r"/val: no pictures that can be read in the folders c; delete"):
        read_image_folder(tmp_path)


# Without labels


def test_unlabelled_pictures_of_any_depth(tmp_path):
    fill(tmp_path, "1.jpg", "a/2.jpg", "a/b/3.png", "a/notes.txt")
    domain = read_domain("unlabelled", str(tmp_path), classes=["u", "v"], rename={"w": "u"})
    assert domain.samples == [("1.jpg", -1), ("a/2.jpg", -1), ("a/b/3.png", -1)]
    assert domain.classes == []
    assert domain.dropped == {"no pictures": ["a/notes.txt"]}
    fill(tmp_path / "empty", "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"expected pictures in .*; found notes.txt"):
        read_unlabelled(tmp_path / "empty")


def test_unlabelled_pictures_of_a_list(tmp_path):
    fill(tmp_path, "a/1.jpg", "a/2.jpg", "a/my dog 3.jpg", "a/4.jpg", "a/5", "b/6.jpg")
    (tmp_path / "list.txt").write_text("a/2.jpg 7\na\\1.jpg\n\na/my dog 3.jpg 0\na/5\n")
    domain = read_unlabelled(tmp_path, "list.txt")
    assert domain.names == ["a/2.jpg", "a/1.jpg", "a/my dog 3.jpg", "a/5"]
    assert domain.dropped == {"not in list.txt": ["a/4.jpg"]}
    (tmp_path / "list.csv").write_text("file;label\na/2.jpg;\na/1.jpg;x\n")
    assert read_unlabelled(tmp_path, "list.csv", "file").samples == [("a/2.jpg", -1), ("a/1.jpg", -1)]
    with pytest.raises(ValueError, match=r"expected the columns \['image_name'\]; found \['file', 'label'\]"):
        read_unlabelled(tmp_path, "list.csv")
    (tmp_path / "list.txt").write_text("a/1.jpg\na/9.jpg 3\n")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 listed images are not in .*: a/9.jpg 3$"):
        read_unlabelled(tmp_path, "list.txt")
    (tmp_path / "list.txt").write_text("a/2.jpg cat\n")
    with pytest.raises(FileNotFoundError, match=r"1 of 1 listed images are not in .*: a/2.jpg cat"):
        read_unlabelled(tmp_path, "list.txt")


# The sets' own readers


def test_fi_reads_valid(tmp_path):
    for part in ("train", "valid", "test"):
        layouts.write_folders(tmp_path / part, test_readers.pictures(each=1))
    assert len(read_fi(tmp_path)) == 24
    assert read_fi(tmp_path).parts is None
    assert read_fi(tmp_path, part=None).parts == ["train"] * 8 + ["val"] * 8 + ["test"] * 8
    assert read_fi(tmp_path, part="val").names[0] == "valid/amusement/amusement_00001.jpg"


def test_fi_in_the_archives_folder_keeps_its_votes(tmp_path):
    root = test_readers.fi(tmp_path / "FI", test_readers.WELL + test_readers.REJECTED)
    above, inside = read_fi(tmp_path), read_fi(root)
    assert above.samples == inside.samples
    assert above.votes.tolist() == inside.votes.tolist() == list(map(list, test_readers.WELL)) * 8


def test_another_copys_table_is_not_taken(tmp_path):
    layouts.write_abstract(tmp_path / "one", test_readers.pictures(votes=test_readers.counts_of))
    flat = fill(tmp_path / "other", "abstract_0001.jpg")
    with pytest.raises(FileNotFoundError, match=r"expected ABSTRACT_groundTruth.csv in .*; found abstract_0001.jpg"):
        read_abstract(flat)


@pytest.mark.parametrize("above", ["", "office31", "office31/domain_adaptation_images"])
@pytest.mark.parametrize("level", ["", "images"])
def test_office_in_the_archives_folders(tmp_path, above, level):
    classes = [f"class_{k:02}" for k in range(31)]
    layouts.write_folders(tmp_path / above / "webcam" / level, test_readers.pictures(classes, 1))
    fill(tmp_path / above / "webcam", "interest_points/class_00/1.mat")
    domain = read_office31(tmp_path, "webcam")
    assert domain.classes == classes
    assert domain.root == tmp_path / above / "webcam" / level
    assert list(domain.dropped) == ["no pictures"]


def test_office_home_and_visda_wrapped(tmp_path):
    classes = [f"c{k:02}" for k in range(65)]
    layouts.write_folders(tmp_path / "OfficeHomeDataset" / "Real World", test_readers.pictures(classes, 1))
    assert read_office_home(tmp_path, "Real_World").classes == classes
    layouts.write_folders(tmp_path / "visda" / "train" / "train", test_readers.pictures(classes[:12], 1))
    assert len(read_visda2017(tmp_path / "visda", "train")) == 12


@pytest.mark.parametrize("read", [read_artphoto, read_abstract, read_iaps])
def test_small_sets_sorted_into_class_folders(tmp_path, read):
    layouts.write_folders(tmp_path, test_readers.pictures())
    (tmp_path / "sadness").rename(tmp_path / "Sad")
    fill(tmp_path, "anger/._1.jpg", "anger/notes.txt")
    domain = read(tmp_path)
    assert domain.classes == list(MIKELS)
    assert len(domain) == 16
    assert domain.votes is None
    assert kinds(domain)["Sad/sadness_00008.jpg"] == "sadness"
    assert domain.dropped == {"no pictures": ["anger/notes.txt"]}
    fill(tmp_path, "joy/1.jpg")
    with pytest.raises(ValueError, match=r"class folder in .*: 'joy' is none of the classes"):
        read(tmp_path)


def test_pictures_that_tables_do_not_name_are_left_out_with_a_word(tmp_path):
    root = layouts.write_abstract(tmp_path / "abstract", test_readers.pictures(votes=test_readers.counts_of))
    fill(root / "testImages_abstract", "more.jpg")
    assert read_abstract(root).dropped == {"not in ABSTRACT_groundTruth.csv": ["more.jpg"]}
    root = layouts.write_iaps(tmp_path / "iaps", test_readers.pictures())
    fill(root, "9999.jpg")
    assert read_iaps(root).dropped == {"not in Mikels' norms": ["9999.jpg"]}
    root = layouts.write_artphoto(tmp_path / "art", test_readers.pictures())
    fill(root / "testImages_artphoto", "more/anger_0001.jpg")
    assert read_artphoto(root).dropped == {"in a folder below that of the pictures": ["more/anger_0001.jpg"]}
    root = test_readers.fi(tmp_path / "fi", test_readers.WELL)
    fill(root / "emotion_dataset", "anger/unrated.jpg")
    assert read_fi(root).dropped == {"not in the vote tables": ["anger/unrated.jpg"]}


def test_emotion_roi_with_its_parts(tmp_path):
    given = [test_readers.pictures(EKMAN, each, votes=test_readers.shares) for each in (2, 1)]
    root = layouts.write_emotion6(tmp_path / "roi", *given)
    domain = read_emotion_roi(root, None)
    assert domain.parts == ["train"] * 12 + ["test"] * 6
    assert read_emotion_roi(tmp_path, "test").names == domain.names[12:]
    assert len(read_emotion_roi(root, "train").dropped["not in the part that is asked for"]) == 6
    fill(root / "images", "1.jpg")
    (root / "testing.txt").write_text("1.jpg\n")
    with pytest.raises(ValueError, match=r"expected <class>/name.jpg in the lists; found 1.jpg"):
        read_emotion_roi(root, "test")


def test_mart_with_two_tables(tmp_path):
    layouts.write_mart(tmp_path, [layouts.Picture("", test_readers.noise(k), (k,)) for k in range(3)])
    fill(tmp_path, "._scores.csv", "004.jpg")
    assert read_mart(tmp_path).dropped == {"not in scores.csv": ["004.jpg"]}
    fill(tmp_path, "old.csv")
    with pytest.raises(ValueError, match=r"expected one \*.csv in .*; found .*old.csv, .*scores.csv"):
        read_mart(tmp_path)
    assert read_mart(layouts.write_folders(tmp_path / "f", test_readers.pictures(SENTIMENT))).classes == list(SENTIMENT)
