"""The object sets of domain adaptation: Office-31, Office-Home and VisDA-2017, a folder a class.

Their lists of paths and labels, like those of PACS and DomainNet, are for `read_image_list`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.readers.files import home, inner, not_found
from fastmmd.models.data.readers.folders import class_folders


def read_office31(root: str | Path, domain: Literal["amazon", "dslr", "webcam"]) -> ImageDomain:
    """Office-31 (Saenko et al. 2010): `<domain>/images/<class>/*.jpg`; some archives lack the level `images/`.

    Args:
        root: folder of the data set.
        domain: which of the three.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    return _by_folder(root, (domain,), 31)


def read_office_home(root: str | Path, domain: Literal["Art", "Clipart", "Product", "Real_World"]) -> ImageDomain:
    """Office-Home (Venkateswara et al. 2017): `<domain>/<class>/*.jpg`; the authors write `Real World`, others
    `Real_World`, and both are read.

    Args:
        root: folder of the data set.
        domain: which of the four.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    return _by_folder(root, (domain, domain.replace("_", " ")), 65)


def read_visda2017(root: str | Path, part: Literal["train", "validation"]) -> ImageDomain:
    """VisDA-2017 (Peng et al. 2017): `train/<class>/*`, rendered, and `validation/<class>/*`, photographs.

    Args:
        root: folder of the data set.
        part: which of the two domains.

    Raises:
        FileNotFoundError, ValueError: a layout that does not fit; the error says what was expected and found.
    """
    return _by_folder(root, (part,), 12)


def _by_folder(root: str | Path, names: tuple[str, ...], count: int) -> ImageDomain:
    """The class folders of the first of the folders `names`, which must be `count`; class order is that of names."""
    above = home(root, *names)
    domain = inner(above, *names)
    if domain == above:
        raise not_found(f"{' or '.join(names)}/", above)
    found = class_folders(domain, split=False, least=1)
    if len(found.classes) != count:
        raise ValueError(
            f"expected {count} folders of images in {found.base}; found {len(found.classes)}: {found.classes}"
        )
    return found.domain()
