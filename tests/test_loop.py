"""The parts of the training loop, each alone; and training as it is called from Python."""

import json
import threading

import jax
import numpy as np
import pytest
from conftest import tiny_config

import vidgen
from vidgen import methods
from vidgen.errors import ConfigError, DivergedError, Preempted, StorageError
from vidgen.run import artifacts, logs, train, warm_start, watch
from vidgen.run.after_step import Outputs, after_step, check_pending, save
from vidgen.run.best import Best
from vidgen.run.clock import Clock
from vidgen.run.metrics_log import RunLog
from vidgen.run.setup import LoopState, Pending, initial, placement, restored, setup
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.runtime.digests import arrays_sha256


def small_config():
    config = tiny_config()
    config.data.size = 8  # one level: most of the time goes into compiling
    config.generator.widths = config.discriminator.widths = (8,)
    return config


@pytest.fixture(scope="module")
def state():
    """The state of step 0."""
    config = small_config()
    experiment = methods.experiment(config, 2)
    return placement(config).init(experiment.init, 0)


@pytest.fixture
def outputs(tmp_path):
    """Makes the outputs of a setup; closes its log at the end."""
    made = []

    def make(run, **more):
        run.workdir.mkdir(exist_ok=True)
        made.append(RunLog(run.workdir, 0))
        terminal = logs.Terminal(run.total, 0, "clips", run.batch_size)
        best = Best(run.workdir, run.config.training.keep_best)
        return Outputs(terminal, watch.Watch(), best, Clock(), made[-1], **more)

    yield make
    for log in made:
        log.close()


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_setup_knows_what_is_due_and_compiles_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "jit", lambda *_, **__: pytest.fail("compiled"))
    config = small_config()
    config.training.update(
        kclips=0.072, log_kclips=0.016, save_kclips=0.024, sample_kclips=0.0, watch_kclips=0.0
    )
    run = setup(config, tmp_path / "run")
    assert (run.total, run.batch_size, run.first_process) == (9, 8, True)
    assert run.every == {"log": 2, "save": 3, "sample": 9}
    due = {step: run.due(step) for step in range(1, 10)}
    assert {s: names for s, names in due.items() if names} == {
        2: {"log"}, 3: {"save"}, 4: {"log"}, 6: {"log", "save"}, 8: {"log"},
        9: {"log", "save", "sample"},
    }  # fmt: skip
    assert run.meta["classes"] == ["disc", "square"] and run.checkpoints.steps() == []
    assert jax.tree.leaves(run.abstract)[0].sharding is not None
    assert not (tmp_path / "run").exists()
    config.training.watch_kclips = 0.032
    assert setup(config, tmp_path).every["watch"] == 4


def test_a_call_of_several_steps_has_their_batches_stacked(tmp_path):
    run = setup(small_config(), tmp_path)
    some = [run.clips.take(0, 8), run.clips.take(8, 8)]
    one, two = run.call_batch(some[:1]), run.call_batch(some, stop=True)
    assert one["index"].shape == (8,) and "stop" not in two  # there is one process
    np.testing.assert_array_equal(two["index"], np.arange(16).reshape(2, 8))
    np.testing.assert_array_equal(two["video"][1], some[1]["video"])


def test_two_processes_tell_each_other_by_the_batch(tmp_path, monkeypatch):
    run = setup(small_config(), tmp_path)
    monkeypatch.setattr(type(run.placed), "host", (1, 2))
    batch = run.call_batch([run.clips.take(0, 4)], stop=True)
    assert batch["stop"].tolist() == [1] * 4 and not run.first_process


def metrics(skipped, loss=0.5):
    return {"skipped": np.float32(skipped), "gen/loss": np.float32(loss), "finite/gen": 1.0}


def pend(loop, values, step):
    loop.step = step
    index = np.arange(8 * (step - 1), 8 * step)
    loop.pending = Pending(step, index, values)


