"""`python -m fastmmd.models.predict --checkpoint CKPT --images PATH --output DIR`: a trained network on pictures.

Writes `predictions.csv` (path, class, p_<class>...; a row a picture, ordered by path) and contact sheets
`contact-1.png`, `contact-2.png`, ... that show every picture with its class and probability.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm import tqdm

from fastmmd.models.data.domain import UNLABELLED, ImageDomain, some
from fastmmd.models.data.pictures import obstacle
from fastmmd.models.data.readers.files import LOOP, Listing, list_folder
from fastmmd.models.files import write_atomically
from fastmmd.models.networks.network import over_crops
from fastmmd.models.trained import load_trained

# Of a contact sheet: cells, and the pixels of a cell: its picture's square, the text below it, the margin around both.
COLUMNS, ROWS = 6, 6
SQUARE, TEXT, MARGIN = 180, 40, 10
MARK = ("Software", "fastmmd.models.predict")  # in a sheet's file


def predict(checkpoint: Path, images: Path, output: Path, skip_unreadable: bool = False, device: str = "cpu") -> None:
    """Classifies every picture below a folder, or one file, read as in training and test.

    Where the run's evaluation saw several crops of a picture, the probabilities are means over them here too.

    Args:
        checkpoint: of `python -m fastmmd.models fit`.
        images: the folder, in which links are followed and hidden files passed over; or a picture.
        output: folder for the table and the contact sheets; those of an earlier prediction are replaced.
        skip_unreadable: go on where a picture cannot be read, and name these pictures at the end.
        device: what computes, such as "cuda".

    Raises:
        FileNotFoundError: no such checkpoint, folder or file, or no pictures in it.
        OSError: a picture cannot be read, or with `skip_unreadable` none can.
        FileExistsError: `output` has a picture of another origin that is called as a contact sheet.
        FloatingPointError: the network's outputs are not finite.
        ValueError: the checkpoint is not one of `fit`.
    """
    folder, listing = found_pictures(images)
    own = {sheet.resolve() for sheet in _sheets(output)}  # an earlier prediction's, if it lies there
    names = [name for name in listing.pictures if not own or (folder / name).resolve() not in own]
    skipped = {name: why for name, why in listing.closed.items() if why != LOOP}
    total = len(names) + len(skipped)
    if skipped and (not skip_unreadable or not names):
        raise OSError(
            f"images: {len(skipped)} of {total} pictures in {str(images)!r} cannot be read: {some(_told(skipped), 20)}"
            + ("; --skip-unreadable goes on without such pictures" if names else "")
        )
    pictures = ImageDomain(folder, names, [UNLABELLED] * len(names), ())
    trained = load_trained(checkpoint)
    network = trained.network.to(device)
    rows: list[list[str]] = []
    sheets: list[Path] = []
    mark = PngInfo()
    mark.add_text(*MARK)

    readable = _readable(pictures, skipped if skip_unreadable else None)
    # Pictures are kept at their small size only: a page of large photographs would fill the memory.
    while page := [
        (name, trained.transform(picture), ImageOps.contain(picture, (SQUARE, SQUARE)))
        for name, picture in islice(readable, COLUMNS * ROWS)
    ]:
        page_names, inputs, small = zip(*page, strict=True)
        captions = []
        for name, probabilities in zip(page_names, _classified(network, inputs, device), strict=True):
            best = int(probabilities.argmax())
            rows.append([name, trained.classes[best], *(f"{p:.6f}" for p in probabilities.tolist())])
            captions.append((f"{trained.classes[best]}: {probabilities[best]:.0%}", name))
        sheets.append(output / f"contact-{len(sheets) + 1}.png")
        if sheets[-1].exists() and sheets[-1].resolve() not in own:
            raise FileExistsError(
                f"output: {os.path.abspath(sheets[-1])} is a file of another origin, which a contact sheet would "
                "replace: choose another folder, or move it"
            )
        with write_atomically(sheets[-1], "wb") as file:
            contact_sheet(small, captions).save(file, format="png", pnginfo=mark)

    if not rows:
        raise OSError(
            f"images: none of the {total} pictures in {str(images)!r} can be read: {some(_told(skipped), 20)}"
        )
    with write_atomically(output / "predictions.csv") as file:
        csv.writer(file).writerows([["path", "class", *(f"p_{name}" for name in trained.classes)], *rows])
    for old in _sheets(output) - set(sheets):
        old.unlink()
    if skipped:
        print(f"skipped, for they cannot be read: {', '.join(_told(skipped))}")
    others = f"; {len(listing.others)} other files are no pictures" if listing.others else ""
    print(f"{total} pictures found, {len(rows)} predicted, {len(skipped)} skipped{others}")
    print(f"{output / 'predictions.csv'} and {len(sheets)} contact sheets beside it")


def found_pictures(images: Path) -> tuple[Path, Listing]:
    """A folder, and what lies below it; or the folder of a file, and this file alone, whatever its extension.

    Raises:
        FileNotFoundError: nothing there, or a folder without pictures.
    """
    if images.is_file():
        why = obstacle(images.name)
        return images.parent, Listing(() if why else (images.name,), {images.name: why} if why else {}, (), ())
    if not images.is_dir():
        raise FileNotFoundError(f"images: no folder or file {str(images)!r}")
    listing = list_folder(images)
    if not listing.pictures and not listing.closed:
        raise FileNotFoundError(f"images: no pictures in {str(images)!r} or below it")
    return images, listing


def _sheets(output: Path) -> set[Path]:
    """The contact sheets in a folder: not pictures of the user that are called alike."""
    found = set()
    for path in output.glob("contact-*.png"):
        with suppress(OSError), Image.open(path) as picture:
            if picture.info.get(MARK[0]) == MARK[1]:
                found.add(path)
    return found


def _told(skipped: Mapping[str, str]) -> list[str]:
    return [f"{name} ({why})" for name, why in skipped.items()]


def contact_sheet(pictures: Sequence[Image.Image], captions: Sequence[tuple[str, str]]) -> Image.Image:
    """RGB pictures of at most `SQUARE` pixels a side in rows of `COLUMNS`, each above its two lines of text.

    The first line is bold, the second smaller; lines that are too long lose their beginning.
    """
    bold = ImageFont.truetype(findfont("DejaVu Sans:bold"), 15)
    small = ImageFont.truetype(findfont("DejaVu Sans"), 12)
    width, height = SQUARE + MARGIN, SQUARE + TEXT + MARGIN
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width + MARGIN, rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (picture, (first, second)) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(place, COLUMNS)
        left, top = MARGIN + column * width, MARGIN + row * height
        sheet.paste(picture, (left + (SQUARE - picture.width) // 2, top + SQUARE - picture.height))
        draw.text((left, top + SQUARE + 3), _fitted(first, bold), "black", bold)
        draw.text((left, top + SQUARE + 22), _fitted(second, small), "#555555", small)
    return sheet


def _readable(pictures: ImageDomain, skipped: dict[str, str] | None) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures, with a progress bar; unreadable ones go to `skipped`, or are an error without."""
    for place, name in enumerate(tqdm(pictures.names, desc="pictures", unit="picture")):
        try:
            picture, _ = pictures[place]
        except OSError as error:
            if skipped is None:
                raise OSError(f"{error}; --skip-unreadable goes on without such pictures") from error
            skipped[name] = str(error.__cause__)
        else:
            yield name, picture


@torch.inference_mode()
def _classified(network: torch.nn.Module, inputs: Sequence[Tensor], device: str) -> Tensor:
    """Probabilities [n, classes] on the CPU."""
    probabilities = over_crops(network, torch.stack(list(inputs)).to(device))[1].cpu()
    if not probabilities.isfinite().all():
        raise FloatingPointError("the network's outputs are not finite: its weights are of no use")
    return probabilities


def _fitted(text: str, font: ImageFont.FreeTypeFont) -> str:
    """`text` on one line, or as much of its end as fits into a cell."""
    text = " ".join(text.splitlines())
    if font.getlength(text) <= SQUARE:
        return text
    while font.getlength(f"…{text}") > SQUARE:
        text = text[1:]
    return f"…{text}"


def main(args: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m fastmmd.models.predict", description="Classifies the pictures of a folder.")
    parser.add_function_arguments(predict, skip={"skip_unreadable"})
    parser.add_argument("--skip-unreadable", action="store_true", help="go on where a picture cannot be read")
    predict(**parser.parse_args(args))


if __name__ == "__main__":
    main()
