"""The runner of bench/gpu.py's stages, with stages that fail, crash, hang and don't listen. No clock decides on a test:
what is looked at is what has ended, what is in the files and what followed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import stages
from bench.stages import LOG, Stage

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds; more than this is a hang
CLOSING = Stage("closing", "says that it ran", 20, (sys.executable, "-c", "print('closed')"))
CHILD = "child = subprocess.Popen(['sleep', '600']{options}); print(child.pid, flush=True)\n"
IMPORTS = "import os, signal, subprocess, sys, time\n"
SLEEP = "time.sleep(600)\n"
HANGS = "{first} {session} sleep 600 & echo $!; wait; sleep 600"  # of a shell, which starts at once on a busy machine


def python(name, program, seconds=PATIENCE, **options):
    return Stage(name, "", seconds, (sys.executable, "-c", IMPORTS + program), **options)


def run(tmp_path, *stage_list, seconds=PATIENCE, closing=CLOSING):
    runner = stages.Runner(tmp_path / "out", seconds, closing, ROOT)
    return runner.run(stage_list), runner.outcomes, (tmp_path / "out" / LOG).read_text()


def runs(process):
    """A process that nobody waits for stays listed after its end."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition):
    patience = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr(stages, "GRACE", 1.0)


def test_stages_run_in_order_and_their_output_is_logged(tmp_path):
    passed, outcomes, log = run(
        tmp_path,
        python("first", "print('first words')"),
        python("second", "print('second words', file=sys.stderr)"),
        python("third", "print('third words')", log="third.txt"),
    )
    assert passed
    assert list(outcomes) == ["first", "second", "third", "closing"]
    assert all(outcome.startswith("status 0") for outcome in outcomes.values())
    positions = [log.index(words) for words in ("first words", "second words", "closed", "stages: first: status 0")]
    assert positions == sorted(positions)
    assert (tmp_path / "out" / "third.txt").read_text() == "third words\n"


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("sys.exit(3)", "status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", f"status {-signal.SIGSEGV}"),
        ("1 / 0", "status 1"),
    ],
)
def test_a_failure_or_crash_stops_nothing(tmp_path, program, status):
    passed, outcomes, log = run(tmp_path, python("bad", program), python("next", "print('went on')"))
    assert not passed
    assert outcomes["bad"].startswith(status)
    assert "went on" in log
    assert "closed" in log


def test_a_program_that_does_not_exist_stops_nothing(tmp_path):
    passed, outcomes, log = run(
        tmp_path, Stage("absent", "", 9, ("/no/such/program",)), python("next", "print('went on')")
    )
    assert not passed
    assert outcomes["absent"].startswith("not started: ")
    assert "went on" in log


@pytest.mark.parametrize("session", ["", "setsid"], ids=["its group", "another session"])
@pytest.mark.parametrize("first", ["", "trap '' TERM;"], ids=["listens", "ignores SIGTERM"])
def test_what_hangs_is_ended_at_its_limit_with_its_children(tmp_path, first, session):
    hanging = Stage("hangs", "", 2.0, ("sh", "-c", HANGS.format(first=first, session=session)), log="child")
    state = "cat /proc/$(cat {out}/child)/stat || echo gone"  # when the next one runs
    passed, outcomes, _ = run(tmp_path, hanging, Stage("next", "", PATIENCE, ("sh", "-c", state), log="state"))
    assert not passed
    assert outcomes["hangs"] == "ended at its limit of 2 s"
    state = (tmp_path / "out" / "state").read_text()
    assert "gone" in state or ") Z " in state


def test_what_a_stage_leaves_behind_ends_with_it(tmp_path):
    leaving = python("leaves", CHILD.format(options=", start_new_session=True"), log="child")
    run(tmp_path, leaving)
    assert not runs(int((tmp_path / "out" / "child").read_text()))


def test_neighbours_of_a_step_run_side_by_side(tmp_path):
    """Each waits for a file that the other writes."""
    meet = (
        "import pathlib\nwritten, awaited = (pathlib.Path(x) for x in ({written!r}, {awaited!r}))\n"
        "written.touch()\nwhile not awaited.exists(): time.sleep(0.02)\n"
    )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    passed, outcomes, _ = run(
        tmp_path,
        python("a", meet.format(written=a, awaited=b), step="together"),
        python("b", meet.format(written=b, awaited=a), step="together"),
    )
    assert passed, outcomes


def test_a_step_waits_for_all_of_its_stages(tmp_path):
    slow = python("slow", "time.sleep(0.5); print('slow ends')", step="together")
    quick = python("quick", "print('quick ends')", step="together")
    _, _, log = run(tmp_path, slow, quick, python("next", "print('next begins')"))
    assert log.index("slow ends") < log.index("next begins")


