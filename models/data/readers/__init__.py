"""Readers of image-emotion and domain-adaptation data sets as distributed: a folder in, an `ImageDomain` out.

Nothing is downloaded, moved or written. The sets with Mikels' emotions have their classes in one order, whatever theirs
is, so that any two of them make a `DomainPair`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

from fastmmd.models.data.domain import ImageDomain
from fastmmd.models.data.readers.classes import EKMAN, MIKELS, SENTIMENT
from fastmmd.models.data.readers.ekman import read_emotion6, read_emotion_roi
from fastmmd.models.data.readers.emoset import read_emoset
from fastmmd.models.data.readers.fi import read_fi
from fastmmd.models.data.readers.folders import read_image_folder, read_unlabelled
from fastmmd.models.data.readers.hub import read_hub
from fastmmd.models.data.readers.lists import read_csv, read_image_list
from fastmmd.models.data.readers.mikels import read_abstract, read_artphoto, read_iaps
from fastmmd.models.data.readers.office import read_office31, read_office_home, read_visda2017
from fastmmd.models.data.readers.scans import checked
from fastmmd.models.data.readers.voted import read_ldl, read_mart, read_twitter1
from fastmmd.models.data.readers.webemo import read_webemo

READERS: dict[str, Callable[..., ImageDomain]] = {
    "abstract": read_abstract,
    "artphoto": read_artphoto,
    "csv": read_csv,
    "emoset": read_emoset,
    "emotion6": read_emotion6,
    "emotion_roi": read_emotion_roi,
    "fi": read_fi,
    "flickr_ldl": read_ldl,
    "hub": read_hub,
    "iaps": read_iaps,
    "image_folder": read_image_folder,
    "image_list": read_image_list,
    "mart": read_mart,
    "office31": read_office31,
    "office_home": read_office_home,
    "twitter1": read_twitter1,
    "twitter_ldl": read_ldl,
    "unlabelled": read_unlabelled,
    "visda2017": read_visda2017,
    "webemo": read_webemo,
}

__all__ = [
    "EKMAN",
    "MIKELS",
    "READERS",
    "SENTIMENT",
    "read_abstract",
    "read_artphoto",
    "read_csv",
    "read_domain",
    "read_emoset",
    "read_emotion6",
    "read_emotion_roi",
    "read_fi",
    "read_hub",
    "read_iaps",
    "read_image_folder",
    "read_image_list",
    "read_ldl",
    "read_mart",
    "read_office31",
    "read_office_home",
    "read_twitter1",
    "read_unlabelled",
    "read_visda2017",
    "read_webemo",
]


def read_domain(
    reader: str,
    root: str,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    skip_unreadable: bool = False,
) -> ImageDomain:
    """A domain by the name of its reader; the form for configurations:

        source:
          class_path: fastmmd.models.data.readers.read_domain
          init_args: {reader: fi, root: data/FI, options: {labels: noisy}}

    Args:
        reader: one of `READERS`.
        root: folder of the data set.
        options: the reader's further arguments.
        classes: which classes, in this order; the reader's if not given. For two domains to have the same. They mean
            nothing to a domain without labels, as `rename`.
        rename: old -> new class name, applied before `classes`; several classes may become one.
        skip_unreadable: whether to leave out images that cannot be read, with a warning that names them. If not, they
            are an error. Either way all images are decoded, once: see `scans`.

    Raises:
        OSError: images that cannot be read; the error names them.
        FileNotFoundError, ValueError: an unknown reader or option, or whatever the reader refuses.
    """
    if reader not in READERS:
        raise ValueError(f"no reader {reader!r}; the readers are {', '.join(READERS)}")
    known = list(signature(READERS[reader]).parameters)[1:]
    if unknown := [name for name in options or {} if name not in known]:
        raise ValueError(
            f"options: the reader {reader!r} has no {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    domain = READERS[reader](root, **(options or {}))
    if domain.classes and (classes is not None or rename):
        renamed = [(rename or {}).get(name, name) for name in domain.classes]
        domain = domain.with_classes(classes or list(dict.fromkeys(renamed)), rename)
    return checked(domain, skip_unreadable)
