"""Nsight Compute (ncu): which of the GPU's counters are asked for, and what its output holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NCU = "ncu"
MOST_KERNELS = 80
# The counters of each quantity: the first that the GPU has, or the sum of several.
ACTIVE = "avg.pct_of_peak_sustained_active"
METRICS: dict[str, tuple[tuple[str, ...], ...]] = {
    "seconds": (("gpu__time_duration.sum",),),
    "tensor": ((f"sm__pipe_tensor_cycles_active.{ACTIVE}",), (f"sm__inst_executed_pipe_tensor.{ACTIVE}",)),
    "fp32": ((f"sm__pipe_fma_cycles_active.{ACTIVE}",), (f"sm__inst_executed_pipe_fma.{ACTIVE}",)),
    "issue": ((f"sm__inst_issued.{ACTIVE}",), (f"smsp__issue_active.{ACTIVE}",)),
    "memory_bytes": (("dram__bytes.sum",), ("dram__bytes_read.sum", "dram__bytes_write.sum")),
    "l2_bytes": (("lts__t_bytes.sum",),),
}
SECONDS = {"ns": 1e-9, "nsecond": 1e-9, "us": 1e-6, "usecond": 1e-6, "ms": 1e-3, "msecond": 1e-3, "s": 1, "second": 1}
UNITS = SECONDS | {"%": 0.01, "byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}  # as ncu writes them


class Launches(NamedTuple):
    """All launches of one kernel under one label.

    label: its index among those that were looked for; None: outside of all.
    quantities: per launch, the quantities of `METRICS`; None: not read.
    """

    label: int | None
    kernel: str
    quantities: list[dict[str, float | None]]

    def total(self, name: str) -> float | None:
        """A quantity of all launches together; None: one of them was not read."""
        values = self._read(name)
        return None if values is None else sum(values)

    def mean(self, name: str) -> float | None:
        """The mean of a quantity over the launches, weighted by time; None: one of them was not read."""
        values, weights = self._read(name), [launch["seconds"] or 0.0 for launch in self.quantities]
        if values is None or not sum(weights):
            return None
        return sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)

    def _read(self, name: str) -> list[float] | None:
        values = [launch[name] for launch in self.quantities]
        read = [value for value in values if value is not None]
        return read if len(read) == len(values) else None


def command(tool: str, program: Sequence[str]) -> list[str]:
    """Profiles a program as it is, clocks included, between cudaProfilerStart and cudaProfilerStop."""
    metrics = ",".join([name for choices in METRICS.values() for names in choices for name in names])
    printing = ["--csv", "--print-units", "base", "--nvtx"]
    counting = ["--clock-control", "none", "--profile-from-start", "off", "--launch-count", str(MOST_KERNELS)]
    return [tool, *printing, *counting, "--metrics", metrics, *program]


def parse(text: str, labels: Sequence[str]) -> list[Launches]:
    """The kernels of ncu's CSV output, which has one line per launch and metric, in the order of their first launch.

    labels: names of NVTX ranges, none of which is part of another.
    """
    csv_text = text[text.find('"ID"') :] if '"ID"' in text else ""
    metrics: dict[str, dict[str, float]] = {}  # by launch
    kernels: dict[str, tuple[int | None, str]] = {}
    for cells in csv.DictReader(io.StringIO(csv_text)):
        if not cells.get("Metric Name") or not cells.get("Kernel Name"):
            continue
        launch = cells["ID"]
        kernels[launch] = _label(cells, labels), cells["Kernel Name"]
        if (value := _value(cells.get("Metric Value") or "", cells.get("Metric Unit") or "")) is not None:
            metrics.setdefault(launch, {})[cells["Metric Name"]] = value
    groups: dict[tuple[int | None, str], list[dict[str, float | None]]] = {}
    for launch, values in metrics.items():
        groups.setdefault(kernels[launch], []).append({name: _quantity(name, values) for name in METRICS})
    return [Launches(label, kernel, quantities) for (label, kernel), quantities in groups.items()]


def errors(text: str) -> list[str]:
    """What ncu's output says went wrong."""
    return [line.removeprefix("==ERROR==").strip() for line in text.splitlines() if line.startswith("==ERROR==")]


def _label(cells: Mapping[str | None, Any], labels: Sequence[str]) -> int | None:
    """The label that is in one of a line's columns for NVTX ranges."""
    line = " ".join([str(value) for value in cells.values()])
    return next((index for index, label in enumerate(labels) if label in line), None)


def _value(text: str, unit: str) -> float | None:
    try:
        return float(text.replace(",", "")) * UNITS.get(unit, 1.0)
    except ValueError:  # "n/a": a metric that the GPU does not have
        return None


def _quantity(name: str, values: Mapping[str, float]) -> float | None:
    for metrics in METRICS[name]:
        if all(metric in values for metric in metrics):
            return sum([values[metric] for metric in metrics])
    return None
