"""The settings that a checkpoint was made with, against those of the run that would go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

# Settings that change no result.
FREE = {"data.workers", "data.features", "data.source.cache", "data.target.cache"}


def refuse_other_settings(checkpoint: Mapping[str, Any], model: LightningModule, data: LightningDataModule) -> None:
    """Compares a checkpoint's settings of model and data with those of the run that would resume from it.

    The state dicts of different methods fit each other, because a transfer loss has no parameters; the settings differ.
    What the checkpoint does not name, because the setting is newer, had the value that is now the default.

    Raises:
        ValueError: they differ; the error names every setting that does, with both values.
    """
    made, asked = {}, {}
    for name, part in (("model", model), ("data", data)):
        stored = checkpoint.get(part.CHECKPOINT_HYPER_PARAMS_KEY) if part is not None else None
        if stored is not None:
            known = signature(type(part)).parameters.values()
            defaults = {one.name: one.default for one in known if one.default is not Parameter.empty}
            made |= _flat(name, {key: defaults[key] for key in part.hparams if key in defaults} | dict(stored))
            asked |= _flat(name, part.hparams)
    absent = "nothing"
    different = [
        f"{key} ({made.get(key, absent)!r}, now {asked.get(key, absent)!r})"
        for key in dict.fromkeys([*made, *asked])
        if key.replace(".init_args.", ".") not in FREE and made.get(key, absent) != asked.get(key, absent)
    ]
    if different:
        raise ValueError(
            "the checkpoint was made with other settings, so the run cannot resume from it; choose another --output, "
            f"or these settings: {'; '.join(different)}"
        )


def _flat(name: str, value: Any) -> dict[str, Any]:
    """The leaves of nested mappings under their dotted names."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {key: leaf for part, inner in value.items() for key, leaf in _flat(f"{name}.{part}", inner).items()}
