"""Signals in commands that have nothing to save, and standard streams that are closed or full."""

import contextlib
import os
import pathlib
import pty
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from vidgen.data import packing
from vidgen.run import signals
from vidgen.video import atomic

ROOT = pathlib.Path(__file__).parents[1]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def start(*arguments, **more):
    """Starts the command in a process of its own; signals to this test's group do not reach it."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "vidgen", *map(str, arguments)],
        **{"cwd": ROOT, "text": True, "start_new_session": True},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
    )


def wait_for(what, process, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.005)
    return found


def children(process):
    """Returns the numbers of the processes that a process has started, and those of these."""
    own = []
    for task in pathlib.Path(f"/proc/{process}/task").glob("*/children"):  # each thread has some
        with contextlib.suppress(OSError):
            own += [int(number) for number in task.read_text().split()]
    return own + [number for child in own for number in children(child)]


def alive(number):
    try:
        stat = pathlib.Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(autouse=True)
def heard():
    """Lets commands hear what is ignored here: SIGINT is, in a background job of a shell."""
    old = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of clips that take a while to pack."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for number in range(400):
        frames = rng.integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
        np.save(folder / f"{number:03d}.npy", frames)
    return folder


@pytest.mark.parametrize("number", SIGNALS)
def test_packing_that_is_told_to_end_leaves_nothing(tmp_path, clips, number):
    cache = tmp_path / "cache"
    with start("data", "pack", clips, "--config=configs/toy.py", f"--out={cache}") as process:
        wait_for(lambda: list(cache.glob(".making-*")), process)
        started = wait_for(lambda: children(process.pid), process)
        process.send_signal(number)
        process.send_signal(number)  # the same request twice, as from a service manager
        out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert (out, err) == ("", f"vidgen: ended by {number.name}\n")
    assert not list(cache.iterdir()) and not any(map(alive, started))


STUCK = """
import hashlib, sys
from vidgen.data import packing
from vidgen.run import signals
from vidgen.video import atomic
signals.Ending.PATIENCE = 0.3
with signals.Ending():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)  # as a compiler, hears nothing
"""


def test_a_command_that_cannot_hear_ends_all_the_same():
    with subprocess.Popen(
        [sys.executable, "-c", STUCK],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (143, "vidgen: ended by SIGTERM\n")


def test_an_end_passes_through_and_handlers_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    cleaned = []
    with pytest.raises(signals.Ended, match="ended by SIGTERM") as ended, signals.Ending():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            cleaned.append("swallowed")
        finally:
            signal.raise_signal(signal.SIGTERM)  # at once again: the same request
            cleaned.append("cleaned")
    assert cleaned == ["cleaned"] and ended.value.number == signal.SIGTERM
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


class Deaf:
    """What is deleted lets no exception pass, like callbacks of the collector of garbage."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def test_an_end_that_could_not_pass_is_raised_again(capfd):
    with pytest.raises(signals.Ended), signals.Ending():
        deaf = Deaf()
        del deaf
        time.sleep(10)
    assert capfd.readouterr().err == ""


def test_what_a_signal_interrupts_right_after_making_it_is_deleted(tmp_path, monkeypatch):
    """The moment between a temporary file and its use: most signals come in calls of the system."""
    for stop, making in (
        ("open", atomic.replacing(tmp_path / "a.mp4")),
        ("mkdir", atomic.replacing_folder(tmp_path / "a")),
        ("mkdir", packing._making(tmp_path / "pack")),
    ):
        function, made = getattr(os, stop), []

        def interrupted(path, *about, function=function, made=made):
            found = function(path, *about)
            if "tmp" in pathlib.Path(path).name or "making" in str(path):
                made.append(path)
                if isinstance(found, int):
                    os.close(found)
                raise signals.Ended(signal.SIGTERM)
            return found

        with monkeypatch.context() as patch, pytest.raises(signals.Ended):
            patch.setattr(os, stop, interrupted)
            with making:
                pytest.fail("it was not interrupted")
        assert made and not list(tmp_path.iterdir())


def swallowed():
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)


def turned():
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException as error:
        raise ImportError("a module could not be initialized") from error


def test_an_end_that_was_swallowed_is_raised_again_and_not_while_it_passes():
    cleaned = []
    with pytest.raises(signals.Ended), signals.Ending():
        try:
            swallowed()
            time.sleep(10)
        finally:
            time.sleep(1.5)  # what takes long to clean up is left to
            cleaned.append(True)
    assert cleaned


def test_what_c_has_called_returns_before_an_end_is_raised():
    returned = []

    def called_by_c():
        signal.raise_signal(signal.SIGTERM)
        return "made"

    with pytest.raises(signals.Ended), signals.Ending():
        returned.append(called_by_c())
        time.sleep(10)
    assert returned == ["made"]


def test_what_some_code_makes_of_an_end_is_one():
    with pytest.raises(signals.Ended) as ended, signals.Ending():
        turned()
    assert isinstance(ended.value.__cause__, ImportError)


