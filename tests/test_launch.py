"""The launcher with real processes: what it says, whom it ends, what it returns; the scripts."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml  # flax and orbax need it
from test_end_to_end import TINY, length

from vidgen.cli import main
from vidgen.errors import ConfigError
from vidgen.run import heartbeat
from vidgen.tools import launch

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / "launch" / "slurm.sbatch"])
# Process i runs program i, the last for the rest, at step 17 of a training.
CHILD = """
import os, pathlib, signal, sys, time
from vidgen.run.heartbeat import Heartbeat
number = int(os.environ["VIDGEN_PROCESS"])
pathlib.Path(f"pid-{number}").write_text(str(os.getpid()))
with Heartbeat.from_environment() as beat:
    beat.step = 17
    beat._write()  # not up to a second later
    exec(sys.argv[1:][min(number, len(sys.argv) - 2)])
"""
STAY = "time.sleep(60)"
# Saves for half a second when asked to stop, and says how often it was asked.
SAVE = """
asked = []
for sort in (signal.SIGTERM, signal.SIGINT):
    signal.signal(sort, lambda *_: asked.append(1))
pathlib.Path(f"ready-{number}").touch()
while not asked:
    time.sleep(0.01)
time.sleep(0.5)
print(number, "was asked", len(asked), "times")
sys.exit(85)
"""


APART = []  # launchers in processes of their own


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where the children write, and a launcher that is as patient as a test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Process 0 writes to the same output as the others: unbuffered, a line of it comes in pieces.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setattr(launch, "GRACE", 0.5)
    monkeypatch.setattr(launch, "SETTLE", 1.0)
    yield tmp_path
    while APART:  # where a test has failed
        with APART.pop() as launcher:
            launcher.kill()


def child(*programs):
    return [sys.executable, "-c", CHILD, *programs]


def pid(number):
    return int(pathlib.Path(f"pid-{number}").read_text())


def alive(process):
    try:
        return (
            pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


def wait_for(what, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def apart(processes, *programs, **options):
    """A launcher in a process of its own."""
    options.update(command=child(*programs), processes=processes)
    code = f"from vidgen.tools.launch import launch; raise SystemExit(launch(**{options!r}))"
    launcher = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": os.getcwd()},  # a killed one leaves its folder
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    APART.append(launcher)
    return launcher


def test_all_end_well_and_know_who_they_are(capfd):
    program = """
print(os.environ["VIDGEN_COORDINATOR"], os.environ["VIDGEN_PROCESSES"], number)
print(os.environ["XLA_FLAGS"], os.environ["JAX_PLATFORMS"], file=sys.stderr)
"""
    assert launch.launch(child(program), 3, devices=5) == 0
    out, err = capfd.readouterr()
    address = re.search(r"127\.0\.0\.1:[1-9]\d+", out)[0]
    assert sorted(out.splitlines()) == sorted(
        [f"{address} 3 0", f"[1] {address} 3 1", f"[2] {address} 3 2"]
    )
    flags = " ".join(f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f)
    flags += " --xla_force_host_platform_device_count=5 cpu"
    assert sorted(err.splitlines()) == sorted([flags, f"[1] {flags}", f"[2] {flags}"])


def test_without_fake_devices_the_environment_stays(capfd, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    monkeypatch.delenv("JAX_PLATFORMS")
    program = "print(os.environ['XLA_FLAGS'], os.environ.get('JAX_PLATFORMS'))"
    assert launch.launch(child(program), 1) == 0
    assert capfd.readouterr().out == "--mine None\n"


def test_one_that_dies_is_named_and_the_others_end(capfd):
    """Also one that does not listen to SIGTERM; a data error is not tried again."""
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    dies = "beat.step = 18; time.sleep(0.3); sys.exit(3)"
    began = time.monotonic()
    assert launch.launch(child(deaf, dies, STAY), 3, max_restarts=2) == 3
    assert time.monotonic() - began < 5
    err = capfd.readouterr().err
    assert err == (
        f"vidgen: process 1 of 3 died: host {socket.gethostname()}, pid {pid(1)}, "
        "last step 18, exit code 3\n"
    )
    assert not any(alive(pid(n)) for n in range(3))


def test_one_that_was_killed_is_started_again_with_all(capfd):
    dies_once = """
