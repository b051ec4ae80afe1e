"""Tables and lists of pictures: every encoding, and errors that name the file and the line."""

import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmmd.models.data import layouts, pictures
from fastmmd.models.data.readers import (
    MIKELS,
    read_abstract,
    read_csv,
    read_emoset,
    read_fi,
    read_image_list,
    read_ldl,
    read_twitter1,
    tables,
)

from . import test_readers
from .test_folders import fill

TEXT = "image_name,emotion\nbilder/grün.jpg,größe\nbilder/b.jpg,angst\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings(tmp_path, encoding, newline):
    fill(tmp_path, "bilder/grün.jpg", "bilder/b.jpg")
    (tmp_path / "labels.csv").write_bytes(TEXT.replace("\n", newline).encode(encoding))
    if encoding in ("cp1252", "latin-1"):
        with pytest.warns(UserWarning, match=r"labels.csv is not UTF-8; read as Windows-1252: give its encoding"):
            domain = read_csv(tmp_path, "labels.csv")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            domain = read_csv(tmp_path, "labels.csv")
    assert domain.classes == ["angst", "größe"]
    assert domain.samples == [("bilder/grün.jpg", 1), ("bilder/b.jpg", 0)]
    assert read_csv(tmp_path, "labels.csv", encoding=encoding).samples == domain.samples


@pytest.mark.parametrize(("mark", "encoding"), [(b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le")])
def test_a_mark_before_utf16_without_zeros(tmp_path, mark, encoding):
    (tmp_path / "list.txt").write_bytes(mark + "写真写真写真写真写真写真写真写真\n".encode(encoding))
    assert tables.read_text(tmp_path / "list.txt") == "写真写真写真写真写真写真写真写真\n"


def test_an_encoding_that_is_given(tmp_path):
    fill(tmp_path, "写真/1.jpg", "写真/2.jpg")
    (tmp_path / "list.txt").write_bytes("写真/1.jpg 0\n写真/2.jpg 1\n".encode("shift_jis"))
    arguments = {"classes": ["a", "b"]}
    assert read_image_list(tmp_path, "list.txt", encoding="shift_jis", **arguments).names[0] == "写真/1.jpg"
    with pytest.raises(ValueError, match=r"list.txt, line 1: not utf-8: invalid start byte; give its encoding"):
        read_image_list(tmp_path, "list.txt", encoding="utf-8", **arguments)
    with pytest.raises(ValueError, match=r"list.txt: encoding: there is none called 'sjis-2'"):
        read_image_list(tmp_path, "list.txt", encoding="sjis-2", **arguments)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "labels.csv").write_bytes(bytes(range(100)) * 3)
    with pytest.raises(ValueError, match=r"labels.csv: not a table of text"):
        read_csv(tmp_path, "labels.csv")


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r\ufeff"), max_size=9), min_size=1),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
@settings(deadline=None, max_examples=50)
def test_lines_are_what_they_were(tmp_path_factory, lines, encoding, newline):
    path = tmp_path_factory.mktemp("text") / "list.txt"
    path.write_bytes(newline.join(lines).encode(encoding))
    assert tables.read_text(path).split("\n") == lines
    rows = tables.read_lines(path)
    assert [row.cells[0] for row in rows] == [line.strip() for line in lines if line.strip()]
    assert [lines[row.line - 1].strip() for row in rows] == [row.cells[0] for row in rows]


HEADER = "image_name,emotion\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a/1.jpg,u\na/2.jpg\n", r"labels.csv, line 3: expected 2 cells, as in the header .*; found 1: \['a/2.jpg'\]"),
        ("a/1.jpg,u\n\na/2.jpg,v,w\n", r"labels.csv, line 4: expected 2 cells, .* found 3"),
        (
            "a/1.jpg,u\na/2.jpg,\na/3.jpg,''\n",
            r"labels.csv: .* found \['a/2.jpg', ''\] and 2 lines without a label in all: 3, 4; .* reader unlabelled",
        ),
        ("a/1.jpg,u\n,v\n", r"labels.csv, line 3: expected the path of an image; found none in \['', 'v'\]"),
        ('a/1.jpg,u\n"a/2.jpg,v\na/3.jpg,u\n', r"labels.csv, line 3: a quote is not closed"),
        ('a/1.jpg,u\na/2.jpg,"v\nw"\na/3.jpg,u\n', r"labels.csv, line 3: .*or a cell has several lines; close it, or"),
        (
            "a/1.jpg,u\na/2.jpg,v\na/1.jpg,v\n",
            r"labels.csv: 1 images are listed more than once: a/1.jpg \(lines 2 and 4, labelled u and v\)",
        ),
        ("a/1.jpg,u\na/1.jpg,u\n", r"more than once: a/1.jpg \(lines 2 and 3\)"),
        ("/data/a/1.jpg,u\n", r"line 2: expected a path that is relative to .*; found an absolute one: /data/a/1.jpg"),
        ("C:\\data\\1.jpg,u\n", r"line 2: expected a path that is relative to .*: C:/data/1.jpg"),
        ("https://x.org/1.jpg,u\n", r"line 2: expected a path below the root; found https://x.org/1.jpg; nothing is"),
        ("a/1.JPG,u\n", r"1 of 1 listed images are not in .*: a/1.JPG; 1.JPG is called 1.jpg there, other in case"),
        ("root/a/1.jpg,u\n", r"not in .*: root/a/1.jpg; root/a/1.jpg is in .*: is that the root\?"),
        ("a/1.jpg,u\na/9.jpg,u\n", r"1 of 2 listed images are not in .*: a/9.jpg; leave them out with skip_absent"),
        ("", r"labels.csv: expected rows below the header; found none"),
    ],
)
def test_rows_that_do_not_fit(tmp_path, rows, message):
    root = fill(tmp_path / "root", "a/1.jpg", "a/2.jpg", "a/3.jpg")
    (root / "labels.csv").write_text(HEADER + rows)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_csv(root, "labels.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels.csv: expected a header and rows; found an empty file"),
        (
            "image_name|emotion\na/1.jpg|u\n",
            r"expected the columns .*; found \['image_name\|emotion'\]; cells are separated by comma, semicolon or tab",
        ),
        ("image_name,emotion,Emotion\na/1.jpg,u,v\n", r"labels.csv: expected one column emotion; found"),
    ],
)
def test_headers_that_do_not_fit(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path, "labels.csv")