def test_a_command_that_takes_too_long_to_leave_ends_all_the_same():
    code = """
import signal, time
from vidgen.run import signals
signals.Ending.LONGEST = 0.5
with signals.Ending():
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        time.sleep(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (143, "vidgen: ended by SIGTERM\n")


def test_what_was_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.Ending():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


# --------------------------------------------------------------------- standard streams


def shell(line):
    """Runs a line of bash in which `vidgen` is the command; returns code, output and messages."""
    script = f'vidgen() {{ "{sys.executable}" -m vidgen "$@"; }}\n{line}'
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, text=True, capture_output=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "line, code, out, err",
    [
        # Nobody reads: the rest is dropped, the code is that of the work.
        ("vidgen --help | head -1 >/dev/null; exit ${PIPESTATUS[0]}", 0, "", ""),
        ("vidgen --help | true; exit ${PIPESTATUS[0]}", 0, "", ""),
        ("vidgen --help >&-", 0, "", ""),
        ("vidgen nothing >&- 2>&-", 2, "", ""),
        ("vidgen nothing 2>&-", 2, "", ""),
        ("vidgen nothing 2>/dev/full", 2, "", ""),
        ("vidgen nothing 2> >(true)", 2, "", ""),
        # What was asked for could not be written.
        (
            "vidgen --version >/dev/full", 5, "",
            "vidgen: standard output cannot be written: No space left on device\n",
        ),
        (
            "vidgen config gan >/dev/full", 5, "",
            "vidgen: standard output cannot be written: No space left on device\n",
        ),
        ("vidgen --help >/dev/full 2>/dev/full", 5, "", ""),
    ],
)  # fmt: skip
def test_standard_streams_that_are_closed_or_full(line, code, out, err):
    assert shell(line) == (code, out, err)


def test_messages_do_not_go_where_output_goes():
    """Without a standard error, `print` of a message would come out among the output."""
    code, out, _ = shell("vidgen --help 2>&-")
    assert code == 0 and out == shell("vidgen --help")[1] and out


def test_a_name_that_is_no_text_is_printed(tmp_path, clips):
    out = os.fsencode(tmp_path) + b"/\xff"
    command = [
        sys.executable,
        "-m",
        "vidgen",
        "data",
        "pack",
        str(clips),
        "--config=configs/toy.py",
    ]
    command = [*map(os.fsencode, command), b"--out=" + out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert rb"\udcff" in done.stdout


LAUNCHED = """
import os, pathlib, signal, sys, time
from vidgen.run.signals import Signals
folder, number = pathlib.Path(sys.argv[1]), os.environ["VIDGEN_PROCESS"]
with Signals() as heard:
    (folder / f"ready-{number}").touch()
    while not heard.received:
        time.sleep(0.01)
    print("saving")  # to a terminal that has closed
    (folder / f"saved-{number}").write_text(heard.received)
sys.exit(85)
"""
LAUNCHER = """
import os, sys
os.open(os.ttyname(0), os.O_RDWR)  # the first that a session's leader opens is its terminal
from vidgen.cli import process
process.own_streams()
from vidgen.tools import launch
launch.LOOK = 0.05
sys.exit(launch.launch([sys.executable, "-c", sys.argv[2], sys.argv[1]], 2, max_restarts=3))
"""


def test_a_launcher_whose_terminal_closes_has_all_save(tmp_path):
    """A hang-up of the kernel's own: the launcher leads the session of a terminal."""
    terminal, its_side = pty.openpty()  # and no pty.fork(), which JAX's threads do not take
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path), LAUNCHED],
        **{"cwd": ROOT, "start_new_session": True},
        **dict.fromkeys(("stdin", "stdout", "stderr"), its_side),
    )
    os.close(its_side)
    wait_for(lambda: all((tmp_path / f"ready-{n}").exists() for n in range(2)), process)
    started = children(process.pid)
    os.close(terminal)
    assert process.wait(timeout=60) == 85
    assert [(tmp_path / f"saved-{n}").read_text() for n in range(2)] == ["SIGHUP"] * 2
    assert not any(map(alive, started))


def test_what_was_printed_before_a_signal_is_seen():
    """Standard output is a pipe, so what is printed waits in memory."""
    program = """
import os, signal, sys
from vidgen.cli import main
def command(options):
    print("first.mp4")
    os.kill(os.getpid(), signal.SIGTERM)
main.COMMANDS["doctor"] = command
sys.argv = ["vidgen", "doctor"]
main.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (143, "first.mp4\n"), done.stderr


def test_an_error_with_a_cause_of_its_own_hides_no_end():
    found = []
    try:
        raise signals.Ended(signal.SIGTERM)
    except signals.Ended:
        try:
            raise KeyError from OSError()
        except KeyError:
            found.append(signals._handled(signals.Ended))
    assert found == [True] and not signals._handled(signals.Ended)


def test_commands_are_imported_where_there_is_no_hangup():
    """As on Windows."""
    program = """
import os, signal
for name in ("SIGHUP", "SIGKILL", "SIGPROF", "pthread_kill"):
    delattr(signal, name)
import vidgen.cli.main, vidgen.run.signals, vidgen.data.workers
with vidgen.run.signals.Ending():
    pass
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
