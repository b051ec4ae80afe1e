"""Readers on small data sets written in the real layouts, with what is odd about each."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from jsonargparse import auto_cli
from PIL import Image
from torch.utils.data import Dataset

from fastmmd.models.data import DomainPair, layouts
from fastmmd.models.data.layouts import Picture
from fastmmd.models.data.readers import (
    EKMAN,
    MIKELS,
    READERS,
    SENTIMENT,
    files,
    read_abstract,
    read_artphoto,
    read_csv,
    read_domain,
    read_emoset,
    read_emotion6,
    read_emotion_roi,
    read_fi,
    read_iaps,
    read_image_folder,
    read_image_list,
    read_ldl,
    read_mart,
    read_office31,
    read_office_home,
    read_twitter1,
    read_visda2017,
    scans,
)

from .folders import CLASSES, write


def noise(seed, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels).convert(mode)


def pictures(classes=MIKELS, each=2, votes=lambda label: ()):
    labels = [label for _ in range(each) for label in classes]
    return [Picture(label, noise(seed), votes(label)) for seed, label in enumerate(labels)]


def counts_of(label):
    """Votes of which `label` has most; 14 in all, as for Abstract."""
    return [7 if name == label else 1 for name in MIKELS]


def labels(domain):
    """name -> class name."""
    return {name: domain.classes[target] for name, target in domain.samples}


# ArtPhoto


def test_artphoto(tmp_path):
    root = layouts.write_artphoto(tmp_path, pictures())
    domain = read_artphoto(root)
    assert domain.classes == list(MIKELS)
    assert domain.names == sorted(domain.names)
    assert Counter(domain.targets) == dict.fromkeys(range(8), 2)
    assert labels(domain)["sad_0008.jpg"] == "sadness"
    assert read_artphoto(root / "testImages_artphoto").samples == domain.samples
    image, target = domain[2]
    assert (domain.names[2], target) == ("anger_0002.jpg", 1)
    assert image == Image.open(domain.root / "anger_0002.jpg").convert("RGB")


def test_litter_and_capital_extensions(tmp_path):
    folder = layouts.write_artphoto(tmp_path, pictures()) / "testImages_artphoto"
    layouts.litter(folder)
    layouts.upper_case(folder / "fear_0007.jpg")
    names = read_artphoto(tmp_path).names
    assert len(names) == 16
    assert "fear_0007.JPG" in names


def test_artphoto_of_another_class(tmp_path):
    layouts.write_artphoto(tmp_path, [*pictures(), Picture("joy", noise(0))])
    with pytest.raises(ValueError, match=r"joy_0017.jpg: 'joy' is none of the classes \['amusement', 'anger'"):
        read_artphoto(tmp_path)


def test_class_without_images(tmp_path):
    layouts.write_artphoto(tmp_path, pictures(MIKELS[1:]))
    with pytest.raises(ValueError, match=r"no images of amusement in .*; found \{'anger': 2"):
        read_artphoto(tmp_path)


# Abstract


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_abstract(tmp_path, newline):
    root = layouts.write_abstract(tmp_path, pictures(votes=counts_of), newline)
    domain = read_abstract(root)
    table = (root / "testImages_abstract" / "ABSTRACT_groundTruth.csv").read_bytes()
    assert table.startswith(b"'','Amusement','Anger','Awe','Content',")
    assert table.count(b"\r\n") == (17 if newline == "\r\n" else 0)
    assert [domain.classes[target] for target in domain.targets] == [*MIKELS, *MIKELS]
    assert domain.names[0] == "abstract_0001.jpg"
    assert domain.vote_names == MIKELS
    assert domain.votes.tolist() == [counts_of(label) for label in [*MIKELS, *MIKELS]]
    assert not domain.dropped


def test_abstract_ties_are_dropped(tmp_path):
    tied = Picture("anger", noise(0), [5, 5, 4, 0, 0, 0, 0, 0])
    # 228 of the 280 paintings remain, as in print.
    layouts.write_abstract(
        tmp_path, [*pictures(each=28, votes=counts_of), *[tied] * 52, *pictures(each=1, votes=counts_of)[:4]]
    )
    domain = read_abstract(tmp_path)
    assert len(domain) == 228
    assert len(domain.dropped["tied votes"]) == 52
    assert domain.dropped["tied votes"][0] == "abstract_0225.jpg"


def test_abstract_columns_are_found_by_name(tmp_path):
    layouts.write_abstract(tmp_path, pictures(votes=counts_of))
    path = tmp_path / "testImages_abstract" / "ABSTRACT_groundTruth.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join([row[0], *reversed(row[1:])]) for row in rows))
    shutil.move(path, tmp_path)  # beside the folder is good, too
    assert read_abstract(tmp_path).targets == [*range(8), *range(8)]


def test_abstract_without_a_class(tmp_path):
    layouts.write_abstract(tmp_path, pictures(votes=counts_of))
    path = tmp_path / "testImages_abstract" / "ABSTRACT_groundTruth.csv"
    path.write_text(path.read_text().replace("'Sad'", "'Joy'"))
    with pytest.raises(ValueError, match=r"expected the columns \['amusement', .* found \[.*'Joy'\]"):
        read_abstract(tmp_path)


# IAPS-Subset


def test_iaps_norms(tmp_path):
    given = pictures()
    domain = read_iaps(layouts.write_iaps(tmp_path, given, first=2050))
    assert "2055.0" in (tmp_path / "Mikels2005positivenorms.csv").read_text()
    expected = {f"{2050 + k // 2}{'.1' * (k % 2)}.jpg": picture.label for k, picture in enumerate(given)}
    assert labels(domain) == expected
    assert domain.classes == list(MIKELS)


def test_iaps_in_class_folders_and_in_subfolders(tmp_path):
    assert labels(read_iaps(layouts.write_folders(tmp_path / "sorted", pictures())))["anger/anger_00002.jpg"] == "anger"
    root = layouts.write_iaps(tmp_path / "norms", pictures())
    (root / "IAPS 1-20 Images").mkdir()
    shutil.move(root / "1040.1.jpg", root / "IAPS 1-20 Images" / "1040.1.JPG")
    assert labels(read_iaps(root))["IAPS 1-20 Images/1040.1.JPG"] == "anger"


def test_iaps_2819_may_be_absent_but_no_other(tmp_path):
    layouts.write_iaps(tmp_path, pictures(each=3), first=2819)
    (tmp_path / "2819.jpg").unlink()
    domain = read_iaps(tmp_path)
    assert len(domain) == 23
    assert domain.dropped == {"absent": ["2819"]}
    (tmp_path / "2820.1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 pictures of Mikels' norms are not in .*: 2820.1"):
        read_iaps(tmp_path)


@pytest.mark.parametrize("name", ["2055.1", "2055.1.jpg", "IAPS/2055.1.JPG"])
def test_a_number_behind_a_dot_is_no_extension(name):
    assert files.stem(name) == "2055.1"


# FI

WELL = [(1, 4), (0, 5), (2, 3)]
REJECTED = [(4, 1), (3, 2), (2, 2)]


def fi(root, votes):
    given = [
        Picture(label, noise(100 * k + index), vote)
        for index, label in enumerate(MIKELS)
        for k, vote in enumerate(votes)
    ]
    return layouts.write_fi(root, given)


def test_fi_votes(tmp_path):
    root = fi(tmp_path, WELL + REJECTED)
    well, noisy = read_fi(root), read_fi(root, labels="noisy")
    assert (len(well), len(noisy)) == (24, 48)
    assert set(well.names) < set(noisy.names)
    assert sorted(map(tuple, well.votes)) == sorted(WELL * 8)
    assert well.vote_names == ("disagree", "agree")
    assert len(well.dropped["rejected by the raters"]) == 24
    assert all(name.startswith(kind) for name, kind in labels(noisy).items())


def test_fi_images_named_by_id_and_absent_images(tmp_path):
    root = fi(tmp_path, WELL)
    folder = root / "emotion_dataset" / "awe"
    named, absent, _ = sorted(folder.iterdir())
    named.rename(folder / "7.png")
    absent.unlink()
    with pytest.warns(UserWarning, match=f"1 of 24 rated images are not there: .*{absent.name}"):
        domain = read_fi(root)
    assert labels(domain)["awe/7.png"] == "awe"
    assert len(domain) == 23
    assert domain.dropped["absent"] == [f"awe/https://farm4.staticflickr.com/3234/{absent.name}"]


def test_fi_rows_of_one_image_are_added(tmp_path):
    root = fi(tmp_path, WELL)
    path = root / "agg" / "fear_1st_1000.csv"
    (root / "agg" / "fear_2nd_1000.csv").write_text(path.read_text().splitlines()[0].rsplit(",", 2)[0] + ",5,0\n")
    assert len(read_fi(root)) == 23
    assert [6, 4] in read_fi(root, labels="noisy").votes.tolist()


def test_fi_placeholders_are_dropped_by_content(tmp_path):
    root = fi(tmp_path, WELL)
    clean = read_fi(root)
    gone = sorted(root.glob("emotion_dataset/*/*.jpg"))[:15:3]
    for path in gone[1:]:
        shutil.copy(gone[0], path)
    assert read_fi(root, placeholder_copies=6).names == clean.names
    domain = read_fi(root)
    assert len(domain) == 24 - 5
    assert domain.dropped["placeholder"] == sorted(f"{path.parent.name}/{path.name}" for path in gone)
    placeholder = root / "emotion_dataset" / clean.names[1]
    domain = read_fi(root, placeholder_copies=0, placeholder_hashes=[scans.sha256(placeholder).upper()])
    assert domain.dropped["placeholder"] == [clean.names[1]]


def test_fi_class_folders_and_parts(tmp_path):
    whole = layouts.write_folders(tmp_path / "whole" / "emotion_dataset", pictures())
    assert len(read_fi(tmp_path / "whole")) == len(read_fi(whole)) == 16
    for part in ("train", "val", "test"):
        layouts.write_folders(tmp_path / "parts" / part, pictures(each=1 + (part == "train")))
    train = read_fi(tmp_path / "parts", part="train")
    assert labels(train)["train/anger/anger_00002.jpg"] == "anger"
    assert (len(train), len(read_fi(tmp_path / "parts"))) == (16, 32)
    with pytest.raises(FileNotFoundError, match=r"expected val/ in .*found amusement/, anger/"):
        read_fi(whole, part="val")
    with pytest.raises(FileNotFoundError, match="noisy labels need the votes"):
        read_fi(whole, labels="noisy")


@pytest.mark.parametrize("below", ["images/", ""])
def test_fi_tables(tmp_path, below):
    root = layouts.write_csv(tmp_path, pictures(), "fi.csv")
    table = (root / "fi.csv").read_text().replace("images/", below)
    rows = [row.split(",") for row in table.splitlines()[1:]]
    (root / "fi.csv").write_text(table)
    (root / "names.txt").write_text("\n".join(f"{name} {label}" for name, label in rows))
    (root / "numbers.txt").write_text("\n".join(f"{name} {MIKELS.index(label)}" for name, label in rows))
    for path in ("fi.csv", "names.txt", "numbers.txt"):
        domain = read_fi(root, table=path)
        assert domain.targets == [*range(8), *range(8)]
        assert domain.names[0] == f"{below}00001.jpg"


# The other emotion sets


@pytest.mark.parametrize("with_ids", [False, True])
def test_emoset(tmp_path, with_ids):
    parts = {"train": pictures(each=2), "val": pictures(each=1), "test": pictures(each=1)}
    root = layouts.write_emoset(tmp_path, parts, with_ids)
    assert len(json.loads((root / "val.json").read_text())[0]) == 3 + with_ids
    domain = read_emoset(root)
    assert domain.classes == list(MIKELS)  # not the order of info.json
    assert all(name.startswith(f"image/{kind}/") for name, kind in labels(domain).items())
    assert len(domain) == 32
    assert read_emoset(root, part="test").names == domain.names[-8:]


def shares(label):
    return [0.4 if name == label else 0.1 for name in (*EKMAN, "neutral")]


def test_emotion6(tmp_path):
    root = layouts.write_emotion6(tmp_path, pictures(EKMAN, votes=shares))
    domain = read_emotion6(root)
    assert domain.classes == list(EKMAN)
    assert domain.vote_names == (*EKMAN, "neutral")
    assert np.argmax(domain.votes, axis=1).tolist() == domain.targets
    path = root / "ground_truth.txt"
    path.write_text(path.read_text().replace("anger/1.jpg", "anger/99.jpg"))
    with pytest.raises(ValueError, match=r"1 images have no row, such as anger/1.jpg"):
        read_emotion6(root)


def test_emotion_roi(tmp_path):
    root = layouts.write_emotion6(tmp_path, pictures(EKMAN, votes=shares), pictures(EKMAN, 1, votes=shares))
    (root / "training_testing_split").mkdir()
    shutil.move(root / "testing.txt", root / "training_testing_split")
    parts = [read_emotion_roi(root, part) for part in ("train", "test", "all")]
    assert [len(part) for part in parts] == [12, 6, 18]
    assert labels(parts[1])["joy/16.jpg"] == "joy"


@pytest.mark.parametrize("columns", [("positive", "negative"), ("negative", "positive")])
def test_twitter1(tmp_path, columns):
    votes = [(0, 5), (5, 0), (1, 4), (4, 1), (2, 3)]
    given = [Picture(SENTIMENT[pos > neg], noise(k), (neg, pos)) for k, (neg, pos) in enumerate(votes)]
    root = layouts.write_twitter1(tmp_path, given, columns)
    by_votes = [read_twitter1(root, agree) for agree in (3, 4, 5)]
    assert [domain.targets for domain in by_votes] == [[1, 0, 1, 0, 1], [1, 0, 1, 0], [1, 0]]
    assert by_votes[0].votes.tolist() == [list(vote) for vote in votes]
    assert by_votes[1].dropped == {"fewer than 4 agree": ["0005.jpg"]}
    (root / "amt_result.csv").unlink()
    assert [read_twitter1(root, agree).samples for agree in (3, 4, 5)] == [domain.samples for domain in by_votes]


def test_twitter1_without_a_telling_header(tmp_path):
    layouts.write_twitter1(tmp_path, pictures(SENTIMENT, votes=lambda label: (2, 3)))
    path = tmp_path / "amt_result.csv"
    path.write_text(path.read_text().replace("num_of_positive,num_of_negative", "a,b"))
    with pytest.raises(ValueError, match=r"one column of negative and one of positive votes; found .*'a', 'b'"):
        read_twitter1(tmp_path)


def test_ldl(tmp_path):
    root = layouts.write_ldl(tmp_path, pictures(votes=counts_of))
    assert (root / "ground_truth.txt").read_text().startswith("images-name Amusement Awe Contentment Excitement Anger")
    domain = read_ldl(root)
    assert domain.targets == [*range(8), *range(8)]
    assert domain.votes.tolist() == [counts_of(label) for label in [*MIKELS, *MIKELS]]
    path = root / "ground_truth.txt"
    path.write_text(path.read_text().replace(".jpg", ""))
    assert read_ldl(root).samples == domain.samples


def test_mart(tmp_path):
    folders = read_mart(layouts.write_folders(tmp_path / "folders", pictures(SENTIMENT)))
    assert labels(folders)["positive/positive_00002.jpg"] == "positive"
    scores = [Picture("", noise(k), (score,)) for k, score in enumerate([0.5, -2, 3, 1])]
    root = layouts.write_mart(tmp_path / "scores", scores)
    assert read_mart(root).targets == [0, 0, 1, 1]
    assert read_mart(root, threshold=0).targets == [1, 0, 1, 1]
    assert read_mart(root).votes.tolist() == [[0.5], [-2], [3], [1]]


# Domain adaptation


@pytest.mark.parametrize("level", ["", "images"])
def test_office31(tmp_path, level):
    classes = [f"class_{k:02}" for k in range(31)]
    layouts.write_folders(tmp_path / "dslr" / level, pictures(classes, 1))
    domain = read_office31(tmp_path, "dslr")
    assert domain.classes == classes
    assert domain.names[3] == "class_03/class_03_00004.jpg"
    with pytest.raises(FileNotFoundError, match=r"expected amazon/ in .*; found dslr/"):
        read_office31(tmp_path, "amazon")
    shutil.rmtree(domain.root / "class_07")
    with pytest.raises(ValueError, match=r"expected 31 folders of images in .*; found 30: .*'class_08'"):
        read_office31(tmp_path, "dslr")


@pytest.mark.parametrize("name", ["Real World", "Real_World"])
def test_office_home(tmp_path, name):
    classes = [f"Class_{k:02}" for k in range(65)]
    root = layouts.write_image_list(tmp_path, name, pictures(classes, 1), classes)
    by_folder, by_list = read_office_home(root, "Real_World"), read_image_list(root, f"{name}.txt")
    assert by_folder.classes == by_list.classes == classes
    assert by_list.names[1] == f"{name}/Class_01/00002.jpg"
    assert by_list.targets == by_folder.targets == list(range(65))


def test_visda2017(tmp_path):
    classes = ["aeroplane", *(f"other_{k:02}" for k in range(11))]
    root = layouts.write_image_list(tmp_path, "train", pictures(classes, 1), classes)
    assert read_visda2017(root, "train").classes == classes


def test_image_list_from_one(tmp_path):
    classes = ["dog", "elephant", "cat"]  # not the folders' order
    root = layouts.write_image_list(tmp_path, "photo", pictures(classes), classes, label_offset=1)
    domain = read_image_list(root, "photo.txt", label_offset=1)
    assert domain.classes == classes
    assert all(kind in name for name, kind in labels(domain).items())
    assert read_image_list(root, "photo.txt", classes, label_offset=1).samples == domain.samples
    with pytest.raises(ValueError, match=r"labels that count from 0 without a gap; found 1, 2, 3; set label_offset"):
        read_image_list(root, "photo.txt")
    with pytest.raises(ValueError, match=r"label 3 of photo/cat/00003.jpg is outside 0 to 2.*set label_offset"):
        read_image_list(root, "photo.txt", classes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("photo/dog/9.jpg 0", "1 of 5 listed images are not in .*: photo/dog/9.jpg"),
        ("photo/dog/00001.jpg 0", "1 images are listed more than once: photo/dog/00001.jpg"),
        ("photo/dog/00001.jpg 1", "folders do not name the classes one to one"),
        ("photo/dog/00001.jpg", "expected lines of a path and a label; found 'photo/dog/00001.jpg'"),
    ],
)
def test_image_list_that_does_not_fit(tmp_path, line, message):
    root = layouts.write_image_list(tmp_path, "photo", pictures(["dog", "cat"]), ["dog", "cat"])
    path = root / "photo.txt"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_image_list(root, "photo.txt")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(tmp_path, delimiter):
    root = layouts.write_csv(tmp_path, pictures(["b", "a"]), delimiter=delimiter)
    path = root / "labels.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_csv(root, "labels.csv").classes == ["a", "b"]
    assert read_csv(root, "labels.csv", classes=["b", "a", "c"]).targets == [0, 1, 0, 1]
    with pytest.raises(
        ValueError, match=r"expected the columns \['file', 'emotion'\]; found \['image_name', 'emotion'\]"
    ):
        read_csv(root, "labels.csv", image_column="file")


def test_image_folder(tmp_path):
    root = layouts.write_folders(tmp_path, pictures(["b", "a"]))
    layouts.litter(root)
    layouts.litter(root / "b")
    assert read_image_folder(root).samples == [
        ("a/a_00002.jpg", 0),
        ("a/a_00004.jpg", 0),
        ("b/b_00001.jpg", 1),
        ("b/b_00003.jpg", 1),
    ]
    assert read_image_folder(root, ["b", "a"]).targets == [1, 1, 0, 0]
    with pytest.raises(ValueError, match=r"class folder in .*: 'b' is none of the classes \['a'\]"):
        read_image_folder(root, ["a"])


# All readers

OPTIONS = {
    "csv": {"table": "labels.csv"},
    "image_list": {"table": "list.txt"},
    "office31": {"domain": "amazon"},
    "office_home": {"domain": "Art"},
    "visda2017": {"part": "train"},
}


@pytest.mark.parametrize("reader", READERS)
def test_a_root_that_does_not_fit_is_described(tmp_path, reader):
    with pytest.raises(
        FileNotFoundError, match=r"no folder .*nowhere; data sets are read from disk and never downloaded"
    ):
        read_domain(reader, str(tmp_path / "nowhere"), OPTIONS.get(reader))
    (tmp_path / "something.else").touch()
    with pytest.raises((FileNotFoundError, ValueError), match=r"; found (something.else|no images)"):
        read_domain(reader, str(tmp_path), OPTIONS.get(reader))


def test_unknown_reader(tmp_path):
    with pytest.raises(ValueError, match=r"no reader 'art' .*; the readers are abstract, artphoto"):
        read_domain("art", str(tmp_path))


@pytest.mark.parametrize(
    ("reader", "arguments", "message"),
    [
        ("image_folder", {"options": {"classes": [1, 2]}}, "options.classes: expected class names, got 1.*in quotes"),
        (
            "image_folder",
            {"options": {"classes": "ab"}},
            "options.classes: expected a list .* got the text 'ab'",
        ),
        ("image_folder", {"classes": ["yes", False]}, "classes: expected class names, got False.*in quotes"),
        ("image_folder", {"rename": {7: "a"}}, "rename: expected class names, got 7.*in quotes"),
        ("image_folder", {"classes": ["awe", "awe"]}, "classes named more than once: awe"),
        ("image_folder", {"options": {"classes": [*CLASSES, "joy"]}}, "classes named more than once: joy"),
    ],
)
def test_options_and_class_names_that_do_not_fit(tmp_path, reader, arguments, message):
    write(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_domain(reader, str(tmp_path), **arguments)


def test_two_sets_make_a_pair_from_a_configuration(tmp_path):
    def pair(source: Dataset, target: Dataset):
        return DomainPair(source, target, source_validation=0.5, target_validation=0.25)

    layouts.write_artphoto(tmp_path / "art", pictures(each=4))
    layouts.write_emoset(tmp_path / "emoset", {part: pictures(each=2) for part in ("train", "val", "test")})
    readers = "fastmmd.models.data.readers"
    source = {"reader": "emoset", "root": str(tmp_path / "emoset"), "options": {"part": "train"}}
    target = {"class_path": f"{readers}.read_artphoto", "init_args": {"root": str(tmp_path / "art")}}
    config = {"source": {"class_path": f"{readers}.read_domain", "init_args": source}, "target": target}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    data = auto_cli(pair, args=[f"--config={tmp_path / 'config.yaml'}"])
    assert data.classes == list(MIKELS)
    assert len(data.items["source"][0]) == 8
    assert data.domains["target"].names[0] == "amusement_0001.jpg"
