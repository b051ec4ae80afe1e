"""What is said of the data before training, and what stops it there."""

import re

import pytest
from PIL import Image

from fastmmd.models.data import DomainPair
from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.inspect import describe
from fastmmd.models.data.readers import read_domain, scans

from .conftest import Blobs
from .folders import CLASSES, picture, run, write


def pair(folder, options=None, **settings):
    domains = [read_domain("image_folder", str(folder / name), options) for name in ("source", "target")]
    return DomainPair(*domains, **{"target_test": 0.3, "target_validation": 0.2, "source_validation": 0.2, **settings})


def cells(text):
    """First cell of a row -> its others."""
    rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|"))
    return {name: rest for name, *rest in rows}


@pytest.fixture
def folders(tmp_path):
    write(tmp_path / "source", 1, each=20)
    write(tmp_path / "target", 2)
    return tmp_path


def test_table_counts_what_is_used(folders):
    rows = cells(describe(pair(folders)))
    assert rows["items"] == ["60", "30"]
    assert rows["training"] == ["48", "14"]
    assert rows["validation"] == ["12", "7"]
    assert rows["test"] == ["-", "9"]
    assert rows["folder"] == [str(folders / "source"), str(folders / "target")]
    assert rows["fear"] == ["16", "4", "5", "2", "3"]


def test_table_of_items_without_files():
    text = describe(DomainPair(Blobs(60), Blobs(48)))
    assert cells(text)["training"] == ["54", "19"]
    assert "* copies" not in text


def test_copies_are_counted_and_their_leak_is_a_warning(folders):
    assert "* copies" not in describe(pair(folders))
    data = pair(folders)
    tested, trained = (data.names["target"][item] for item in (data.test_items[0], data.items["target"][0][0]))
    for name, path in (
        (tested, "source/joy/a.bmp"),
        (trained, "target/awe/twin.tiff"),
        (trained, "target/joy/twin.tiff"),
    ):
        with Image.open(folders / "target" / name) as image:
            image.save(folders / path)
    text = describe(pair(folders))
    assert re.search(
        r"copies within the target: 3 pictures in 1 groups, such as .*; in 1 groups their labels differ", text
    )
    assert f"copies across the domains: 1, such as joy/a.bmp of the source = {tested} of the target" in text
    assert "WARNING: 1 held-out" in text
    assert "WARNING" not in describe(pair(folders, exclude_held_out=True))


def test_every_held_out_copy_is_counted(folders):
    """A picture that stands for many that are gone: one group, and few of its names are enough."""
    for folder in ("source", "target"):
        for name in CLASSES:
            for k in range(10):
                picture(7).save(folders / folder / name / f"gone{k}.png")
    data = pair(folders)
    held_out = [*data.test_items, *data.items["target"][1]]
    count = sum("gone" in data.names["target"][item] for item in held_out)
    assert count > 1
    text = describe(data)
    assert f"WARNING: {count} held-out pictures" in text
    assert "copies within the source: 30 pictures in 1 groups, such as awe/gone0.png = awe/gone1.png = " in text
    assert all(len(line) < 250 for line in text.splitlines())


def test_class_without_source_pictures_is_named(tmp_path):
    write(tmp_path / "source" / "train", 1, classes=("awe", "fear"))
    write(tmp_path / "source" / "test", 2)
    write(tmp_path / "target", 3)
    assert "* classes without a training picture in the source: joy\n" in describe(pair(tmp_path))
    write(tmp_path / "source" / "train", 4, classes=("joy",))
    assert "without a training picture" not in describe(pair(tmp_path))


def test_classes_that_look_alike_are_told_apart(tmp_path):
    """On one disk an accent is a letter of its own, on another not."""
    write(tmp_path / "source", 1, classes=("caf\u00e9", "tea"))
    write(tmp_path / "target", 2, classes=("cafe\u0301", "tea"))
    alike = r"'caf\\xe9' and .*'cafe\\u0301' differ in case.*Unicode's form"
    with pytest.raises(ValueError, match=alike):
        pair(tmp_path)
    pair(tmp_path, {"classes": ["tea", "caf\u00e9"]})


def test_a_set_of_test_pictures_alone_says_what_to_do(tmp_path):
    write(tmp_path / "source", 1)
    write(tmp_path / "target" / "test", 2)
    with pytest.raises(ValueError, match=r"no items are left for training: of 30, 0 .* 30 for the test.*part: all"):
        pair(tmp_path)
    pair(tmp_path, {"part": "all"})


def test_pictures_of_one_colour_are_named(folders):
    Image.new("I;16", (9, 9), 20).save(folders / "source" / "awe" / "dark.png")
    assert "pictures of a single colour in the source: 1, such as awe/dark.png" in describe(pair(folders))


def test_what_a_reader_leaves_out_is_in_the_table(folders):
    (folders / "target" / "awe" / "photo.cr2").write_bytes(b"raw")
    picture(4).save(folders / "target" / "beside.png")
    rows = [line for line in describe(pair(folders)).splitlines() if line.startswith("| target")]
    assert any("photo.cr2" in line and "raw file" in line for line in rows)
    assert any("beside.png" in line for line in rows)


def test_training_says_what_it_reads_and_keeps_it(folders, caplog):
    run("fit", folders)
    text = (folders / "run" / "data.md").read_text()
    assert cells(text)["items"] == ["60", "30"]
    assert text in caplog.text


