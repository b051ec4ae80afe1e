"""What a folder of bench/gpu.py holds, as Markdown: whatever is there, and the names of what is not."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import profiling, proposals, values
from bench.record import Report
from bench.report import markdown
from bench.stages import LOG

MOST_LINES = 60  # of values that are not right, and of tests that failed


def render(folder: Path) -> str:
    parts: tuple[tuple[str, str, Callable[[Path], Iterator[str]]], ...] = (
        ("Stages", LOG, _stages),
        ("Values against fp64", "values.jsonl", _values),
        ("Tests", "tests.txt", _tests),
        ("Sanitizer", "sanitizer.txt", _sanitizer),
        ("Tuning", "tuning.json", _tuning),
        ("Kernels", "profile.json", _profile),
        ("Benchmark and training step", "gpu.json", _record),
    )
    lines = []
    for heading, name, section in parts:
        lines += [f"# {heading}", ""]
        path = folder / name
        if not path.exists():
            lines += [f"Missing: there is no {name}.", ""]
            continue
        try:
            lines += [*section(path), ""]
        except Exception as error:  # cut off, or of another version
            lines += [f"{name} can't be read: {type(error).__name__}: {error}", ""]
    return "\n".join(lines)


def checks(folder: Path) -> dict[str, str]:
    """How values, tests and sanitizers ended, one line per check: kept beside what is measured."""
    endings = {}
    if (path := folder / "values.jsonl").exists():
        endings["values"] = _count(_value_lines(path))
    if (path := folder / "tests.txt").exists():
        endings["tests"] = _last_line(path)
    if (path := folder / "sanitizer.txt").exists():
        endings |= _verdicts(path)
    return endings


def _stages(path: Path) -> Iterator[str]:
    for line in _text(path):
        if re.match(r"\[ *[\d.]+ s\] \w+: (status|ended|no time|not started)", line):
            yield f"* {line}"


# Values --------------------------------------------------------------------------------------------------------------


def _value_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are complete: the last may not be."""
    lines = []
    for text in _text(path):
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def _count(lines: list[dict[str, Any]]) -> str:
    counts = Counter(values.outcome(line) for line in lines if "summary" not in line)
    ending = "" if any("summary" in line for line in lines) else "; cut off"
    return ", ".join(f"{counts[word]} {word}" for word in ("right", "wrong", "failed", "absent")) + ending


def _values(path: Path) -> Iterator[str]:
    lines = _value_lines(path)
    yield f"{_count(lines)}."
    yield ""
    yield "| route | right | wrong | failed | worst error of gradients, by format and dtype |"
    yield "|" + " --- |" * 5
    by_route: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if "route" in line:
            by_route.setdefault(line["route"], []).append(line)
    for route, of_route in by_route.items():
        if "absent" in of_route[0]:
            yield f"| {route} | absent: {of_route[0]['absent']} | | | |"
            continue
        counts = Counter(values.outcome(line) for line in of_route)
        worst: dict[str, float] = {}
        for line in of_route:
            if "gradient_error" in line:
                kind = f"{line['precision']} {line['dtype']}"
                worst[kind] = max(worst.get(kind, 0.0), line["gradient_error"])
        errors = ", ".join(f"{kind} {error:.1e}" for kind, error in worst.items())
        yield f"| {route} | {counts['right']} | {counts['wrong']} | {counts['failed']} | {errors} |"
    yield ""
    bad = [line for line in lines if "route" in line and values.outcome(line) in ("wrong", "failed")]
    yield from (f"* {values.outcome(line)}: {json.dumps(line)}" for line in bad[:MOST_LINES])
    if len(bad) > MOST_LINES:
        yield f"* and {len(bad) - MOST_LINES} more"


# Tests and sanitizers ------------------------------------------------------------------------------------------------


def _tests(path: Path) -> Iterator[str]:
    yield f"{_last_line(path)}."
    yield ""
    failures: dict[str, str] = {}  # by test, the longest of its lines: the summary's, if pytest came so far
    for line in _text(path):
        test = re.search(r"tests/\S+?::\S+", line)
        if test and re.search(r"\b(FAILED|ERROR)\b", line):
            failures[test[0]] = max(failures.get(test[0], ""), line, key=len)
    yield from (f"* {line[:300]}" for line in list(failures.values())[:MOST_LINES])
    if len(failures) > MOST_LINES:
        yield f"* and {len(failures) - MOST_LINES} more"


def _last_line(path: Path) -> str:
    return next((line.strip("= ") for line in reversed(_text(path)) if line.strip()), "no output")


def _sanitizer(path: Path) -> Iterator[str]:
    yield from (f"* {tool}: {verdict}" for tool, verdict in _verdicts(path).items())


def _verdicts(path: Path) -> dict[str, str]:
    """The last message of each tool, pytest's count and the exit status; without the latter it did not finish."""
    by_tool: dict[str, list[str]] = {}
    for line in _text(path):
        if match := re.match(r"(\w+check|compute-sanitizer): (.*)", line):
            by_tool.setdefault(match[1], []).append(match[2])
    verdicts = {}
    for tool, lines in by_tool.items():
        # The tool's own messages begin like pytest's rules, which end with "=" too.
        messages = [line for line in lines if line.startswith("========= ") and not line.endswith("=")]
        summaries = [line for line in messages if "SUMMARY" in line]
        counts = [line for line in lines if re.match(r"[= ]*\d+ (passed|failed|skipped|error)", line)]
        ending = [line for line in lines[-1:] if line.startswith(("exit status", "not installed"))] or ["not finished"]
        last = [line.strip("= ") for line in (*(summaries or messages)[-1:], *counts[-1:])]
        verdicts[tool] = "; ".join([*last, *ending])
    return verdicts


# Records -------------------------------------------------------------------------------------------------------------


def _tuning(path: Path) -> Iterator[str]:
    record = json.loads(path.read_text())
    for data in record["jobs"]:
        yield from proposals.listing(proposals.Timings(**data))
        yield ""
    for sweep in record["routes"]:
        yield from proposals.crossing(sweep["title"], sweep["seconds"])
        yield ""


def _profile(path: Path) -> Iterator[str]:
    yield from profiling.table(json.loads(path.read_text()))


def _record(path: Path) -> Iterator[str]:
    report = Report.load(path)
    report.checks |= checks(path.parent)
    yield markdown(report, report.cases())


def _text(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()
