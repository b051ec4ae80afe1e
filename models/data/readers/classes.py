"""Class names and their orders. Labels are always mapped by name: the sets as distributed differ in order."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

# Mikels' eight emotions, in alphabetical order: the labels of every set that uses them.
MIKELS = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
# Ekman's six, of Emotion6 and EmotionROI.
EKMAN = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
SENTIMENT = ("negative", "positive")

# Shorter names: Abstract uses both, ArtPhoto the second.
ALIASES = {"content": "contentment", "sad": "sadness"}


def match_class(text: str, classes: Sequence[str]) -> str | None:
    """The class that `text` names, whatever its case; None if there is no such class."""
    if text in classes:  # names that differ in case alone may be different classes
        return text
    key = plain(text)
    by_key = {plain(name): name for name in classes}
    return by_key.get(key, by_key.get(ALIASES.get(key, key)))


def class_of(text: str, classes: Sequence[str], where: object) -> str:
    """The class that `text` names.

    Raises:
        ValueError: there is none; the error says `where`, and which names are near.
    """
    found = match_class(text, classes)
    if found is None:
        near = get_close_matches(plain(text), [plain(name) for name in classes], 1)
        meant = "".join(f"; is {name!r} meant?" for name in classes if [plain(name)] == near)
        raise ValueError(f"{where}: {text!r} is none of the classes {list(classes)}{meant}")
    return found


def refuse_alike(names: Iterable[str], what: str) -> None:
    """Makes sure that no two classes differ in case or in Unicode's form only.

    Raises:
        ValueError: two do; the error says `what` they are.
    """
    first: dict[str, str] = {}
    for name in dict.fromkeys(names):
        other = first.setdefault(plain(name), name)
        if other != name:
            raise ValueError(
                f"{what} {other!r} and {name!r} differ in case or in Unicode's form only; make them one, or give "
                "classes, which are found in any case"
            )


def plain(name: str) -> str:
    """A name in one case and one Unicode form: what differs by these alone is meant to be the same."""
    return unicodedata.normalize("NFC", name).strip().casefold()
