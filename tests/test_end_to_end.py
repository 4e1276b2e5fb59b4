"""The real commands, shrunk: train, kill, go on, sample; what stops a run and what it then says."""

import json
import os
import pathlib
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import QUICK, TINY_GENERATOR, TINY_HEADS, tiny_config

from vidgen import config as configs
from vidgen import methods, sampling
from vidgen.cli import main
from vidgen.errors import DataError, DivergedError
from vidgen.evaluation import evaluate
from vidgen.run import artifacts, train
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.runtime.digests import arrays_sha256
from vidgen.tools import bench

ROOT = pathlib.Path(__file__).parents[1]
TINY = [
    "--config=configs/toy.py",
    "--config.data.path=toy:clips=512",
    "--config.data.frames=6",
    "--config.data.pick=4",
    "--config.data.size=16",
    *(f"--config.generator.{n}={v}" for n, v in TINY_GENERATOR.items()),
    *(f"--config.discriminator.{n}={v}" for n, v in TINY_HEADS.items()),
    "--config.training.batch_size=8",
    "--config.training.log_kclips=0.008",
    "--config.sampling.frames=6",
    "--config.sampling.clips=2",
]


def length(steps, save=0):
    return [
        f"--config.training.kclips={steps * 8 / 1000}",
        "--config.training.sample_kclips=0",
        f"--config.training.save_kclips={save * 8 / 1000}",
    ]