def test_inspect_prints_what_fit_would_and_writes_nothing(folders, capsys):
    run("inspect", folders, "--data.target.reader=image_folder")
    printed = capsys.readouterr().out
    assert cells(printed)["items"] == ["60", "30"]
    assert not (folders / "run").exists()
    run("fit", folders)
    assert (folders / "run" / "data.md").read_text() in printed


# All files are decoded before anything else


@pytest.mark.parametrize("domain", ["source", "target"])
def test_corrupt_picture_stops_before_training(folders, domain):
    path = folders / domain / "fear" / "03.png"
    path.write_bytes(path.read_bytes()[:60])
    (folders / domain / "joy" / "05.png").write_bytes(b"no picture")
    with pytest.raises(
        OSError, match=rf"2 of \d0 images cannot be read:\n  {path}: .*\n  .*joy/05.png: .*\n.*skip_unreadable"
    ):
        run("fit", folders)
    assert not (folders / "run").exists()
    with pytest.warns(UserWarning, match="left out 2 unreadable images"):
        run("fit", folders, f"--data.{domain}.skip_unreadable=true")
    rows = [line for line in (folders / "run" / "data.md").read_text().splitlines() if "unreadable" in line]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows] == [
        [domain, "unreadable", "2", "fear/03.png, joy/05.png"]
    ]


def test_paths_of_broken_pictures_are_whole(folders, monkeypatch):
    path = folders / "target" / "joy" / "05.png"
    path.write_bytes(b"no picture")
    monkeypatch.chdir(folders)
    with pytest.raises(OSError, match=rf"\n  {path}: "):
        read_domain("image_folder", "target")


def test_listed_picture_of_a_format_that_is_not_read_gets_its_remedy(folders):
    (folders / "target" / "photo.cr2").write_bytes(b"raw")
    listed = ImageDomain(folders / "target", ["photo.cr2", "joy/03.png"], [0, 0], ["joy"])
    with pytest.raises(OSError, match=r"photo.cr2: UnidentifiedImageError: a camera's raw file: develop it"):
        scans.checked(listed)


def test_nothing_readable_is_an_error(folders):
    for path in (folders / "source").rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(OSError, match="60 of 60 images cannot be read"):
        read_domain("image_folder", str(folders / "source"), skip_unreadable=True)


def decoded(monkeypatch):
    """Names of files as they are decoded."""
    names = []
    look = scans._look

    def noted(domain, item):
        names.append(domain.names[item])
        return look(domain, item)

    monkeypatch.setattr(scans, "_look", noted)
    return names


def test_files_are_decoded_once(folders, monkeypatch):
    names = decoded(monkeypatch)
    first = read_domain("image_folder", str(folders / "source"))
    assert sorted(names) == sorted(first.names)
    names.clear()
    assert read_domain("image_folder", str(folders / "source")).inspections == first.inspections
    assert not names
    picture(6, (33, 9)).save(folders / "source" / "awe" / "00.png")
    picture(7).save(folders / "source" / "awe" / "new.png")
    again = read_domain("image_folder", str(folders / "source"))
    assert sorted(names) == ["awe/00.png", "awe/new.png"]
    assert again.inspections["awe/00.png"].size == (33, 9)


def test_picture_that_broke_since_it_was_decoded_is_found(folders):
    read_domain("image_folder", str(folders / "target"))
    path = folders / "target" / "joy" / "02.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(OSError, match=f"{path}"):
        read_domain("image_folder", str(folders / "target"))
    path.unlink()
    listed = ImageDomain(folders / "target", ["joy/02.png", "joy/03.png"], [0, 0], ["joy"])
    with pytest.raises(OSError, match=rf"1 of 2 images cannot be read:\n  {path}: FileNotFoundError"):
        scans.checked(listed)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "other", "files": {}}'])
def test_damaged_cache_is_made_anew(folders, monkeypatch, content):
    monkeypatch.setenv("FASTMMD_CACHE", str(folders / "cache"))
    first = read_domain("image_folder", str(folders / "target"))
    (path,) = (folders / "cache").rglob("*.json")
    whole = path.read_text()
    path.write_text(content)
    assert read_domain("image_folder", str(folders / "target")).inspections == first.inspections
    assert path.read_text() == whole


def test_cache_that_cannot_be_written_is_no_error(folders, monkeypatch):
    (folders / "file").write_text("no folder")
    monkeypatch.setenv("FASTMMD_CACHE", str(folders / "file"))
    with pytest.warns(UserWarning, match="not kept for later runs"):
        assert len(read_domain("image_folder", str(folders / "target"))) == 30


def test_interrupted_look_goes_on_where_it_was(folders, monkeypatch):
    monkeypatch.setenv("FASTMMD_CACHE", str(folders / "cache"))
    monkeypatch.setattr(scans, "CHUNK", 10)
    names, look = [], scans._look

    def interrupted(domain, item):
        if domain.names[item] == "joy/05.png" and len(names) < 60:
            raise KeyboardInterrupt
        names.append(domain.names[item])
        return look(domain, item)

    monkeypatch.setattr(scans, "_look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_domain("image_folder", str(folders / "target"))
    names[:] = names[:1] * 60
    read_domain("image_folder", str(folders / "target"))
    assert sorted(names[60:]) == [f"joy/{k:02}.png" for k in range(10)]


def test_classes_that_differ_are_told_apart(folders):
    (folders / "target" / "joy").rename(folders / "target" / "Joy")
    with pytest.raises(ValueError, match=r"only in the source: joy; only in the target: Joy"):
        pair(folders)
    assert pair(folders, {"classes": [*CLASSES[:2], "joy"]}).classes == list(CLASSES)
