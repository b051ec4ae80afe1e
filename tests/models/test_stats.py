"""What `data.stats` says of a data set."""

import pytest
from jsonargparse import auto_cli

from fastmmd.models.data import layouts
from fastmmd.models.data.readers import MIKELS, read_domain
from fastmmd.models.data.stats import PAPER, main, statistics

from .test_readers import REJECTED, WELL, counts_of, fi, noise, pictures


def test_counts_beside_the_paper(tmp_path):
    layouts.write_iaps(tmp_path, pictures())
    text = statistics("iaps", str(tmp_path))
    assert "| contentment | 2 | 53 |" in text
    assert "| sum | 16 | 385 |" in text
    assert "He & Ding print the sum 395; the classes they list add to 385." in text


@pytest.mark.parametrize("reader", PAPER)
def test_the_papers_sums(reader):
    counts, printed = PAPER[reader]
    assert len(counts) == len(MIKELS)
    assert printed - sum(counts) == (10 if reader == "iaps" else 0)


def test_oddities_of_files_are_listed(tmp_path):
    root = layouts.write_artphoto(tmp_path, [*pictures(), layouts.Picture("awe", noise(50, "CMYK").resize((20, 4)))])
    folder = root / "testImages_artphoto"
    for k in range(2, 7):
        layouts.save(noise(0), folder / f"amusement_9{k}.jpg")
    layouts.truncate(folder / "fear_0007.jpg")
    lines = statistics("artphoto", str(root)).splitlines()
    assert "* width, pixels: 8 to 20, median 8" in lines
    assert "* height, pixels: 4 to 6, median 6" in lines
    assert "* modes: RGB 20, CMYK 1" in lines
    assert "* groups of identical files: 1, such as amusement_0001.jpg = amusement_92.jpg = " in "\n".join(lines)
    assert any(line.startswith("* files that look like placeholders: 6: amusement_0001.jpg, ") for line in lines)
    assert "* unreadable files: 1" in lines
    assert any(line.startswith(f"  * {folder / 'fear_0007.jpg'}: ") for line in lines)


def test_pictures_that_a_reader_leaves_out_are_listed(tmp_path):
    layouts.write_abstract(tmp_path, [*pictures(votes=counts_of), layouts.Picture("", noise(99), [7, 7, *[0] * 6])])
    text = statistics("abstract", str(tmp_path))
    assert "* left out, tied votes: 1: abstract_0017.jpg" in text
    assert "| anger | 2 | - |" in text


def test_pictures_without_a_label_have_a_row_of_their_own(tmp_path):
    layouts.write_folders(tmp_path / "train", pictures(("a", "b"), each=2))
    for k in range(3):
        layouts.save(noise(60 + k), tmp_path / "test" / f"{k}.png")
    lines = statistics("image_folder", str(tmp_path)).splitlines()
    assert {"| a | 2 | - |", "| b | 2 | - |", "| (no label) | 3 | - |", "| sum | 7 | - |"} <= set(lines)
    assert "| (no label) | 3 | - |" in statistics("unlabelled", str(tmp_path / "test"))


def test_pictures_in_tables(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    cells = []
    for row, seed in enumerate((1, 2, 1)):
        layouts.save(noise(seed), tmp_path / f"{seed}.png")
        cells.append({"bytes": (tmp_path / f"{seed}.png").read_bytes(), "path": f"{row}.png"})
    table = datasets.Dataset.from_dict({"image": cells, "label": ["fear", "awe", "awe"]})
    table.cast_column("image", datasets.Image()).to_parquet(tmp_path / "train.parquet")
    text = statistics("hub", str(tmp_path / "train.parquet"))
    assert "| awe | 2 | - |" in text
    assert "* groups of identical files: 1, such as train/0.png = train/2.png" in text


def test_command_line_prints_the_table(tmp_path, capsys):
    root = fi(tmp_path, WELL + REJECTED)
    auto_cli(main, args=["fi", str(root), '--options={"labels": "noisy"}'])
    assert "| sum | 48 | 22700 |" in capsys.readouterr().out


@pytest.mark.parametrize("called", [statistics, read_domain])
def test_wrong_names_of_readers_and_options_name_near_ones(tmp_path, called):
    with pytest.raises(ValueError, match=r"no reader 'artfoto' \(near to it: artphoto\); the readers are abstract, "):
        called("artfoto", str(tmp_path))
    with pytest.raises(ValueError, match=r"the reader fi has no 'lables' \(near to it: labels\); it has labels, part"):
        called("fi", str(tmp_path), {"lables": "noisy"})
    with pytest.raises(ValueError, match=r"the reader office31 takes domain \(\{domain: ...\}\); got none"):
        called("office31", str(tmp_path))