while not os.path.exists("starts"):
    time.sleep(0.01)
if not os.path.exists("mark"):
    open("mark", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    counts = "open('starts', 'a').write('.');"
    assert launch.launch(child(counts + STAY, dies_once), 2) == 137
    assert capfd.readouterr().err.endswith(" last step 17, exit code 137 (SIGKILL)\n")
    pathlib.Path("mark").unlink()
    pathlib.Path("starts").unlink()
    assert launch.launch(child(counts, dies_once), 2, max_restarts=1) == 0
    err = capfd.readouterr().err
    assert err.count("died") == 1 and "all 2 again, restart 1 of 1\n" in err
    assert len(pathlib.Path("starts").read_text()) == 2


def test_restarts_are_spent(capfd):
    assert launch.launch(child("os._exit(9)", STAY), 2, max_restarts=2) == 9
    err = capfd.readouterr().err
    assert err.count("exit code 9") == 3 and err.count("again") == 2


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_would_fail_again_is_not_tried_again(code, capfd):
    assert launch.launch(child(f"sys.exit({code})"), 1, max_restarts=2) == code
    assert "again" not in capfd.readouterr().err


def test_one_that_freezes_is_killed_and_said_to_have_frozen(capfd):
    freezes = "os.kill(os.getpid(), signal.SIGSTOP)"
    began = time.monotonic()
    assert launch.launch(child(STAY, freezes), 2, heartbeat=2) == 137
    assert 2 < time.monotonic() - began < 6
    err = capfd.readouterr().err
    assert err == (
        "vidgen: process 1 of 2 froze (no heartbeat for 2 s; killed): "
        f"host {socket.gethostname()}, pid {pid(1)}, last step 17, exit code 137 (SIGKILL)\n"
    )
    assert not alive(pid(0)) and not alive(pid(1))


def test_one_that_never_had_a_heartbeat_or_ended_it_is_not_frozen(monkeypatch):
    monkeypatch.setattr(heartbeat, "SECONDS", 0.2)
    none = [sys.executable, "-c", "import time; time.sleep(1)"]
    assert launch.launch(none, 1, heartbeat=0.4) == 0
    assert (
        launch.launch(child("beat.__exit__(); time.sleep(1); os._exit(0)"), 1, heartbeat=0.4) == 0
    )


def test_a_launcher_that_stood_still_calls_nobody_frozen():
    """As when a machine sleeps: nobody beats, nobody listens."""
    launcher = apart(1, "time.sleep(3.4)", heartbeat=2.0)
    wait_for(lambda: pathlib.Path("pid-0").exists())
    time.sleep(0.3)
    for process in (pid(0), launcher.pid):
        os.kill(process, signal.SIGSTOP)
    time.sleep(2.5)
    os.kill(launcher.pid, signal.SIGCONT)
    time.sleep(0.4)  # it looks before the other can beat
    os.kill(pid(0), signal.SIGCONT)
    _, err = launcher.communicate(timeout=20)
    assert (launcher.returncode, err) == (0, "")


def test_the_cause_is_reported_not_what_followed_from_it(capfd):
    """A process that takes long to die is noticed after those that died because of it."""
    follows = "while not os.path.exists('pid-2'): time.sleep(0.01)\n"
    programs = follows + "os.abort()", follows + "os._exit(1)", "time.sleep(0.5); os._exit(4)"
    assert launch.launch(child(*programs), 3) == 4
    err = capfd.readouterr().err
    assert err.count("died") == 1 and f"process 2 of 3 died: host {socket.gethostname()}" in err


def test_the_earliest_counts_where_all_may_have_followed(capfd):
    assert launch.launch(child("time.sleep(0.4); os.abort()", "sys.exit(1)", STAY), 3) == 1
    assert "process 1 of 3 died" in capfd.readouterr().err
    assert launch.launch(child("os.abort()"), 1) == 134
    assert "exit code 134 (SIGABRT)" in capfd.readouterr().err


def test_one_that_was_preempted_ends_no_other(capfd):
    """It has told them; whoever loses its connection to it has not failed."""
    late = "time.sleep(0.5); pathlib.Path('late').touch()"
    assert (
        launch.launch(
            child("sys.exit(85)", late, "time.sleep(0.2); os._exit(1)"), 3, max_restarts=1
        )
        == 85
    )
    assert pathlib.Path("late").exists() and capfd.readouterr().err == ""
    assert launch.launch(child("sys.exit(85)", "time.sleep(0.2); os._exit(5)"), 2) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_once_and_waited_for(number):
    launcher = apart(2, SAVE, max_restarts=3)
    wait_for(lambda: all(pathlib.Path(f"ready-{n}").exists() for n in range(2)))
    # Ctrl-C in a terminal goes to the launcher's group: the children, in groups of their own, get
    # it once.
    assert {os.getpgid(pid(n)) for n in range(2)} == {pid(0), pid(1)}
    launcher.send_signal(number)
    out, err = launcher.communicate(timeout=20)
    assert launcher.returncode == 85, err
    assert sorted(out.splitlines()) == ["0 was asked 1 times", "[1] 1 was asked 1 times"]
    assert err == f"vidgen: {number.name}: passed on; waiting for 2 processes\n"


def test_what_fails_when_asked_to_stop_is_not_started_again():
    fails = SAVE.replace("85", "5").replace("0.5", "0")
    launcher = apart(1, fails, max_restarts=3)
    wait_for(pathlib.Path("ready-0").exists)
    launcher.send_signal(signal.SIGTERM)
    _, err = launcher.communicate(timeout=20)
    assert launcher.returncode == 5 and "exit code 5" in err and "again" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_no_process_outlives_a_launcher_that_is_killed():
    launcher = apart(2, STAY)
    wait_for(lambda: all(pathlib.Path(f"pid-{n}").exists() for n in range(2)))
    wait_for(lambda: all(pathlib.Path(f"pid-{n}").read_text() for n in range(2)))
    assert alive(pid(0)) and alive(pid(1))
    launcher.kill()
    wait_for(lambda: not alive(pid(0)) and not alive(pid(1)), 5)
    launcher.communicate()


def test_no_line_is_lost_or_torn():
    """Also where a process has long ended before its lines can be passed on."""
    program = """
for line in range(1800):
    print(line, "x" * 50)
sys.stdout.write("the end")
"""
    launcher = apart(2, "", program)
    time.sleep(1)
    out, _ = launcher.communicate(timeout=20)
    expected = [f"[1] {line} " + "x" * 50 for line in range(1800)]
    assert out.splitlines() == [*expected, "[1] the end"]


@pytest.mark.parametrize(
    "options", [{"processes": 0}, {"heartbeat": 1.0}, {"max_restarts": -1}, {"devices": -1}]
)
def test_numbers_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options)).replace("_", "-")):
        launch.launch(child(""), **{"processes": 1, **options})