def start(*arguments):
    # One device: the fake eight only slow these down.
    environment = {**os.environ, "XLA_FLAGS": QUICK, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "vidgen", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(*arguments, expect=0):
    process = start(*arguments)
    out, err = process.communicate(timeout=240)
    assert process.returncode == expect, f"exit {process.returncode}\n{out}\n{err}"
    return out, err


def digests(workdir, step):
    """The digests of everything that was saved at a step."""
    found = {}

    def wanted(meta):
        experiment = methods.experiment(configs.from_json(meta["config"]), 2)
        state = jax.eval_shape(experiment.init, 0)
        return {"train": state.replace(ema=None), "ema": state.ema}

    _, items, _ = Checkpoints(workdir / "checkpoints").restore(wanted, step)
    found.update({name: arrays_sha256(tree) for name, tree in items.items()})
    return found


def logged(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 12 steps that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    run("train", *TINY, *length(12, 4), f"--workdir={workdir}")
    return workdir


def test_a_run_writes_what_the_docs_say(whole):
    assert {p.name for p in whole.iterdir()} == {
        "run.json", "metrics.jsonl", "tensorboard", "samples", "checkpoints", "lock",
    }  # fmt: skip
    assert [line["step"] for line in logged(whole)] == list(range(1, 13))
    assert all(np.isfinite(v) for line in logged(whole) for v in line.values())
    facts = json.loads((whole / "run.json").read_text())
    assert facts["config"]["training"]["batch_size"] == 8 and facts["versions"]["jax"]
    assert facts["classes"] == ["disc", "square"] and facts["command"].startswith("vidgen train")
    assert {p.name for p in (whole / "samples").iterdir()} == {
        "step-00000012.mp4", "step-00000012.png",
    }  # fmt: skip
    assert Checkpoints(whole / "checkpoints").steps() == [4, 8, 12]
    events = b"".join(p.read_bytes() for p in (whole / "tensorboard").iterdir())
    assert b"GIF89a" in events and b"gen/loss" in events


def test_the_same_command_again_says_it_is_done(whole):
    before = (whole / "metrics.jsonl").read_bytes()
    _, err = run("train", *TINY, *length(12, 4), f"--workdir={whole}")
    assert "done, 12 steps" in err
    assert (whole / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "after", [5, *(pytest.param(n, marks=pytest.mark.thorough) for n in (2, 9))]
)
def test_killed_and_gone_on_gives_the_same_bits(whole, tmp_path, after):
    """Kill -9 as soon as some step has been logged, wherever saving and logging then are."""
    workdir = tmp_path / "run"
    arguments = ["train", *TINY, *length(12, 4), f"--workdir={workdir}"]
    process = start(*arguments)
    deadline = time.monotonic() + 200
    while (
        not (workdir / "metrics.jsonl").exists()
        or len((workdir / "metrics.jsonl").read_text().splitlines()) < after
    ):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.communicate()
    run(*arguments)
    assert [line["step"] for line in logged(workdir)] == list(range(1, 13))
    for step in (8, 12):
        assert digests(workdir, step) == digests(whole, step)
    name = "step-00000012.png"
    assert (workdir / "samples" / name).read_bytes() == (whole / "samples" / name).read_bytes()


def test_a_sample_that_a_signal_put_off_is_made_when_the_run_goes_on(whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    for path in (workdir / "samples").iterdir():
        path.unlink()
    _, err = run("train", *TINY, *length(12, 4), f"--workdir={workdir}")
    assert "done, 12 steps" in err
    for path in (whole / "samples").iterdir():
        assert (workdir / "samples" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_current_step_and_exits_85(whole, tmp_path, number):
    workdir = tmp_path / "run"
    arguments = ["train", *TINY, f"--workdir={workdir}"]
    process = start(*arguments, *length(100_000))
    deadline = time.monotonic() + 200
    while not (workdir / "metrics.jsonl").exists() or not (workdir / "metrics.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    # All of its steps would take many minutes; a compilation that has begun comes to its end.
    _, err = process.communicate(timeout=60)
    assert process.returncode == 85, err
    assert signal.Signals(number).name in err and "the same command goes on" in err
    (saved,) = Checkpoints(workdir / "checkpoints").steps()
    assert [line["step"] for line in logged(workdir)] == list(range(1, saved + 1))


def test_a_terminal_that_closes_saves_and_ends_a_run(whole, tmp_path):
    """With progress on the terminal; what is said after that goes nowhere."""
    del whole  # has compiled the step
    workdir = tmp_path / "run"
    terminal, other = pty.openpty()
    begin = (  # the first terminal that a session's leader opens is the session's
        "import os, sys; os.setsid(); t = os.open(sys.argv[1], os.O_RDWR)\n"
        "for n in range(3): os.dup2(t, n)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'vidgen', *sys.argv[2:]])"
    )
    command = ["train", *TINY, f"--workdir={workdir}", *length(100_000)]
    child = subprocess.Popen(
        [sys.executable, "-c", begin, os.ttyname(other), *command],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": QUICK, "PYTHONWARNINGS": "error"},
    )
    deadline = time.monotonic() + 200
    while not (workdir / "metrics.jsonl").exists() or not (workdir / "metrics.jsonl").read_text():
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 1 << 16)
        assert child.poll() is None and time.monotonic() < deadline
    os.close(other)
    os.close(terminal)
    assert child.wait(60) == 85
    (saved,) = Checkpoints(workdir / "checkpoints").steps()
    assert [line["step"] for line in logged(workdir)] == list(range(1, saved + 1))


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize("given", [None, "glibc.malloc.check=0"])
def test_malloc_keeps_huge_pages_unless_the_user_tuned_it(given, tmp_path, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if given:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    process = start("train", *TINY, *length(100_000), f"--workdir={tmp_path / 'run'}")
    assert "reading configs/toy.py" in process.stderr.readline()
    environment = pathlib.Path(f"/proc/{process.pid}/environ").read_bytes().decode().split("\0")
    process.kill()
    process.communicate()
    keep = "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=8589934592"
    becomes = given or f"glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:{keep}"
    # glibc cuts the string at colons as it reads it.
    found = ":".join(e for e in environment if e.lower().startswith("glibc"))
    assert found == f"GLIBC_TUNABLES={becomes}"


def test_a_signal_before_the_first_step_exits_85_at_once(tmp_path):
    process = start("train", *TINY, *length(100_000), f"--workdir={tmp_path / 'run'}")
    assert "reading configs/toy.py" in process.stderr.readline()  # before jax is imported
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 85, err
    assert "SIGTERM" in err and "nothing new to save" in err and "Traceback" not in err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_what_is_measured_without_real_clips_is_the_step_that_was_asked_for(whole):
    found = {step: evaluate.check(whole, "acd", 2, step)["acd_c"] for step in (None, 4, 12)}
    assert found[None] == found[12] != found[4]


def test_sampling_from_the_command_line(whole, tmp_path):
    from PIL import Image

    for form, count in (("mp4", 3), ("gif", 3), ("webp", 3), ("png", 1), ("npz", 1)):
        out, _ = run(
            "sample", whole, "--seeds=0:3", "--frames=6", "--start=2", f"--format={form}",
            f"--out={tmp_path / form}",
        )  # fmt: skip
        paths = out.split()
        assert len(paths) == count and all(pathlib.Path(p).stat().st_size for p in paths)
    expected = sampling.load(whole).sample([0, 1, 2], 6, 2)
    with np.load(tmp_path / "npz" / "videos.npz") as data:
        np.testing.assert_array_equal(data["video"], expected)
    with Image.open(tmp_path / "png" / "grid.png") as png:
        assert png.size == (6 * 16, 3 * 16)


def test_another_config_in_the_same_workdir_is_refused(whole):
    _, err = run(
        "train", *TINY, *length(12, 4), f"--workdir={whole}", "--config.objective.r1.start=0.125",
        "--config.seed=5", expect=2,
    )  # fmt: skip
    assert "config.objective.r1.start was 2.0, is 0.125" in err or "r1.start was" in err
    assert "config.seed was 0, is 5" in err and "Traceback" not in err


def test_other_clips_in_the_same_workdir_are_refused(tmp_path):
    config = tiny_config()
    config.data.path = str(tmp_path / "clips.npy")
    video = np.random.default_rng(0).integers(0, 256, (12, 8, 16, 16, 3)).astype(np.uint8)
    np.save(tmp_path / "clips.npy", video)
    config.data.cache = str(tmp_path / "cache")
    train.train(config, tmp_path / "run")
    config.training.save_kclips = 0.008  # may change
    train.train(config, tmp_path / "run")
    np.save(tmp_path / "clips.npy", 255 - video)
    os.utime(tmp_path / "clips.npy", (1, 1))
    with pytest.raises(DataError, match="have changed since it began"):
        train.train(config, tmp_path / "run")


def exploding(monkeypatch, config, when):
    """Makes the weight of the penalties 1e38 at some steps."""
    from vidgen.training import optimizers

    real = optimizers.cosine

    def cosine(start, end, steps):
        schedule = real(start, end, steps)
        if start != config.objective.r1.start:
            return schedule
        return lambda step: jax.numpy.where(when(step), 1e38, schedule(step))

    monkeypatch.setattr(optimizers, "cosine", cosine)


def test_an_update_that_is_not_finite_is_left_out_and_recorded(tmp_path, monkeypatch, capfd):
    config = tiny_config()
    exploding(monkeypatch, config, lambda step: step == 2)
    for name in ("one", "two"):
        train.train(config, tmp_path / name)
        events = [
            json.loads(line) for line in (tmp_path / name / "events.jsonl").read_text().splitlines()
        ]
        assert [event["step"] for event in events] == [3]
        assert "dis/grad" in events[0]["skipped"]
        assert [line["skipped"] for line in logged(tmp_path / name)] == [0, 0, 1, 0]
    said = capfd.readouterr().err
    assert "step 3 (clips 16 to 23 of the stream)" in said and "its update is left out" in said
    # What was left out follows from the run, so that a run made again is the same.
    assert digests(tmp_path / "one", 4) == digests(tmp_path / "two", 4)
    for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_a_run_that_stays_broken_ends_after_another_start_from_its_checkpoint(
    tmp_path, monkeypatch, capfd
):
    config = tiny_config()
    config.training.kclips = 0.08
    exploding(monkeypatch, config, lambda step: step >= 3)
    with pytest.raises(DivergedError) as error:
        train.train(config, tmp_path / "run")
    text = str(error.value)
    assert "step 6 (clips 40 to 47" in text and "dis/grad is inf" in text
    assert "once more from the last checkpoint" in capfd.readouterr().err
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [2, 4]
    assert digests(tmp_path / "run", 4)["ema"]


def test_penalties_may_be_lazy_and_the_compute_bfloat16(tmp_path):
    config = tiny_config()
    config.data.size = 8  # two programs to compile: of one level
    config.generator.widths = config.discriminator.widths = (8,)
    config.objective.penalty_interval = 2
    config.parallel.compute = "bfloat16"
    config.objective.update(augmentations=("flip", "shift"))
    config.objective.augment_p.update(start=0.3, end=0.3)
    train.train(config, tmp_path / "run")
    r1 = [line["dis/r1"] for line in logged(tmp_path / "run")]
    assert [v > 0 for v in r1] == [True, False, True, False]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["train", "--workdir=x"], "there is no --config"),
        (["train", "--config=configs/nothing.py", "--workdir=x"], "configs/nothing.py"),
        (["train", "--config=configs/toy.py"], "--workdir"),
        (["train", "--config=configs/toy.py", "--workdir="], "--workdir"),
        (["train", *TINY, "--workdir=x", "--config.training.batchsize=4"], "training.batch_size"),
        (["train", *TINY, "--workdir=x", "--config.training.batch_size=four"], "batch_size"),
        (["train", *TINY, "--workdir=x", "--config.optimizer.name=adma"], "adam"),
        (["train", *TINY, "--workdir=x", "--stride=4"], "--stride=4"),
        (["train", *TINY, "--workdir=x", "--config.objective.augmentations=('flp',)"], "flip"),
        (["train", "--config", "configs/toy.py", "--workdir=x", "--stride=4"], "--stride=4"),
        (["sample", "x", "--seeds=a"], "--seeds=a"),
        (["sample", "x", "--seeds=0:10000000000"], "10000000000 videos"),
        (["sample", "x", f"--seeds=0:{10**30}"], "--seeds=0:1000"),
        (["sample", "x", "--format=avi"], "mp4"),
        (["simple", "x"], "sample"),
        (["evaluate", "x", "--metrics=fid"], "toy"),
    ],
)
def test_wrong_words_are_answered_in_a_line_or_two(arguments, says, capfd, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main.main(arguments) == 2
    said = capfd.readouterr().err.strip().splitlines()
    said = [line for line in said if "reading" not in line]
    assert says in "".join(said) and "Traceback" not in "".join(said) and 1 <= len(said) <= 2


def test_missing_clips_and_runs_have_their_exit_codes(tmp_path):
    flags = [flag for flag in TINY if "data.path" not in flag]
    missing = f"--config.data.path={tmp_path / 'no'}"
    _, err = run("train", *flags, f"--workdir={tmp_path / 'w'}", missing, expect=3)
    assert str(tmp_path / "no") in err and "Traceback" not in err
    (tmp_path / "file").write_text("in the way")
    _, err = run("train", *TINY, f"--workdir={tmp_path / 'file' / 'run'}", expect=5)
    assert str(tmp_path / "file") in err and "Traceback" not in err
    _, err = run("sample", tmp_path / "nothing", expect=5)
    assert str(tmp_path / "nothing") in err and "Traceback" not in err


@pytest.mark.parametrize("platform", ["nope", "rocm"])
def test_a_platform_that_is_not_here_is_named(platform, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    checkpoints = tmp_path / "made" / "checkpoints" / "1" / "ema"  # that it is none is said later
    checkpoints.mkdir(parents=True)
    commands = [["train", *TINY, f"--workdir={tmp_path / 'run'}"], ["doctor"]]
    commands.append(["sample", tmp_path / "made"])
    for command in commands:
        _, err = run(*command, expect=2)
        assert f"JAX_PLATFORMS={platform}: JAX finds no such device" in err
        assert "Traceback" not in err


def test_no_contact_sheet_among_the_clips(tmp_path):
    np.save(tmp_path / "clip.npy", np.zeros((4, 8, 8, 3), np.uint8))
    _, err = run("data", "inspect", tmp_path, f"--sheet={tmp_path / 'sheet.png'}", expect=2)
    assert "outside" in err and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["clip.npy"]


def test_inspect_and_doctor_answer(tmp_path):
    out, _ = run("data", "inspect", "toy:clips=8", f"--sheet={tmp_path / 'sheet.png'}")
    assert "disc" in out and (tmp_path / "sheet.png").stat().st_size
    out, _ = run("doctor")
    assert "jaxlib" in out and "devices" in out


def test_the_clips_that_a_command_names_go_into_its_config(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for n, frames in enumerate((40, 3)):
        np.save(clips / f"{n}.npy", np.zeros((frames, 64, 64, 3), np.uint8))
    sheet = f"--sheet={tmp_path / 'sheet.png'}"
    config = ["--config", "configs/sprites64.py"]  # 16 frames; names no clips itself
    out, _ = run("data", "inspect", clips, sheet, *config)
    assert "25 windows of 16 frames" in out
    out, _ = run("data", "inspect", clips, sheet, *config, "--config.data.short=loop")
    assert "28 windows of 16 frames" in out
    out, _ = run("data", "pack", clips, *config, f"--out={tmp_path / 'packs'}")
    (pack,) = (tmp_path / "packs").iterdir()
    assert out.strip() == str(pack) and (pack / "pack.json").is_file()


def test_clips_shorter_than_a_window_are_told(tmp_path, caplog):
    for n, frames in enumerate((40, 3)):
        np.save(tmp_path / f"{n}.npy", np.zeros((frames, 16, 16, 3), np.uint8))
    config = tiny_config()
    config.data.update(path=str(tmp_path), cache=str(tmp_path / "packs"))
    artifacts.open_clips(config)
    (warning,) = caplog.messages
    assert warning.startswith("1 of 2 clips are shorter") and "(1.npy)" in warning
    caplog.clear()
    config.data.short = "loop"
    artifacts.open_clips(config)
    assert not caplog.messages


@pytest.mark.thorough
def test_bench_measures_step_loader_and_sampler(capsys, tmp_path):
    figures = bench.bench(tiny_config(), seconds=0.05, path=tmp_path / "bench.json")
    products = {f"step/products/Residual{net}" for net in ("Generator", "Discriminator")}
    assert {
        "matmul", "step", "step_clips", "loader_clips", "sampler", "sampler_frames",
        "step/whole", "step/bare", "step/optimizer", "step/products", *products,
    } <= set(figures)  # fmt: skip
    assert all(np.isfinite(value) and value > 0 for value in figures.values())
    said = capsys.readouterr().out
    assert all(part in said for part in ("matrix product", "step", "loader", "sampler"))
    bench.compare(tmp_path / "bench.json", {**figures, "step": 2 * figures["step"]})
    assert "2.00x" in capsys.readouterr().out


def test_bench_of_a_sampler_alone(capsys, tmp_path):
    figures = bench.bench(tiny_config(), seconds=0.05, path=tmp_path / "b.json", sampler=True)
    assert set(figures) == {"matmul", "sampler", "sampler_frames", "stream_frames"}
    assert bench.read_figures(tmp_path / "b.json") == figures
    assert "one video" in capsys.readouterr().out
    assert main.main(["bench", "--config=configs/toy.py", "--quick", "--sampler"]) == 2
    assert "--quick and --sampler" in capsys.readouterr().err


def test_bench_counts_the_products_of_a_function_and_whose_they_are():
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(24, name="a")(nn.Dense(24, name="b")(x))

    x = jax.numpy.ones((16, 24))
    params = Net().init(jax.random.key(0), x)

    def step(params, x):
        loop = lambda y, _: (y @ y.T @ y, None)  # noqa: E731
        y, _ = jax.lax.scan(loop, x, None, length=5)
        return jax.value_and_grad(lambda p: Net().apply(p, x).sum())(params), y

    found = bench.alone(step, params, x, seconds=0.001)
    assert set(found) == {"Net", "others"}
    one = 2 * 16 * 24 * 24
    assert found["Net"][1] == 5 * one  # two forward, two by the weights, one by the features
    assert found["others"][1] == 5 * 2 * (2 * 16 * 16 * 24)


def test_the_first_message_comes_before_jax_is_imported():
    code = (
        "import sys\n"
        "from vidgen.cli import main\n"
        "from vidgen.run import logs\n"
        "def say(text):\n"
        "    print(sorted({'jax', 'flax', 'av'} & set(sys.modules))); raise SystemExit\n"
        "logs.say = say\n"
        "main.main(sys.argv[1:])\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, "train", *TINY, "--workdir=x"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stdout.strip() == "[]", out.stdout + out.stderr


def test_real_clips_are_packed_trained_on_and_sampled(real_data, tmp_path):
    config = tiny_config()
    config.data.update(path=str(real_data / "actions64"), stride=2, cache=str(tmp_path / "cache"))
    train.train(config, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["clips"] == 56 and facts["skipped"] == []
    assert facts["classes"] == ["bend", "jumping_jack", "wave_one_hand", "wave_two_hands"]
    video = sampling.load(tmp_path / "run").sample([0, 1], 6, labels="bend")
    assert video.shape == (2, 6, 16, 16, 3)