def test_at_the_deadline_everything_has_ended_but_the_closing_stage_which_has_its_time(tmp_path):
    hangs = Stage("hangs", "", 600, ("sh", "-c", HANGS.format(first="", session="")), log="child")
    passed, outcomes, log = run(tmp_path, hangs, python("late", "print('late words')"), seconds=24.0)
    assert not passed
    assert outcomes["hangs"].startswith("ended at its limit")
    assert outcomes["late"] == "no time left"
    assert outcomes["closing"].startswith("status 0")
    assert "late words" not in log
    assert not runs(int((tmp_path / "out" / "child").read_text()))


def test_a_stage_without_a_limit_gets_what_the_later_ones_leave(tmp_path):
    command = (sys.executable, "-c", "import sys; print('limit', sys.argv[1])", "{seconds}")
    rest = Stage("rest", "", None, command)
    _, _, log = run(tmp_path, rest, python("later", "", seconds=30), seconds=160.0)
    seconds = float(log.split("limit ")[1].split()[0])
    assert 0 < seconds <= 0.9 * (160 - stages.GRACE - 20 - 30)


def test_arguments_of_a_command_are_filled_in(tmp_path):
    command = (sys.executable, "-c", "import sys; print(*sys.argv[1:])", "{out}/x.json", "{seconds}")
    _, _, log = run(tmp_path, Stage("filled", "", 10, command))
    assert f"{tmp_path}/out/x.json 9.0\n" in log


def test_where_there_is_nothing_to_do_nothing_else_starts(tmp_path):
    passed, outcomes, _ = run(tmp_path, python("probe", "sys.exit(2)", essential=True), python("next", ""))
    assert not passed
    assert list(outcomes) == ["probe"]


@pytest.mark.parametrize("program", ["sys.exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_probe_that_fails_otherwise_stops_nothing(tmp_path, program):
    _, outcomes, _ = run(tmp_path, python("probe", program, essential=True), python("next", ""))
    assert list(outcomes) == ["probe", "next", "closing"]


@pytest.mark.parametrize("number", stages.SIGNALS, ids=lambda number: number.name)
def test_a_signal_to_the_runner_leaves_no_child(tmp_path, number):
    hanging = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + CHILD.format(options=", start_new_session=True") + SLEEP
    )
    program = (
        "import sys; from pathlib import Path; from bench import stages; from bench.stages import Stage\n"
        f"hangs = Stage('hangs', '', 600, {(sys.executable, '-c', IMPORTS + hanging)!r}, log='child')\n"
        "later = Stage('later', '', 9, (sys.executable, '-c', 'print(1)'))\n"
        f"runner = stages.Runner(Path({str(tmp_path)!r}), 600, later, Path({str(ROOT)!r}))\n"
        "sys.exit(0 if runner.run((hangs, later)) else 1)\n"
    )
    runner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = tmp_path / "child"
    wait_until(lambda: child.exists() and child.read_text().endswith("\n"))
    runner.send_signal(number)
    output, _ = runner.communicate(timeout=PATIENCE)
    assert runner.returncode == 1
    assert f"hangs: ended by signal {number.value}" in output
    assert "later: " not in output
    assert not runs(int(child.read_text()))
    assert output.splitlines()[-1].split("] ")[1].startswith("stages: ")


def test_drafts_of_killed_writers_are_removed(tmp_path):
    draft = (
        "from fastmmd.models.files import write_atomically; from pathlib import Path\n"
        "with write_atomically(Path({!r}) / 'out' / 'gpu.json'): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    _, outcomes, _ = run(tmp_path, python("killed", draft.format(str(tmp_path))))
    assert outcomes["killed"].startswith(f"status {-signal.SIGKILL}")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {LOG}


def test_log_of_one_stage_begins_anew_and_the_common_one_goes_on(tmp_path):
    for _ in range(2):
        run(tmp_path, python("alone", "print('words')", log="alone.txt"), python("common", "print('common words')"))
    assert (tmp_path / "out" / "alone.txt").read_text() == "words\n"
    assert (tmp_path / "out" / LOG).read_text().count("\ncommon words\n") == 2


def test_stages_are_selected_by_name_in_their_order():
    listed = [Stage(name, "", 1, ()) for name in ("a", "b", "c")]
    assert [stage.name for stage in stages.select(listed, ["c", "a"])] == ["a", "c"]
    assert [stage.name for stage in stages.select(listed, [])] == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"unknown stages d; expected some of a, b, c"):
        stages.select(listed, ["a", "d"])


def test_processes_are_found_by_their_environment():
    process = subprocess.Popen(["sleep", "600"], env=os.environ | {stages.MARK: "a_run/1/"})
    try:
        while not Path(f"/proc/{process.pid}/environ").read_bytes():  # for a moment a new program has none
            assert process.poll() is None
        assert list(stages._marked(f"{stages.MARK}=a_run/1/")) == [process.pid]
        assert list(stages._marked(f"{stages.MARK}=a_run/")) == [process.pid]
        assert not list(stages._marked(f"{stages.MARK}=a_run/2/"))
    finally:
        process.kill()
        process.wait()