def test_the_command_gives_what_stands_behind_the_dashes(monkeypatch, capfd):
    calls = []
    monkeypatch.setattr(launch, "launch", lambda *args, **more: calls.append((args, more)) or 85)
    line = "launch --processes=4 --max-restarts=2 --heartbeat=20 --devices=3 -- train --debug -- x"
    assert main.main(line.split()) == 85
    command = [sys.executable, "-m", "vidgen", "train", "--debug", "--", "x"]
    assert calls == [((command, 4), {"max_restarts": 2, "heartbeat": 20.0, "devices": 3})]
    monkeypatch.undo()
    for wrong in ("launch --processes=2", "launch -- train", "launch --processes=2 train"):
        assert main.main(wrong.split()) == 2
    assert "there is no command" in capfd.readouterr().err


def test_a_heartbeat_tells_process_and_step(monkeypatch, folder):
    monkeypatch.setattr(heartbeat, "SECONDS", 0.02)
    monkeypatch.setenv("VIDGEN_HEARTBEAT", str(folder / "beat.json"))
    with heartbeat.Heartbeat.from_environment() as beat:
        first = heartbeat.read(folder / "beat.json")
        assert first == {
            "pid": os.getpid(), "host": socket.gethostname(), "step": None,
            "time": pytest.approx(time.time(), abs=5), "over": False,
        }  # fmt: skip
        beat.step = 3
        wait_for(lambda: heartbeat.read(folder / "beat.json")["step"] == 3)
        beat.step = 4
    last = heartbeat.read(folder / "beat.json")
    assert (last["step"], last["over"]) == (4, True)
    assert [path.name for path in folder.iterdir()] == ["beat.json"]


