"""Prediction on a folder of pictures, with trained digits and with a network for photographs."""

import csv
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from fastmmd.models import cli, predict
from fastmmd.models.data import OptDigits
from fastmmd.models.data import pictures as reading
from fastmmd.models.trained import load_trained
from tests.models.test_export import save_photo_checkpoint
from tests.models.test_five_crops import SMALL
from tests.models.test_read_picture import MADE

READ_DOMAIN = "fastmmd.models.data.readers.read_domain"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The checkpoint of a short run on digits, whose data sets make tensors and which has no transform."""
    output = tmp_path_factory.mktemp("digits")
    config = ["--config=digits.yaml", "--config=target_only.yaml", f"--output={output}"]
    silent = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    cli.main(["fit", *config, *silent, "--data.steps_per_epoch=60", "--trainer.max_epochs=1", "--model.ramp=false"])
    return output / "checkpoints" / "last.ckpt"


def save_digits(folder, count):
    """Pictures of the first digits, `<number>-<class>.png`, some in a folder of their own."""
    data = OptDigits()
    for k in range(count):
        image, label = data[k]
        path = folder / ("more" if k % 3 else ".") / f"{k:02}-{label}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * image[0].numpy()).round().astype(np.uint8)).save(path)


def run(checkpoint, images, output, *args):
    predict.main([f"--checkpoint={checkpoint}", f"--images={images}", f"--output={output}", *args])
    with open(output / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_digits_have_predictions_and_contact_sheets(digits, tmp_path, capsys):
    save_digits(tmp_path / "images", 50)
    (tmp_path / "images" / "notes.txt").write_text("no picture")
    (tmp_path / "images" / ".hidden.png").write_text("no picture")
    rows = run(digits, tmp_path / "images", tmp_path / "output")

    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == 50
    assert {row["path"].split("/")[0] for row in rows if "/" in row["path"]} == {"more"}
    labels = [row["path"][-5] for row in rows]
    assert np.mean([row["class"] == label for row, label in zip(rows, labels, strict=True)]) > 0.5  # chance is 0.1
    trained = load_trained(digits)
    with torch.inference_mode():
        expected = trained.network(OptDigits()[0][0][None])[1].softmax(dim=1)[0]
    first = rows[0]  # 00-0.png, from 8-bit levels
    assert [float(first[f"p_{digit}"]) for digit in range(10)] == pytest.approx(expected.tolist(), abs=0.01)
    assert first["class"] == str(int(expected.argmax()))

    sheets = sorted(file.name for file in (tmp_path / "output").glob("*.png"))
    assert sheets == ["contact-1.png", "contact-2.png"]
    with Image.open(tmp_path / "output" / "contact-2.png") as sheet:
        assert sheet.size == (6 * 190 + 10, 3 * 230 + 10)  # 14 of 50 pictures
        assert np.asarray(sheet.convert("L")).std() > 20
    printed = capsys.readouterr().out
    assert "50 pictures found, 50 predicted, 0 skipped; 1 other files are no pictures" in printed

    # A smaller prediction into the same folder leaves none of the larger one's sheets.
    assert len(run(digits, tmp_path / "images" / "more", tmp_path / "output")) == 33
    assert [file.name for file in (tmp_path / "output").glob("*.png")] == ["contact-1.png"]


def test_unreadable_pictures_are_named(digits, tmp_path, capsys):
    save_digits(tmp_path / "images", 3)
    (tmp_path / "images" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"cannot read image .*broken.jpg.*--skip-unreadable goes on"):
        run(digits, tmp_path / "images", tmp_path / "output")
    assert not (tmp_path / "output" / "predictions.csv").exists()
    assert len(run(digits, tmp_path / "images", tmp_path / "output", "--skip-unreadable")) == 3
    printed = capsys.readouterr().out
    assert "skipped, for they cannot be read: broken.jpg (no known image format)\n" in printed
    assert "4 pictures found, 3 predicted, 1 skipped\n" in printed
    (tmp_path / "broken").mkdir()
    (tmp_path / "images" / "broken.jpg").rename(tmp_path / "broken" / "broken.jpg")
    with pytest.raises(OSError, match="none of the 1 pictures"):
        run(digits, tmp_path / "broken", tmp_path / "output", "--skip-unreadable")


def test_pictures_of_formats_that_are_not_read_are_an_error(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reading, "extensions", lambda: frozenset({".png"}))
    save_digits(tmp_path / "images", 3)
    (tmp_path / "images" / "more" / "a.HEIC").write_bytes(b"content")
    (tmp_path / "images" / "b.nef").write_bytes(b"content")
    (tmp_path / "images" / "c.png").symlink_to("nowhere.png")
    with pytest.raises(OSError, match=r"3 of 6 pictures in .*: b.nef \(a camera.*more/a.HEIC \(needs .* pillow-heif\)"):
        run(digits, tmp_path / "images", tmp_path / "output")
    assert not (tmp_path / "output").exists()
    assert len(run(digits, tmp_path / "images", tmp_path / "output", "--skip-unreadable")) == 3
    printed = capsys.readouterr().out
    assert "6 pictures found, 3 predicted, 3 skipped\n" in printed
    assert "c.png (a link to nothing)" in printed
    for args in ((), ("--skip-unreadable",)):
        with pytest.raises(OSError, match=r"1 of 1 pictures in .*b.nef.*camera's raw file"):
            run(digits, tmp_path / "images" / "b.nef", tmp_path / "output", *args)


def test_links_are_followed(digits, tmp_path):
    save_digits(tmp_path / "elsewhere", 20)
    save_digits(tmp_path / "images", 1)
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "round").symlink_to(tmp_path / "images")
    assert len(run(digits, tmp_path / "images", tmp_path / "output")) == 21


def test_an_earlier_predictions_sheets_are_no_pictures(digits, tmp_path):
    save_digits(tmp_path, 2)
    for _ in range(2):
        assert len(run(digits, tmp_path, tmp_path / "output")) == 2


def test_a_single_file_is_predicted_as_in_its_folder(digits, tmp_path):
    save_digits(tmp_path, 2)
    whole = run(digits, tmp_path, tmp_path / "output")
    path = tmp_path / whole[1]["path"]
    (alone,) = run(digits, path, tmp_path / "one")
    assert alone == {**whole[1], "path": path.name}
    bare = path.rename(path.with_suffix(""))
    assert run(digits, bare, tmp_path / "one")[0]["class"] == alone["class"]


def test_every_kind_of_file_is_predicted_as_it_is_tested(tmp_path):
    """16 bits, transparency, palettes, CMYK, orientation, floating point: `test` and `predict` see one picture."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = io.BytesIO()
    Image.fromarray(MADE["rgb.jpg"][1]).save(turned, "JPEG", exif=exif)
    contents = {**{name: content for name, (content, _, _) in MADE.items()}, "turned.jpg": turned.getvalue()}
    for number, (name, content) in enumerate(contents.items()):
        path = tmp_path / "target" / ("awe", "fear")[number % 2] / f"{number:02}-{name.split()[0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        save_digits(tmp_path / "source" / path.parent.name, 9)
    args = ["--config=mldrnet.yaml", *SMALL, "--data.fold=null", f"--output={tmp_path / 'run'}"]
    for domain in ("source", "target"):
        init = {"reader": "image_folder", "root": str(tmp_path / domain)}
        args.append(f"--data.{domain}={json.dumps({'class_path': READ_DOMAIN, 'init_args': init})}")
    args += ["--data.target_validation=0", "--data.target_test=0.9", "--data.exclude_held_out=false"]
    cli.main(["fit", *args])
    cli.main(["test", *args])
    with open(tmp_path / "run" / "predictions.csv", newline="") as file:
        tested = {row["item"]: row for row in csv.DictReader(file)}
    split = json.loads((tmp_path / "run" / "split.json").read_text())["folds"][0]
    assert sorted(tested) == sorted(split["test"])
    predicted = run(tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "target", tmp_path / "output")
    assert len(predicted) == len(contents)
    for row in predicted:
        again = tested.get(row["path"], row)
        for column in ("p_awe", "p_fear"):
            assert float(row[column]) == pytest.approx(float(again[column]), abs=2e-6), row["path"]


