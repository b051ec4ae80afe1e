"""docs/data.md says of the readers what they are: their names, their options, and commands that exist."""

import inspect
import re
import shlex
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fastmmd.models.data import DomainPair
from fastmmd.models.data.readers import READERS, read_domain

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CONFIGS = {path.name for path in (ROOT / "models" / "configs").glob("*.yaml")}


def reader_rows():
    """Cells of the table of all readers."""
    section = TEXT.split("## All readers")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def commands():
    """The words of each command in a code block, continued lines joined."""
    blocks = [block for language, block in BLOCK.findall(TEXT) if language == "sh"]
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def modules():
    return [words for words in commands() if words[:2] == ["python", "-m"]]


def options_of(reader):
    """Option -> whether it must be given."""
    parameters = list(inspect.signature(READERS[reader]).parameters.values())[1:]
    return {parameter.name: parameter.default is parameter.empty for parameter in parameters}


def test_every_reader_is_in_the_table_and_no_other():
    assert {row[0].strip("`") for row in reader_rows()} == set(READERS)


@pytest.mark.parametrize("reader", READERS)
def test_options_of_the_table_are_the_readers(reader):
    cells = [row[-1] for row in reader_rows() if row[0] == f"`{reader}`" and row[-1] != "as above"]
    assert len(cells) == 1
    required = set(re.findall(r"\*\*`(\w+)`\*\*", cells[0]))
    named = set(re.findall(r"`(\w+)`", cells[0]))
    assert {name: name in required for name in named} == options_of(reader)


def test_options_in_the_text_are_some_readers():
    """`name: value` in code, in braces or without, names an option."""
    known = {name for reader in READERS for name in options_of(reader)}
    known |= {*inspect.signature(read_domain).parameters, *inspect.signature(DomainPair).parameters}
    inline = re.findall(r"`(\w+): [^`]*`", BLOCK.sub("", TEXT))
    assert inline
    assert set(inline) <= known | {"options"}


@pytest.mark.parametrize("words", modules(), ids=" ".join)
def test_commands_exist(words):
    assert find_spec(words[2]) is not None
    given = dict(pairwise(words))
    assert {word for before, word in pairwise(words) if before == "--config"} <= CONFIGS
    readers = {name: given.get(f"--data.{name}.reader", "image_folder") for name in ("source", "target")}
    options = {readers[name]: given.get(f"--data.{name}.options") for name in readers}
    if words[2] == "fastmmd.models.data.stats":
        assert {word for word in words if word.startswith("--")} <= {"--options"}
        options = {words[3]: given.get("--options")}
        assert {name for name, required in options_of(words[3]).items() if required} <= set(
            yaml.safe_load(options[words[3]] or "{}")
        )
    for reader, text in options.items():
        assert set(yaml.safe_load(text or "{}")) <= set(options_of(reader))
    for word in words:
        if match := re.fullmatch(r"--data\.(?:(?:source|target)\.)(\w+)", word):
            assert match[1] in inspect.signature(read_domain).parameters
        elif match := re.fullmatch(r"--data\.(\w+)", word):
            assert match[1] in inspect.signature(DomainPair).parameters


def test_flags_in_the_text_exist():
    data = set(inspect.signature(DomainPair).parameters)
    for side, name in re.findall(r"--data\.((?:source|target)\.)?(\w+)", TEXT):
        assert name in (inspect.signature(read_domain).parameters if side else data)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert target[1:] in anchors
        elif not target.startswith("http"):
            assert (ROOT / "docs" / target).is_file()


def test_prose_fits_the_width():
    assert [line for line in BLOCK.sub("", TEXT).splitlines() if len(line) > 120 and not line.startswith("|")] == []


def noise(*seed):
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(24, 32, 3), dtype=np.uint8))


def test_the_example_prints_what_is_shown(tmp_path, monkeypatch, capsys):
    for number, (folder, each) in enumerate((("photos", 20), ("paintings", 10))):
        for k, name in enumerate(("awe", "fear", "joy")):
            (tmp_path / "data" / folder / name).mkdir(parents=True)
            for picture in range(each):
                noise(number, k, picture).save(tmp_path / "data" / folder / name / f"{picture:02}.png")
    photos = tmp_path / "data" / "photos"
    (photos / ".DS_Store").write_bytes(b"junk")
    (photos / "fear" / "IMG_1.CR2").write_bytes(b"raw")
    (photos / "readme.txt").write_text("photographs")
    noise(1, 0, 3).save(photos / "joy" / "copy.bmp")
    Image.new("RGB", (32, 24), "black").save(photos / "awe" / "black.png")
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(TEXT)
    (code,) = (block for language, block in blocks if language == "python")
    exec(code, {})
    (shown,) = (block for _, block in blocks if "WARNING" in block)
    assert capsys.readouterr().out.strip() == shown.strip()