def test_skipped_steps_are_counted_recorded_and_end_at_three(tmp_path, outputs):
    run = setup(small_config(), tmp_path / "run")
    loop, out = LoopState(0, 0, None), outputs(run)
    assert check_pending(run, loop, out) == {}
    for step, skipped, row in ((1, 1, 1), (2, 1, 2), (3, 0, 0), (4, 1, 1), (5, 1, 2)):
        pend(loop, metrics(skipped, np.nan if skipped else 0.5), step)
        check_pending(run, loop, out)
        assert loop.skipped == row and loop.pending is None
    pend(loop, metrics(1, np.nan), 6)
    with pytest.raises(DivergedError, match=r"step 6 \(clips 40 to 47 .*gen/loss is nan"):
        check_pending(run, loop, out)
    events = read(run.workdir / "events.jsonl")
    assert [event["step"] for event in events] == [1, 2, 4, 5, 6]
    assert events[0]["skipped"] == ["gen/loss"]


def test_each_step_of_a_call_is_looked_at(tmp_path, outputs):
    config = small_config()
    config.parallel.dispatch = 2
    config.training.batch_size = 8
    run = setup(config, tmp_path / "run")
    loop, out = LoopState(0, 2, None), outputs(run)
    stacked = {"skipped": np.array([1.0, 0.0]), "gen/loss": np.array([np.nan, 0.25])}
    stacked["stop"] = np.array([0, 1])
    loop.pending = Pending(2, np.arange(16).reshape(2, 8), stacked)
    last = check_pending(run, loop, out)
    assert last["gen/loss"] == 0.25 and loop.skipped == 0 and loop.stopping
    assert [e["step"] for e in read(run.workdir / "events.jsonl")] == [1]


def test_after_a_step_nothing_is_due_nothing_is_done(tmp_path, outputs, state):
    config = small_config()
    config.training.update(log_kclips=0.016)
    run = setup(config, tmp_path / "run")
    loop, out = LoopState(0, 1, state), outputs(run)
    pend(loop, metrics(0), 1)
    after_step(run, loop, out)
    assert loop.pending is not None  # not waited for
    assert read(run.workdir / "metrics.jsonl") == [] and run.checkpoints.steps() == []


def test_after_a_step_what_is_due_is_logged_and_saved(tmp_path, outputs, state):
    seen = []
    run = setup(small_config(), tmp_path / "run")
    loop = LoopState(0, 2, state)
    out = outputs(run, progress=lambda *about: seen.append(about))
    pend(loop, metrics(0), 2)
    after_step(run, loop, out)
    run.checkpoints.close()
    (line,) = read(run.workdir / "metrics.jsonl")
    assert line["step"] == 2 and line["gen/loss"] == 0.5 and line["kclips"] == 0.016
    assert "finite/gen" not in line and loop.pending is None
    ((step, total, told),) = seen
    assert (step, total, told["gen/loss"]) == (2, 4, 0.5)
    again = restored(setup(small_config(), tmp_path / "run"))
    assert (again.first, again.step) == (2, 2)
    assert arrays_sha256(again.state) == arrays_sha256(state)


def test_after_a_step_a_signal_saves_and_stops(tmp_path, outputs, state):
    config = small_config()
    config.training.update(log_kclips=0.0, save_kclips=0.0)
    run = setup(config, tmp_path / "run")
    loop, out = LoopState(0, 1, state), outputs(run)
    pend(loop, metrics(0), 1)
    with pytest.raises(Preempted, match="SIGTERM: saved step 1 of 4"):
        after_step(run, loop, out, stop="SIGTERM")
    assert run.checkpoints.steps() == [1]
    run.checkpoints.close()


