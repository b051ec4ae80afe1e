"""The two step schedules of deep transfer learning: the "inv" learning rate and the transfer weight's ramp."""

from __future__ import annotations

import math


def inverse_decay(step: int, rate: float = 3e-4, power: float = 0.75) -> float:
    """Factor on the learning rate at `step` (from 0): `(1 + rate * step) ** -power`.

    Caffe's "inv" policy with the constants of JAN's released code (Long et al. 2017), which He & Ding's
    paper builds on without naming a schedule of its own.
    """
    return (1 + rate * step) ** -power


def ramp(step: int, steps: int) -> float:
    """Factor on the transfer term at `step` (from 0): `2 / (1 + exp(-10 p)) - 1` with `p = step / steps`, at most 1.

    It keeps the term out of the first steps, whose features mean nothing yet (Ganin & Lempitsky 2015, section 4.2).
    `steps = 0` switches the ramp off: the factor is 1 throughout.
    """
    progress = min(step / steps, 1.0) if steps else math.inf
    return 2 / (1 + math.exp(-10 * progress)) - 1
