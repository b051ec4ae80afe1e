"""Data sets of the Hugging Face hub: small ones, written by the package `datasets` and by pyarrow alone."""

import pickle
import socket
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from fastmmd.models.data import DomainPair
from fastmmd.models.data.domain import UNLABELLED
from fastmmd.models.data.readers import MIKELS, hub, read_domain, read_hub, scans

datasets = pytest.importorskip("datasets")

OTHER_ORDER = ("sadness", "fear", "excitement", "disgust", "contentment", "awe", "anger", "amusement")


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Caches of this test alone, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("FASTMMD_CACHE", str(tmp_path / "inspections"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was opened"))
    datasets.disable_progress_bars()


def encoded(seed, kind="png", mode="RGB"):
    pixels = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def emoset(count=8, start=0, classes=OTHER_ORDER, **columns):
    """Rows with a picture and a class each, whose order of classes is not ours."""
    rows = range(start, start + count)
    values = {
        "image_id": [f"id{row}" for row in rows],
        "image": [{"bytes": encoded(row), "path": f"{row}.png"} for row in rows],
        "label": [row % len(classes) for row in rows],
        **columns,
    }
    features = datasets.Features(
        {
            "image_id": datasets.Value("string"),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(classes)),
            **{name: datasets.Value("string") for name in columns},
        }
    )
    return datasets.Dataset.from_dict(values, features=features)


def emoverse(rows, path, image="struct"):
    """A parquet file without the metadata of `datasets`, with the columns of EmoVerse."""
    cells = [{"bytes": encoded(row), "path": None} for row in rows]
    images = pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    if image == "binary":
        images = pa.array([cell["bytes"] for cell in cells], pa.binary())
    names = [MIKELS[row % 8].capitalize() for row in rows]
    table = pa.table(
        {
            "image": images,
            "description": ["a picture"] * len(names),
            "emotion_category": names,
            "confidence_score": np.linspace(0, 1, len(names)),
            "bounding_box": [[0.0, 0.0, 1.0, 1.0]] * len(names),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def class_of(domain):
    return {name: domain.classes[target] for name, target in zip(domain.names, domain.targets, strict=True)}


def sharded(root, part, *tables):
    (root / "data").mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(tables):
        table.to_parquet(root / "data" / f"{part}-{number:05d}-of-{len(tables):05d}.parquet")


def test_parquet_of_the_hub(tmp_path):
    sharded(tmp_path, "train", emoset(8), emoset(8, start=8))
    sharded(tmp_path, "test", emoset(3, start=16))
    domain = read_hub(tmp_path)
    assert domain.classes == list(MIKELS)
    assert class_of(domain) == {
        f"{'train' if row < 16 else 'test'}/{row}.png": OTHER_ORDER[row % 8] for row in range(19)
    }
    assert domain.parts == ["train"] * 16 + ["test"] * 3
    for item in (0, 9, 18):
        expected = Image.open(BytesIO(encoded(int(domain.names[item].split("/")[1].removesuffix(".png")))))
        assert np.array_equal(np.asarray(domain[item][0]), np.asarray(expected))
    test = read_hub(tmp_path, part="test")
    assert (test.names, test.parts) == (["test/16.png", "test/17.png", "test/18.png"], None)
    with pytest.raises(ValueError, match=r"part: expected one of train, test, .*'val'"):
        read_hub(tmp_path, part="val")


@pytest.mark.parametrize("image", ["struct", "binary"])
def test_parquet_without_metadata(tmp_path, image):
    emoverse(range(8), tmp_path / "train" / "0000.parquet", image)
    emoverse(range(8, 12), tmp_path / "validation" / "0000.parquet", image)
    domain = read_hub(tmp_path)
    assert (domain.classes, domain.parts) == (list(MIKELS), ["train"] * 8 + ["val"] * 4)
    assert class_of(domain) == {
        f"{'train' if row < 8 else 'validation'}/{row % 8:06d}": MIKELS[row % 8] for row in range(12)
    }
    assert domain.content(9) == encoded(9)
    assert read_hub(tmp_path, part="val").names == domain.names[8:]
    assert (len(read_hub(tmp_path, part="all")), read_hub(tmp_path, part="all").parts) == (12, None)
    (alone,) = (tmp_path / "train").iterdir()
    assert (len(read_hub(alone)), read_hub(alone).parts) == (8, None)


def test_saved_data_sets(tmp_path):
    datasets.DatasetDict({"train": emoset(8), "test": emoset(4, start=8)}).save_to_disk(tmp_path / "both")
    emoset(8).save_to_disk(tmp_path / "one", num_shards=2)
    both, alone = read_hub(tmp_path / "both"), read_hub(tmp_path / "one")
    assert both.parts == ["train"] * 8 + ["test"] * 4
    assert class_of(both)["test/9.png"] == OTHER_ORDER[1]
    assert (alone.parts, alone.names[7], alone.content(7)) == (None, "data/7.png", encoded(7))
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing: data-00001-of-00002\.arrow"):
        read_hub(tmp_path / "one")


def test_pictures_go_through_the_projects_reader(tmp_path):
    """A transparent pixel is white, a 16-bit one is scaled; a broken picture is named."""
    file = BytesIO()
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(file, "png")
    grey = BytesIO()
    Image.fromarray(np.full((2, 2), 257 * 40, np.uint16)).save(grey, "png")
    contents = [file.getvalue(), grey.getvalue(), b"no picture", None]
    images = [{"bytes": content, "path": f"{k}.png"} for k, content in enumerate(contents)]
    emoset(4).remove_columns("image").add_column("image", images).to_parquet(tmp_path / "train.parquet")
    domain = read_hub(tmp_path)
    assert domain[0][0].getpixel((0, 0)) == (255, 255, 255)
    assert domain[1][0].getpixel((0, 0)) == (40, 40, 40)
    with pytest.raises(OSError, match=r"cannot read image train/2.png \(row 2 of 'train' in .*UnidentifiedImageError"):
        domain[2]
    with pytest.raises(OSError, match=r"2 of 4 images cannot be read:\n  train/2.png"):
        read_domain("hub", str(tmp_path))
    with pytest.warns(UserWarning, match="left out 2 unreadable"):
        assert read_domain("hub", str(tmp_path), skip_unreadable=True).names == ["train/0.png", "train/1.png"]


def test_subsets_and_workers_read_their_own_rows(tmp_path):
    sharded(tmp_path, "train", emoset(16))
    domain = read_hub(tmp_path).with_classes(["fear", "awe"])
    assert class_of(domain) == {f"train/{row}.png": OTHER_ORDER[row % 8] for row in (1, 5, 9, 13)}
    assert [domain.content(item) for item in range(4)] == [encoded(row) for row in (1, 5, 9, 13)]
    copied = pickle.loads(pickle.dumps(domain.subset([2])))
    assert copied.content(0) == encoded(9)
    loader = DataLoader(domain, batch_size=None, num_workers=1, collate_fn=lambda item: np.asarray(item[0]).sum())
    assert list(loader) == [np.asarray(domain[item][0]).sum() for item in range(4)]


def test_looks_are_kept_until_the_files_change(tmp_path, monkeypatch):
    sharded(tmp_path, "train", emoset(8))
    looks, look = [], scans._look

    def noted(domain, item):
        looks.append(item)
        return look(domain, item)

    monkeypatch.setattr(scans, "_look", noted)
    first = read_domain("hub", str(tmp_path))
    read_domain("hub", str(tmp_path))
    assert sorted(looks) == list(range(8))
    sharded(tmp_path, "train", emoset(8, start=8))
    changed = read_domain("hub", str(tmp_path))
    assert sorted(looks[8:]) == list(range(8))
    assert changed.content(0) == encoded(8)
    assert changed.fingerprint != first.fingerprint


def test_equal_names_are_replaced_by_rows(tmp_path):
    images = [{"bytes": encoded(row), "path": "image.png"} for row in range(8)]
    emoset(8).remove_columns("image").add_column("image", images).to_parquet(tmp_path / "test.parquet")
    assert read_hub(tmp_path).names[:2] == ["test/000000", "test/000001"]


def write(path, **columns):
    rows = len(next(iter(columns.values())))
    pq.write_table(pa.table({"image": [{"bytes": encoded(row), "path": None} for row in range(rows)], **columns}), path)


def test_other_classes_keep_their_order(tmp_path):
    emoset(3, classes=["zebra", "ant", "cow"]).to_parquet(tmp_path / "a.parquet")
    assert read_hub(tmp_path / "a.parquet").classes == ["zebra", "ant", "cow"]
    write(tmp_path / "b.parquet", emotion=["zebra", "ant", "zebra"])
    assert class_of(read_hub(tmp_path / "b.parquet")) == {
        "data/000000": "zebra",
        "data/000001": "ant",
        "data/000002": "zebra",
    }
    assert read_hub(tmp_path / "b.parquet").classes == ["ant", "zebra"]
    write(tmp_path / "c.parquet", emotion=[" Sad", "FEAR", "Content"])
    assert read_hub(tmp_path / "c.parquet").classes == ["contentment", "fear", "sadness"]


def test_numbers_need_names(tmp_path):
    write(tmp_path / "a.parquet", label=[2, 0, 2])
    with pytest.raises(ValueError, match=r"classes: the labels in column 'label' .* are numbers; name them in order"):
        read_hub(tmp_path / "a.parquet")
    domain = read_hub(tmp_path / "a.parquet", classes=["sadness", "fear", "awe"])
    assert domain.classes == ["awe", "fear", "sadness"]
    assert list(class_of(domain).values()) == ["awe", "sadness", "awe"]
    with pytest.raises(ValueError, match=r"labels \[2\] in column 'label'"):
        read_hub(tmp_path / "a.parquet", classes=["sadness", "fear"])
    write(tmp_path / "b.parquet", label=["fear", "awe"])
    with pytest.raises(ValueError, match=r"classes: .* have names; give none"):
        read_hub(tmp_path / "b.parquet", classes=["fear", "awe"])


def test_columns_that_are_ambiguous_or_absent(tmp_path):
    emoset(3, second=["a", "b", "c"]).to_parquet(tmp_path / "a.parquet")
    named = r"image_id \(string\), image \(Image\), label \(ClassLabel\), second \(string\)"
    with pytest.raises(ValueError, match=f"label_column: 'none' is none in .*; its columns are {named}"):
        read_hub(tmp_path / "a.parquet", label_column="none")
    assert read_hub(tmp_path / "a.parquet", label_column="second").classes == ["a", "b", "c"]
    with pytest.raises(ValueError, match="image_column: 'label' is none"):
        read_hub(tmp_path / "a.parquet", image_column="label")
    write(tmp_path / "b.parquet", label=["a", "b"], emotion=["c", "d"])
    with pytest.raises(ValueError, match=r"label_column: several may be meant \(label, emotion\)"):
        read_hub(tmp_path / "b.parquet")
    write(tmp_path / "c.parquet", kind=["a", "b"])
    with pytest.raises(ValueError, match=r"label_column: none is found .* columns: image \(struct of bytes\), kind"):
        read_hub(tmp_path / "c.parquet")
    pq.write_table(pa.table({"label": ["a"]}), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="image_column: none is found"):
        read_hub(tmp_path / "d.parquet")
    write(tmp_path / "e.parquet", label=["a", "b"], mask=[b"1", b"2"])
    with pytest.raises(ValueError, match=r"image_column: several may be meant \(image, mask\)"):
        read_hub(tmp_path / "e.parquet")


def test_rows_without_a_label(tmp_path):
    write(tmp_path / "train.parquet", label=["a", None, " "])
    with pytest.raises(ValueError, match="2 of 3 rows of part 'train' have no label in column 'label', such as row 1"):
        read_hub(tmp_path)
    table = emoset(3).remove_columns("label").add_column("label", [-1] * 3)
    emoset(3).to_parquet(tmp_path / "train.parquet")
    table.cast_column("label", emoset(1).features["label"]).to_parquet(tmp_path / "test.parquet")
    assert read_hub(tmp_path, part="test").targets == [UNLABELLED] * 3
    assert read_hub(tmp_path).targets == [MIKELS.index(name) for name in OTHER_ORDER[:3]] + [UNLABELLED] * 3


def test_parts_of_a_pair_are_the_data_sets(tmp_path):
    """As a configuration names it: what the set calls test is tested, and nothing of it is trained on."""
    for domain, start in (("source", 0), ("target", 100)):
        sharded(tmp_path / domain, "train", emoset(32, start=start))
        sharded(tmp_path / domain, "test", emoset(16, start=start + 32))
    source, target = (read_domain("hub", str(tmp_path / domain)) for domain in ("source", "target"))
    pair = DomainPair(source, target, target_validation=0.25, source_validation=0.0)
    assert {target.names[item] for item in pair.test_items} == {f"test/{row}.png" for row in range(132, 148)}
    assert not {source.parts[item] for item in pair.items["source"][0]} - {"train"}
    assert len(pair.items["target"][0]) == 24


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing shard", r"files are missing: train-00001-of-00002.parquet"),
        ("pointer", "pointer of Git LFS.*git lfs pull"),
        ("no parquet", "is not a whole parquet file"),
        ("half a file", "is not a whole parquet file"),
        ("another version", "train is there in 00002 and in 00003 files; keep one"),
        ("unknown part", "do not tell of which part these are: more.parquet"),
        ("two folders", "part 'train' is in several folders"),
        ("nothing", "expected parquet files"),
        ("no folder", "never downloaded"),
    ],
)
def test_incomplete_or_strange_folders(tmp_path, fault, message):
    root = tmp_path / "set"
    sharded(root, "train", emoset(4), emoset(4, start=4))
    first, second = sorted((root / "data").iterdir())
    if fault == "missing shard":
        second.unlink()
    elif fault == "pointer":
        second.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif fault == "no parquet":
        first.write_bytes(b"PA")
    elif fault == "half a file":
        first.write_bytes(first.read_bytes()[:-5])
    elif fault == "another version":
        sharded(root, "train", emoset(2), emoset(2, start=2), emoset(2, start=4))
    elif fault == "unknown part":
        emoset(2).to_parquet(root / "data" / "more.parquet")
    elif fault == "two folders":
        emoset(2).to_parquet(root / "train.parquet")
    elif fault == "nothing":
        first.unlink()
        second.unlink()
    else:
        root = tmp_path / "other"
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        read_hub(root)


def test_package_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install datasets"):
        read_hub(tmp_path)


def test_files_of_a_part_whose_numbers_mean_other_classes(tmp_path):
    sharded(tmp_path, "train", emoset(), emoset(start=8, classes=OTHER_ORDER[::-1]))
    with pytest.raises(ValueError, match=r"labels in column 'label' are .*-00000-of-.*, but .* in .*-00001-of-"):
        read_hub(tmp_path)


def test_damaged_and_mixed_folders(tmp_path):
    emoset().save_to_disk(tmp_path / "saved")
    emoset().to_parquet(beside := tmp_path / "saved" / "test.parquet")
    with pytest.raises(ValueError, match=f"saved by the package datasets, and holds {beside} beside"):
        read_hub(tmp_path / "saved")
    beside.unlink()
    (table,) = (tmp_path / "saved").glob("*.arrow")
    table.write_bytes(table.read_bytes()[:500])
    with pytest.raises(ValueError, match="saved is damaged, save the data set again"):
        read_hub(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state.json is damaged, save the data set again"):
        read_hub(tmp_path / "saved")
    emoset(0).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train.parquet has no rows"):
        read_hub(tmp_path / "train.parquet")
