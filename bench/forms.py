"""Weights of pairs of rows: pair (i, j) of a case counts ``W_i A W_j^T`` (docs/mathematics.md).

Each kind makes its data from a seed, and from them W ``[N, P]`` and A ``[P, P]`` in fp64: what the gate and the dense
versions compute with. Results are kept, so that a loss can ask for them at every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Every row has a weight; those of a domain add up to 1."""

    @lru_cache  # noqa: B019  (forms are few, and live as long as the cases)
    def weights(self, n: int, seed: int, device: torch.device) -> Tensor:
        """``[n]``, log-normal. seed: 0 for the source, 1 for the target."""
        return _normal(n, seed=seed).softmax(0).to(device)

    @lru_cache  # noqa: B019
    def matrices(self, n_source: int, n_target: int, device: torch.device) -> tuple[Tensor, Tensor]:
        source, target = self.weights(n_source, 0, device).double(), self.weights(n_target, 1, device).double()
        w = torch.block_diag(source[:, None] / source.sum(), target[:, None] / target.sum())
        return w, 2 * torch.eye(2, dtype=w.dtype, device=device) - 1


@dataclass(frozen=True)
class Classes:
    """The source's rows have labels, the target's class probabilities: DSAN's local MMD.

    count: of classes.
    """

    count: int

    @lru_cache  # noqa: B019
    def labels(self, n: int, device: torch.device) -> Tensor:
        """``[n]``."""
        return torch.randint(self.count, (n,), generator=torch.Generator().manual_seed(0)).to(device)

    @lru_cache  # noqa: B019
    def probabilities(self, n: int, device: torch.device) -> Tensor:
        """``[n, count]``."""
        return (2 * _normal(n, self.count, seed=1)).softmax(1).to(device)

    @lru_cache  # noqa: B019
    def matrices(self, n_source: int, n_target: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """A column per class that occurs in both domains."""
        labels, probabilities = self.labels(n_source, device), self.probabilities(n_target, device).double()
        present = sorted(set(labels.tolist()) & set(probabilities.argmax(1).tolist()))
        members = torch.stack([labels == c for c in present], 1).double()
        expected = probabilities[:, present]
        w = torch.cat([members / members.sum(0), -expected / expected.sum(0)])
        return w, torch.eye(len(present), dtype=w.dtype, device=device) / len(present)


@dataclass(frozen=True)
class Groups:
    """Rows fall into `count` groups of one size, one after the other, and all pairs of groups are compared.

    total: the sum over pairs, as in trVAE, instead of their mean, as in DomainBed.
    """

    count: int
    total: bool = False

    @property
    def pairs(self) -> int:
        return self.count * (self.count - 1) // 2

    @lru_cache  # noqa: B019
    def members(self, n: int, device: torch.device) -> Tensor:
        """``[n]``: the group of each row."""
        return (torch.arange(n) * self.count // n).to(device)

    @lru_cache  # noqa: B019
    def ones(self, device: torch.device) -> Tensor:
        """``[count, count]``: weights of pairs of groups for their sum."""
        return torch.ones(self.count, self.count, device=device)

    @lru_cache  # noqa: B019
    def matrices(self, n_source: int, n_target: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Every group is a part of `count` - 1 pairs."""
        eye = torch.eye(self.count, dtype=torch.float64, device=device)
        w = eye[self.members(n_source, device)] * self.count / n_source
        return w, (self.count * eye - 1) / (1 if self.total else self.pairs)


Kind = Samples | Classes | Groups


def _normal(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))