def test_an_unknown_class_and_one_that_is_near(tmp_path):
    fill(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "labels.csv").write_text(HEADER + "1.jpg,anger\n2.jpg,sadnes\n")
    with pytest.raises(ValueError, match=r"csv, line 3: 'sadnes' is none of the classes \[.*\]; is 'sadness' meant\?"):
        read_csv(tmp_path, "labels.csv", classes=MIKELS)


def test_labels_that_differ_in_case_only(tmp_path):
    fill(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "labels.csv").write_text(HEADER + "1.jpg,anger\n2.jpg,Anger\n")
    with pytest.raises(ValueError, match=r"labels.csv: the labels 'anger' and 'Anger' differ in case"):
        read_csv(tmp_path, "labels.csv")
    assert read_csv(tmp_path, "labels.csv", classes=["anger"]).targets == [0, 0]


def test_paths_of_windows_and_with_dots(tmp_path):
    fill(tmp_path, "a/1.jpg", "a/b c/2.jpg", "a/3.jpg", "0.jpg")
    (tmp_path / "labels.csv").write_text(HEADER + "a\\1.jpg,u\n.\\a\\b c\\2.jpg,v,,\n,,\n")
    domain = read_csv(tmp_path, "labels.csv")
    assert domain.names == ["a/1.jpg", "a/b c/2.jpg"]
    assert domain.dropped == {"not in labels.csv": ["a/3.jpg"]}


def test_a_listed_picture_that_is_not_read_here_is_no_picture_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "extensions", lambda: frozenset({".jpg", ".png"}))
    fill(tmp_path, "a/1.jpg", "a/2.heic", "a/3.heic")
    (tmp_path / "labels.csv").write_text(HEADER + "a/1.jpg,u\na/2.heic,u\n")
    assert list(read_csv(tmp_path, "labels.csv").dropped.values()) == [["a/3.heic"]]


def test_absent_images_can_be_left_out(tmp_path):
    fill(tmp_path, "a/1.jpg", "b/2.jpg", "b/more.jpg")
    lines = [("a/1.jpg", 0), ("a/9.jpg", 0), ("b/2.jpg", 1)]
    (tmp_path / "list.txt").write_text("".join(f"{name} {label}\n" for name, label in lines))
    (tmp_path / "labels.csv").write_text(HEADER + "".join(f"{name},{label}\n" for name, label in lines))
    for read, table in ((read_csv, "labels.csv"), (read_image_list, "list.txt")):
        domain = read(tmp_path, table, skip_absent=True)
        assert domain.samples == [("a/1.jpg", 0), ("b/2.jpg", 1)]
        assert domain.dropped == {"absent": ["a/9.jpg"], f"not in {table}": ["b/more.jpg"]}
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match=r"3 of 3 listed images are not in"):
            read(tmp_path / "elsewhere", f"../{table}", skip_absent=True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a/1.jpg 0\na/2.jpg\n", r"list.txt: .*; found 'a/2.jpg' and 1 lines without a label in all: 2; .* unlabelled"),
        ("Real World/1.jpg\n", r"found 'Real World/1.jpg' and 1 lines without a label in all: 1"),
        ("a/1.jpg,0\na/2.jpg,1\n", r"line 1: .* found 'a/1.jpg,0'; a table with commas is for the reader csv"),
        ("a/1.jpg 0\n\na/1.jpg 0\n", r"more than once: a/1.jpg \(lines 1 and 3\)"),
        ("a/1.jpg 0\na/2.jpg 5\n", r"list.txt, line 2: label 5 of a/2.jpg is outside 0 to 1"),
        ("a/1.jpg dogg\n", r"list.txt, line 1: 'dogg' is none of the classes \['dog', 'cat'\]; is 'dog' meant\?"),
        ("", r"list.txt: expected lines of a path and a label; found an empty file"),
    ],
)
def test_lines_that_do_not_fit(tmp_path, lines, message):
    root = fill(tmp_path, "a/1.jpg", "a/2.jpg")
    (root / "list.txt").write_text(lines)
    with pytest.raises(ValueError, match=message):
        read_image_list(root, "list.txt", ["dog", "cat"])


