"""Class names and their orders. Labels are always mapped by name: the sets as distributed differ in order."""

from __future__ import annotations

from collections.abc import Sequence

# Mikels' eight emotions, in alphabetical order: the labels of every set that uses them.
MIKELS = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
# Ekman's six, of Emotion6 and EmotionROI.
EKMAN = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
SENTIMENT = ("negative", "positive")

# Shorter names: Abstract uses both, ArtPhoto the second.
ALIASES = {"content": "contentment", "sad": "sadness"}


def match_class(text: str, classes: Sequence[str]) -> str | None:
    """The class that `text` names, whatever its case; None if there is no such class."""
    key = text.strip().casefold()
    by_key = {name.casefold(): name for name in classes}
    return by_key.get(key, by_key.get(ALIASES.get(key, key)))


def class_of(text: str, classes: Sequence[str], where: str) -> str:
    """The class that `text` names.

    Raises:
        ValueError: there is none; the error says `where`.
    """
    found = match_class(text, classes)
    if found is None:
        raise ValueError(f"{where}: {text!r} is none of the classes {list(classes)}")
    return found