def test_a_state_that_broke_is_not_saved(tmp_path, state):
    run = setup(small_config(), tmp_path / "run")
    broken = state.replace(ema=jax.tree.map(lambda x: x * np.nan, state.ema))
    with pytest.raises(DivergedError, match="the state itself is not finite"):
        save(run, LoopState(0, 1, broken, skipped=1))
    assert run.checkpoints.steps() == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, trained from another thread as in a notebook: its workdir, result and progress."""
    workdir, seen, result = tmp_path_factory.mktemp("trained") / "run", [], []

    def work():
        result.append(
            vidgen.train(small_config(), workdir, progress=lambda *about: seen.append(about))
        )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return workdir, result[0], seen


def test_training_can_be_called_from_any_thread(trained):
    workdir, result, seen = trained
    assert result == read(workdir / "metrics.jsonl")[-1] and result["step"] == 4
    assert [(step, total) for step, total, _ in seen] == [(n, 4) for n in (1, 2, 3, 4)]
    assert all(np.isfinite(told["gen/loss"]) for _, _, told in seen)


def test_a_run_that_is_done_returns_its_last_metrics(trained):
    workdir, result, _ = trained
    assert vidgen.train(small_config(), workdir) == result


def test_a_run_begins_with_the_weights_of_another(trained, state, tmp_path, monkeypatch, capfd):
    workdir, _, _ = trained
    config = small_config()
    config.seed = 7  # other weights, were they not taken
    config.training.kclips = 0.008
    first = []

    def kept(*about):
        loop = initial(*about)
        first.append(jax.device_get(loop.state))
        return loop

    monkeypatch.setattr(train, "initial", kept)
    vidgen.train(config, tmp_path / "run", init_from=workdir)
    _, items, _ = Checkpoints(workdir / "checkpoints").restore(None)
    (begun,) = first
    same = lambda a, b: arrays_sha256(a) == arrays_sha256(b)  # noqa: E731
    assert same(begun.gen, items["ema"]) and same(begun.ema, items["ema"])
    assert same(begun.dis, items["train"]["dis"]) and not same(begun.gen, items["train"]["gen"])
    assert begun.step == 0 and same(begun.gen_opt, state.gen_opt)
    assert same(begun.dis_opt, state.dis_opt)
    said = capfd.readouterr().err
    assert f"begun from step 4 of {workdir}" in said and "not taken" not in said
    record = {"run": str(workdir), "step": 4}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["init_from"] == record
    saved = Checkpoints(tmp_path / "run" / "checkpoints")
    assert saved.meta(1)["init_from"] == record
    # Going on needs no flag, the same one does no harm, another one is refused.
    for init_from in (None, workdir):
        assert vidgen.train(config, tmp_path / "run", init_from=init_from)["step"] == 1
    with pytest.raises(ConfigError, match=f"began from {workdir}"):
        vidgen.train(config, tmp_path / "run", init_from=tmp_path)
    with pytest.raises(ConfigError, match="began from nothing"):
        vidgen.train(small_config(), workdir, init_from=tmp_path)
    with pytest.raises(StorageError, match="there is no run in"):
        vidgen.train(config, tmp_path / "other", init_from=tmp_path / "nowhere")


def test_a_start_that_was_killed_before_its_first_save_begins_the_same(trained, tmp_path):
    record = {"run": str(trained[0]), "step": 2}
    artifacts.write_json(tmp_path / "run.json", {"init_from": record})
    assert warm_start.source(tmp_path, None, begun=False) == record
    assert warm_start.source(tmp_path, trained[0], begun=False) == record
    (tmp_path / "run.json").write_text("{")
    assert warm_start.source(tmp_path, None, begun=False) is None


def test_what_does_not_fit_keeps_its_first_value_and_is_listed(trained, state):
    record = {"run": str(trained[0]), "step": 2}
    wider = state.replace(
        gen={**state.gen, "more": np.ones((3, 5), np.float32)},
        dis=jax.tree.map(lambda x: jax.numpy.zeros((*x.shape, 2)), state.dis),
    )
    wider = jax.tree.map(jax.numpy.asarray, wider)
    begun, found, left = warm_start.apply(wider, record)
    assert found == record
    assert "gen/more: not there, here 3x5" in left
    assert np.all(begun.gen["more"] == 1) and not any(map(np.any, jax.tree.leaves(begun.dis)))
    assert len(left) == 1 + len(jax.tree.leaves(state.dis))
    line = next(line for line in left if line.startswith("dis/"))
    old, new = line.split(": ")[1].split(", here ")
    assert new == ("2" if old == "one number" else f"{old}x2")
    with pytest.raises(StorageError, match="nothing of"):
        warm_start.apply(state.replace(gen={"x": wider.gen["more"]}, ema=None, dis=None), record)