def test_a_heartbeat_is_read_whole_or_not_at_all(monkeypatch, folder):
    monkeypatch.setattr(heartbeat, "SECONDS", 1e-6)
    with heartbeat.Heartbeat(folder / "beat.json"):
        for _ in range(500):
            assert heartbeat.read(folder / "beat.json")["pid"] == os.getpid()


def test_a_full_disk_does_not_stop_a_heartbeat(monkeypatch, folder):
    with heartbeat.Heartbeat(folder / "beat.json"):
        os.utime(folder / "beat.json", (1, 1))
        (folder / "beat.new").mkdir()  # in the way, as a full disk would be
    assert (folder / "beat.json").stat().st_mtime > 1e9


def test_without_the_variable_there_is_no_heartbeat(monkeypatch, folder):
    monkeypatch.delenv("VIDGEN_HEARTBEAT", raising=False)
    monkeypatch.setattr(heartbeat.Heartbeat, "_write", lambda *_: pytest.fail("it wrote"))
    before = launch.threading.active_count()
    with heartbeat.Heartbeat.from_environment() as beat:
        beat.step = 1
        assert launch.threading.active_count() == before
    assert not list(folder.iterdir())


def test_launcher_and_heartbeat_import_nothing_but_the_standard_library():
    code = (
        "import sys; from vidgen.run import heartbeat; from vidgen.tools import launch;"
        "print({m.split('.')[0] for m in sys.modules if getattr(sys.modules[m], '__file__', 0)}"
        " - sys.stdlib_module_names)"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert not {"jax", "numpy", "flax", "rich"} & set(re.findall(r"\w+", out)) and "vidgen" in out


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_shell_and_begin_with_what_to_edit(script):
    subprocess.run(["bash", "-n", script], check=True)
    head = script.read_text().split("\n\n")[0]
    assert script.name in ("demo.sh", "test.sh", "environment.sh") or "o edit" in head


def stand_in(folder, name, text):
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def run_script(folder, *arguments, **environment):
    more = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(folder), **environment}
    return subprocess.run(
        ["bash", *map(str, arguments)], cwd=folder, env={**os.environ, **more},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.parametrize(
    "code, state, requeued",
    [(0, "RUNNING", False), (85, "RUNNING", True), (85, "CANCELLED", False), (3, "RUNNING", False)],
)
def test_a_slurm_job_that_was_preempted_goes_back_to_the_queue(folder, code, state, requeued):
    stand_in(folder, "srun", f'echo "$@" >srun; echo "$JAX_LOCAL_DEVICE_IDS" >gpus; exit {code}')
    stand_in(folder, "squeue", f"echo {state}")
    stand_in(folder, "scontrol", 'echo "$@" >scontrol')
    done = run_script(
        folder, ROOT / "launch" / "slurm.sbatch", "--config.seed=1", SLURM_JOB_ID="7",
        SLURM_SUBMIT_DIR=str(folder), SLURM_NTASKS_PER_NODE="1", SLURM_GPUS_ON_NODE="4",
        MODE="pmap",
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert (folder / "scontrol").exists() == requeued
    assert not requeued or (folder / "scontrol").read_text() == "requeue 7\n"
    asked = (folder / "srun").read_text().split()
    assert asked[2:4] == [".venv/bin/vidgen", "train"] and asked[-1] == "--config.seed=1"
    assert {"--config.parallel.distributed=True", "--config.parallel.mode=pmap"} <= set(asked)
    assert (folder / "gpus").read_text() == "0,1,2,3\n"


def test_a_tpu_slice_trains_stops_and_goes_on(folder):
    """Its host is a folder here."""
    run_there = 'echo "$@" >gcloud\nlast="${@:$#}"\nbash -c "${last#--command=}"'
    stand_in(folder, "gcloud", run_there)
    host = folder / "vidgen" / ".venv" / "bin"
    host.mkdir(parents=True)
    (host / "vidgen").write_text(
        "#!/usr/bin/env bash\ntrap 'echo saved; exit 85' TERM\n"
        "printf '<%s>' \"$@\"\n"
        "echo\ntouch up\nwhile :; do sleep 0.05; done\n"
    )
    (host / "vidgen").chmod(0o755)
    script = ROOT / "launch" / "tpu_pod.sh"
    command = ["bash", script, "train", "--config.data.path=my clips"]
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "MODE": "pmap"}
    for _ in range(2):
        up = folder / "vidgen" / "up"
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as training:
            wait_for(up.exists)
            stopped = run_script(folder, script, "stop")
            assert stopped.returncode == 0 and stopped.stdout.endswith("saved\n")
            out, err = training.communicate(timeout=20)
        up.unlink()
        assert training.returncode == 85, err
        said = out.splitlines()
        assert said[0].startswith("<train><--config=") and said[0].endswith("path=my clips>")
        assert "--config.parallel.mode=pmap" in said[0]
        assert said[1:] == ["saved", f"{socket.gethostname()}: exit code 85"]
    assert "--worker=all" in (folder / "gcloud").read_text()


def test_a_jobset_counts_the_same_everywhere_and_knows_the_exit_codes():
    jobset = yaml.safe_load((ROOT / "launch" / "k8s_jobset.yaml").read_text())
    assert jobset["kind"] == "JobSet"
    (job,) = jobset["spec"]["replicatedJobs"]
    assert jobset["spec"]["coordinator"]["replicatedJob"] == job["name"]
    job = job["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    environment = {entry["name"]: entry for entry in container["env"]}
    count = environment["VIDGEN_PROCESSES"]["value"]
    assert count == str(job["parallelism"]) == str(job["completions"])
    port = container["ports"][0]["containerPort"]
    assert environment["VIDGEN_COORDINATOR"]["value"] == f"$(COORDINATOR):{port}"
    assert "VIDGEN_PROCESS" in environment and pod["terminationGracePeriodSeconds"] >= 60
    assert container["command"] == ["vidgen", "train"]  # no shell between it and SIGTERM
    assert pod["restartPolicy"] == "Never" and job["backoffLimit"] == 0
    codes = [
        rule["onExitCodes"]["values"]
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule and rule["onExitCodes"]["containerName"] == container["name"]
    ]
    assert codes == [[85], [2, 3, 4]]
    # What Kubernetes says of such a failure, and what becomes of the JobSet.
    said = "Container vidgen for pod default/x failed with exit code {} matching FailJob rule at"

    def action(text):
        for rule in jobset["spec"]["failurePolicy"]["rules"]:
            if any(re.search(pattern, text) for pattern in rule["onJobFailureMessagePatterns"]):
                return rule["action"]

    assert action(said.format(85)) == "RestartJobSetAndIgnoreMaxRestarts"
    gone = "Pod default/x has condition DisruptionTarget matching FailJob rule at index 1"
    assert action(gone) == "RestartJobSetAndIgnoreMaxRestarts"
    assert action(said.format(2)) == action(said.format(3)) == "FailJobSet"
    assert action(said.format(25)) is None


def test_two_processes_on_this_machine_train_to_the_end(folder):
    """The script itself, in a folder with an environment that is already made."""
    (folder / "launch").mkdir()
    for name in ("local.sh", "environment.sh"):
        shutil.copy(ROOT / "launch" / name, folder / "launch")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "vidgen").write_text(
        f'#!/usr/bin/env bash\nexec {sys.executable} -m vidgen "$@"\n'
    )
    (folder / ".venv" / "bin" / "vidgen").chmod(0o755)
    made = subprocess.check_output(["cksum", "pyproject.toml"], text=True).split()[0]
    (folder / ".venv" / f".vidgen-{made}").touch()
    done = run_script(
        folder, "launch/local.sh", 2, "--devices=2", "--", "train", *TINY, *length(4, 2),
        f"--workdir={folder / 'run'}", "--config.parallel.mode=mesh",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
