"""Class names and their orders. Labels are always mapped by name: the sets as distributed differ in order."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
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
    key = _key(text)
    by_key = {_key(name): name for name in classes}
    return by_key.get(key, by_key.get(ALIASES.get(key, key)))


def class_of(text: str, classes: Sequence[str], where: object) -> str:
    """The class that `text` names.

    Raises:
        ValueError: there is none; the error says `where`, and which names are near.
    """
    found = match_class(text, classes)
    if found is None:
        near = get_close_matches(_key(text), [_key(name) for name in classes], 1)
        meant = "".join(f"; is {name!r} meant?" for name in classes if [_key(name)] == near)
        raise ValueError(f"{where}: {text!r} is none of the classes {list(classes)}{meant}")
    return found


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()
