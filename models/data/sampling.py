"""Endless shuffled batches in which everything random depends on the seed and the position alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class StreamSampler(Sampler[list[tuple[int, int]]]):
    """Batches of an endless stream that passes over `size` items again and again, newly shuffled each time.

    Batch k is a function of `seed`, `rank`, `ranks` and k alone. Nothing is dropped and no domain is too small: a batch
    may span two passes or more. A run that resumes at step k therefore needs no sampler state: it asks for the batches
    from k on. Several processes cut one stream among themselves, so that they share no item before a pass ends.

    Args:
        size: number of items.
        batch_size: items in a batch.
        steps: batches in one iteration (an epoch of the trainer).
        seed: integers that name the stream.
        first: called when an iteration begins; the number of batches taken so far.
        labels: the class of every item, for balance: in each pass the items of smaller classes are repeated until their
            class is as large as the largest. Not given, a pass has every item once.
        rank, ranks: number of this process, and how many there are.

    Yields:
        Lists of (item, seed of the item's random transforms).
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        steps: int,
        seed: Sequence[int],
        first: Callable[[], int],
        labels: Sequence[int] | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if labels is None:
            self.groups = [np.arange(size)]
        else:
            self.groups = [np.flatnonzero(np.equal(labels, label)) for label in sorted(set(labels))]
        self.batch_size = batch_size
        self.steps = steps
        self.seed = tuple(seed)
        self.first = first
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        together = self.ranks * self.batch_size
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        stream = self._stream(self.first() * together)
        for _ in range(self.steps):
            yield [next(stream) for _ in range(together)][own]

    def _stream(self, start: int) -> Iterator[tuple[int, int]]:
        largest = max(map(len, self.groups))
        number, offset = divmod(start, largest * len(self.groups))
        while True:
            generator = np.random.default_rng([*self.seed, number])
            parts = [np.resize(generator.permutation(group), largest) for group in self.groups]
            order = parts[0] if len(parts) == 1 else generator.permutation(np.concatenate(parts))
            seeds = generator.integers(2**62, size=len(order)).tolist()
            yield from zip(order.tolist()[offset:], seeds[offset:], strict=True)
            number, offset = number + 1, 0


class StreamLoader(DataLoader):
    """Loader of a `StreamSampler`'s batches.

    Its state is empty, because the sampler finds its place by itself; that it has a state at all tells Lightning
    that a run can resume in the middle of an epoch.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def item_names(dataset: Dataset) -> list[str]:
    """What the items are called in splits and predictions.

    The data set's own `names`; or the paths of torchvision's `samples`, relative to the data set's `root`; or numbers.
    """
    if hasattr(dataset, "names"):
        return list(dataset.names)
    if hasattr(dataset, "samples"):
        root = getattr(dataset, "root", os.curdir)
        return [os.path.relpath(path, root).replace(os.sep, "/") for path, _ in dataset.samples]
    return [str(item) for item in range(len(dataset))]


class View(Dataset):
    """Items of `dataset` at `indices`, in that order, through `transform`, which has nothing random.

    Raises (on access):
        RuntimeError: the data set could not read an item; the error names it.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int], transform: Callable[[Any], Any] | None) -> None:
        self.dataset = dataset
        self.indices = indices
        self.transform = transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Any, int]:
        index = self.indices[item]
        try:
            image, label = self.dataset[index]
        except Exception as error:
            name = item_names(self.dataset)[index]
            raise RuntimeError(f"cannot read item {name}: {type(error).__name__}: {error}") from error
        return (image if self.transform is None else self.transform(image)), label


class SeededView(View):
    """The same for training: items are asked for as (item, seed), and `transform` runs under that seed.

    The random state outside is left as it was, in the main process as in workers, so augmentation neither disturbs
    dropout nor depends on the number of workers.
    """

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, int]:
        item, seed = key
        if self.transform is None:
            return super().__getitem__(item)
        with torch.random.fork_rng(devices=()):
            # Only the CPU's generator: torch.manual_seed would also reset a GPU's, and with it dropout.
            torch.default_generator.manual_seed(seed)
            return super().__getitem__(item)
