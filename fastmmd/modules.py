"""The losses as modules: options held, functions called."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastmmd.functional import JAN_KERNELS, Discrepancy, discrepancy
from fastmmd.gaussian import Gaussian


class TransferLoss(nn.Module):
    """He & Ding 2020, eqs. 11-13: ``joint * JMMD(all layers) + sum_l marginal[l] * MMD(layer l)``, in one pass.

    The defaults are the paper's: layers (features, softmax outputs), lambda = 0.2 on the joint term, eta = 0.3 on the
    marginal term of the features. Arguments, dtypes and errors as in `fastmmd.discrepancy`.
    """

    def __init__(
        self,
        joint: float = 0.2,
        marginal: float | Sequence[float] = (0.3, 0.0),
        kernels: Sequence[Gaussian] = JAN_KERNELS,
        estimator: str = "biased",
        backend: str = "auto",
        precision: str | None = None,
    ) -> None:
        super().__init__()
        self.joint = joint
        self.marginal = marginal
        self.kernels = kernels
        self.estimator = estimator
        self.backend = backend
        self.precision = precision
        for index, kernel in enumerate(kernels):  # a learned bandwidth is a parameter of the loss
            if isinstance(kernel.bandwidth, nn.Parameter):
                self.register_parameter(f"bandwidth{index}", kernel.bandwidth)

    def discrepancy(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Discrepancy:
        """The loss with its parts and bandwidths, for logging."""
        return discrepancy(
            sources,
            targets,
            self.kernels,
            joint=self.joint,
            marginal=self.marginal,
            estimator=self.estimator,
            backend=self.backend,
            precision=self.precision,
        )

    def forward(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """``sources[l] [n_s, d_l]``, ``targets[l] [n_t, d_l]`` -> 0-d."""
        return self.discrepancy(sources, targets).loss

    def extra_repr(self) -> str:
        return f"joint={self.joint}, marginal={self.marginal}, kernels={self.kernels}, estimator={self.estimator!r}"


class JMMDLoss(TransferLoss):
    """JAN's loss, the joint MMD (Long et al. 2017): ``JMMDLoss()((features_s, probs_s), (features_t, probs_t))``."""

    def __init__(
        self,
        kernels: Sequence[Gaussian] = JAN_KERNELS,
        estimator: str = "biased",
        backend: str = "auto",
        precision: str | None = None,
    ) -> None:
        super().__init__(1.0, 0.0, kernels, estimator, backend, precision)


class MMDLoss(JMMDLoss):
    """DAN's loss for one layer (Long et al. 2015): the MMD. ``MMDLoss()(features_s, features_t)``."""

    def __init__(
        self,
        kernel: Gaussian = JAN_KERNELS[0],
        estimator: str = "biased",
        backend: str = "auto",
        precision: str | None = None,
    ) -> None:
        super().__init__((kernel,), estimator, backend, precision)

    def discrepancy(self, source: Tensor, target: Tensor) -> Discrepancy:  # type: ignore[override]
        """The loss with its parts and bandwidth; ``source [n_s, d]``, ``target [n_t, d]``."""
        return super().discrepancy((source,), (target,))
