"""What is not tested is said, and under CI only what may stay untested."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("reason", "ci", "code"),
    [
        ("geomloss is not installed", True, pytest.ExitCode.OK),
        ("no report of Triton 99.0", True, pytest.ExitCode.TESTS_FAILED),
        ("no report of Triton 99.0", False, pytest.ExitCode.OK),
    ],
)
@pytest.mark.parametrize("whole_module", [False, True])
def test_an_unexpected_skip_is_red_under_ci(tmp_path, reason, ci, code, whole_module):
    options = ", allow_module_level=True" if whole_module else ""
    skip = f"pytest.skip({reason!r}{options})"
    body = f"{skip}\n" if whole_module else f"def test_skipped():\n    {skip}\n"
    (tmp_path / "test_it.py").write_text(f"import pytest\n{body}\ndef test_passes():\n    pass\n")
    environment = {name: value for name, value in os.environ.items() if name != "FASTMMD_CI"}
    command = [sys.executable, "-m", "pytest", "-p", "tests.skips", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    done = subprocess.run(
        [*command, "-c", os.devnull, tmp_path / "test_it.py"],
        cwd=ROOT,
        env=environment | ({"FASTMMD_CI": "1"} if ci else {}),
        capture_output=True,
        text=True,
    )
    no_test = whole_module and code == pytest.ExitCode.OK
    assert done.returncode == (pytest.ExitCode.NO_TESTS_COLLECTED if no_test else code), done.stdout + done.stderr
    assert f"    1  {reason}" in done.stdout
    assert ("UNEXPECTED" in done.stdout) == (code != pytest.ExitCode.OK)