def test_photographs(tmp_path):
    checkpoint = save_photo_checkpoint(tmp_path / "last.ckpt")
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for k, size in enumerate([(300, 60, 3), (60, 300), (50, 50, 3)]):
        Image.fromarray(random.integers(256, size=size, dtype=np.uint8)).save(tmp_path / "images" / f"{k}.PNG")
    rows = run(checkpoint, tmp_path / "images", tmp_path / "output")
    trained = load_trained(checkpoint)
    assert trained.shape == (3, 48, 48)
    with Image.open(tmp_path / "images" / "1.PNG") as image, torch.inference_mode():
        expected = trained.network(trained.transform(image.convert("RGB"))[None])[1].softmax(dim=1)[0]
    assert [float(rows[1][name]) for name in ("p_awe", "p_fear")] == pytest.approx(expected.tolist(), abs=1e-5)


def test_weights_that_are_not_finite_predict_nothing(tmp_path):
    checkpoint = save_photo_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(checkpoint, weights_only=True)
    stored["state_dict"]["network.head.bias"].fill_(torch.nan)
    torch.save(stored, checkpoint)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(FloatingPointError, match="not finite"):
        run(checkpoint, tmp_path, tmp_path / "output")


def test_folders_without_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("images: no folder or file")):
        predict.found_pictures(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=re.escape("images: no pictures")):
        predict.found_pictures(tmp_path)


def test_long_captions_keep_their_end():
    page = [Image.new("RGB", (180, 90), "red")]
    sheet = predict.contact_sheet(page, [("amusement: 97%", "a/very/long/path/" * 9 + "end.jpg")])
    pixels = np.asarray(sheet.convert("L"))
    assert pixels.shape == (240, 1150)
    assert (pixels[190:, 200:] == 255).all()  # the text stays in its cell
    assert pixels[190:, :200].std() > 5


def test_pictures_called_as_contact_sheets_stay(digits, tmp_path):
    save_digits(tmp_path / "images", 4)
    (photo := tmp_path / "images" / "00-0.png").rename(photo.with_name("contact-lens.png"))
    assert "contact-lens.png" in [row["path"] for row in run(digits, tmp_path / "images", tmp_path / "images")]
    assert photo.with_name("contact-lens.png").is_file()
    picture = photo.with_name("contact-lens.png").rename(photo.with_name("contact-1.png")).read_bytes()
    with pytest.raises(FileExistsError, match=r"output: .*contact-1\.png is a file of another origin"):
        run(digits, tmp_path / "images", tmp_path / "images")
    assert photo.with_name("contact-1.png").read_bytes() == picture


def test_names_of_several_lines_have_captions(digits, tmp_path):
    save_digits(tmp_path / "images", 1)
    (photo := tmp_path / "images" / "00-0.png").rename(photo.with_name("two\nlines\r.png"))
    assert [row["path"] for row in run(digits, tmp_path / "images", tmp_path / "output")] == ["two\nlines\r.png"]