def test_other_forms_of_unicode_are_told(tmp_path):
    fill(tmp_path, "cafe\u0301/1.jpg")
    (tmp_path / "list.txt").write_text("caf\u00e9/1.jpg 0\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="there, other in case or in Unicode's form"):
        read_image_list(tmp_path, "list.txt", ["a"])


# The sets' own tables


def test_a_number_that_is_none(tmp_path):
    root = layouts.write_abstract(tmp_path / "abstract", test_readers.pictures(votes=test_readers.counts_of))
    path = root / "testImages_abstract" / "ABSTRACT_groundTruth.csv"
    path.write_text(path.read_text().replace("'abstract_0002.jpg',1", "'abstract_0002.jpg',one"))
    with pytest.raises(ValueError, match=r"groundTruth.csv, line 3: expected a number; found 'one'"):
        read_abstract(root)
    root = test_readers.fi(tmp_path / "fi", test_readers.WELL)
    path = root / "agg" / "fear_1st_1000.csv"
    path.write_text(path.read_text() + "7,https://x/7.jpg,1\n")
    with pytest.raises(ValueError, match=r"fear_1st_1000.csv, line 4: expected id,url,disagree,agree; found \['7'"):
        read_fi(root)


def test_short_rows_and_images_listed_twice(tmp_path):
    root = layouts.write_ldl(tmp_path / "ldl", test_readers.pictures(votes=test_readers.counts_of))
    path = root / "ground_truth.txt"
    text = path.read_text()
    path.write_text(f"{text}17.jpg 1 2\n")
    with pytest.raises(ValueError, match=r"ground_truth.txt, line 18: expected a name and 8 votes; found '17.jpg 1 2'"):
        read_ldl(root)
    path.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(ValueError, match=r"listed more than once: 1.jpg \(lines 2 and 18\)"):
        read_ldl(root)
    given = test_readers.pictures(("negative", "positive"), votes=lambda label: (2, 3))
    root = layouts.write_twitter1(tmp_path / "twitter", given)
    path = root / "amt_result.csv"
    path.write_text(f"{path.read_text()}0001.jpg,5,3,2\n")
    with pytest.raises(ValueError, match=r"amt_result.csv: 1 images are listed more than once: 0001.jpg"):
        read_twitter1(root)


def emoset(root):
    parts = {part: test_readers.pictures(each=1) for part in ("train", "val", "test")}
    return layouts.write_emoset(root, parts)


def test_emoset_incomplete(tmp_path):
    root = emoset(tmp_path)
    assert read_emoset(root, None).parts == ["train"] * 8 + ["val"] * 8 + ["test"] * 8
    (root / "image" / "awe" / "awe_00002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 24 listed .*: image/awe/awe_00002.jpg; .* skip_absent: true"):
        read_emoset(root)
    domain = read_emoset(root, None, skip_absent=True)
    assert domain.dropped == {"absent": ["image/awe/awe_00002.jpg"]}
    assert domain.parts == ["train"] * 8 + ["val"] * 7 + ["test"] * 8
    (root / "val.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected val.json in .*options: \{part: train\} reads that part"):
        read_emoset(root)
    assert len(read_emoset(root, "test")) == 8
    assert len(read_emoset(root, "test").dropped["not in test.json"]) == 15


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[["awe",\n"image/awe/awe_00001.jpg"', r"train.json, line 2, column 26: no json: Expecting"),
        (b'{"a": 1}', r"train.json: expected a list of rows; found a"),
        (b'[["awe", 3]]', r"train.json, row 0: expected a row with an item image/...; found \['awe', 3\]"),
        (b'[["aww", "image/awe/awe_00001.jpg"]]', r"train.json, row 0: 'aww' is none of .*; is 'awe' meant\?"),
        (b"\xff\xfe[", r"train.json: not UTF-8 at byte 0"),
        (
            json.dumps([["awe", "image/awe/awe_00001.jpg"]] * 2).encode(),
            r"train.json, row 1: image/awe/awe_00001.jpg is listed before, in .*train.json, row 0",
        ),
    ],
)
def test_emoset_json_that_does_not_fit(tmp_path, content, message):
    root = emoset(tmp_path)
    (root / "train.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_emoset(root, "train")
