"""NaN and infinity, injected wherever a step computes: found, named, left out, never masked."""

import itertools

import jax
import jax.numpy as jnp
import optax
import pytest
from harness import (
    BATCH,
    PARTS,
    check_same_run,
    lines,
    parts,
    saved_parts,
    small_config,
)
from programs import keep_programs

from vidgen.data.stream import Clips
from vidgen.errors import DivergedError, Preempted
from vidgen.methods import gan
from vidgen.models import layers
from vidgen.run import train
from vidgen.runtime import devices
from vidgen.training import augment, averaging, losses, nonfinite, optimizers

# Where it is injected: what must be named first, as what the step computes first of it.
PLACES = {
    "data": "dis/real",
    "activations of the generator": "dis/fake",
    "activations of the discriminator": "dis/real",
    "penalty on real clips": "dis/r1",
    "penalty on generated clips": "dis/r2",
    "gradient of the discriminator": "dis/grad",
    "optimizer of the discriminator": "dis_opt",
    "parameters of the discriminator": "dis",
    "gradient of the generator": "gen/grad",
    "optimizer of the generator": "gen_opt",
    "parameters of the generator": "gen",
    "average": "ema",
}
NUMBERS = {"nan": jnp.nan, "inf": jnp.inf}
CODES = {
    (place, number): n + 1
    for n, (place, number) in enumerate((p, v) for p in PLACES for v in NUMBERS)
}
QUICK_CASES = [
    (place, ("nan", "inf")[n % 2])
    for n, place in enumerate(PLACES)
    if place.startswith(("data", "penalty on real", "gradient", "optimizer of the gen", "average"))
]


class Injection:
    """A training whose one program can inject at every place, as each batch says.

    Attributes:
      at: What is injected: `{step: (place, number)}`, steps counted from 0.
      poison: What befalls the state in memory before a step, once: `{step: state -> state}`.
      seen: For each step made: the digests of the state's parts before and after.
    """

    def __init__(self, monkeypatch, sabotage=""):
        self.at, self.poison, self.seen = {}, {}, {}
        self._code, self._calls = None, {}
        if sabotage:
            monkeypatch.setattr(nonfinite, "guarded", SABOTAGES[sabotage])
        keep_programs(monkeypatch, f"injected {sabotage}")

        def around(module, name, wrap):
            monkeypatch.setattr(module, name, wrap(getattr(module, name)))

        around(Clips, "take", self._mark)
        around(gan, "step", self._unmark)
        around(augment, "apply", self._data)
        around(averaging, "mean", self._gradients)
        around(losses, "critic_with_penalties", self._penalties)
        around(optimizers, "optimizer", self._optimizers)
        around(optimizers, "ema_decay", self._average)
        around(layers, "resize", self._activations("generator"))
        around(layers, "space_to_depth", self._activations("discriminator"))
        around(devices.Placement, "compile", self._watch)

    def _mark(self, take):
        def marked(clips, start, count):
            batch = take(clips, start, count)
            code = CODES.get(self.at.get(start // BATCH), 0)
            return {**batch, "fault": batch["index"] * 0 + code}

        return marked

    def _unmark(self, step):
        def unmarked(state, batch, **more):
            batch = dict(batch)
            self._code, self._calls = batch.pop("fault")[0], {}
            try:
                return step(state, batch, **more)
            finally:
                self._code = None  # samples are made of the same layers

        return unmarked

    def _data(self, apply):
        def applied(video, *about):
            made = apply(video, *about)
            real = self._count("augment") % 2 == 1  # generated, real
            return self._injected(made, "data") if real else made

        return applied

    def _gradients(self, mean):
        def averaged(*about, **more):
            (first, second, *rest), kept = mean(*about, **more)
            if self._count("mean") == 0:
                return (self._injected(first, "gradient of the discriminator"), second, *rest), kept
            return (first, self._injected(second, "gradient of the generator"), *rest), kept

        return averaged

    def _penalties(self, penalties):
        def penalized(*about, **more):
            real, fake, r1, r2 = penalties(*about, **more)
            r1 = self._injected(r1, "penalty on real clips")
            return real, fake, r1, self._injected(r2, "penalty on generated clips")

        return penalized

    def _optimizers(self, build):
        names = itertools.cycle(("generator", "discriminator"))

        def built(*about, **more):
            inner, which = build(*about, **more), next(names)

            def update(grads, state, params):
                updates, state = inner.update(grads, state, params)
                state = self._injected(state, f"optimizer of the {which}")
                return self._injected(updates, f"parameters of the {which}"), state

            return optax.GradientTransformation(inner.init, update)

        return built

    def _average(self, decay):
        return lambda *about: lambda step: self._injected(decay(*about)(step), "average")

    def _activations(self, which):
        def wrap(function):
            return lambda *about: self._injected(function(*about), f"activations of the {which}")

        return wrap

    def _watch(self, compiled):
        def watched(placement, *about):
            program = compiled(placement, *about)

            def run(state, batch):
                at = int(state.step)
                if at in self.poison:
                    state = self.poison.pop(at)(state)
                before = parts(state)
                state, metrics = program(state, batch)
                self.seen[at] = before, parts(state)
                return state, metrics

            return run

        return watched

    def _count(self, name):
        self._calls[name] = self._calls.get(name, 0) + 1
        return self._calls[name] - 1

    def _injected(self, tree, place):
        """Makes one number NaN or infinite in the largest array, where the batch says so."""
        if self._code is None:
            return tree
        factor = jnp.ones(())
        for number, value in NUMBERS.items():
            factor = jnp.where(self._code == CODES[place, number], value, factor)
        leaves, shape = jax.tree.flatten(tree)
        n = max(
            (n for n, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)),
            key=lambda n: leaves[n].size,
        )
        flat = jnp.ravel(leaves[n])
        leaves[n] = flat.at[0].multiply(factor).reshape(leaves[n].shape)
        return jax.tree.unflatten(shape, leaves)


def unguarded(step):
    """Sabotage: takes every update."""

    def run(state, batch, **more):
        state, metrics = step(state, batch, **more)
        return state, {**metrics, "skipped": jnp.zeros(())}

    return run


def masked(step):
    """Sabotage: puts zeros where something is not finite, and goes on as if all were well."""

    def run(state, batch, **more):
        state, metrics = jax.tree.map(jnp.nan_to_num, step(state, batch, **more))
        return state, {**metrics, "skipped": jnp.zeros(())}

    return run


def half_guarded(step):
    """Sabotage: looks at the losses alone."""

    def run(state, batch, **more):
        new, metrics = step(state, batch, **more)
        both = jnp.stack([metrics["dis/loss"], metrics["gen/loss"]])
        good = jnp.isfinite(both).all()
        old = state.replace(step=state.step + 1)
        return jax.lax.cond(good, lambda: new, lambda: old), {**metrics, "skipped": 1.0 - good}

    return run


SABOTAGES = {"unguarded": unguarded, "masked": masked, "half guarded": half_guarded}


def check_left_out(injection, workdir, place, number, capfd):
    """Checks that step 3 of 8 was left out, alone, that it was said and that it was recorded."""
    injection.at, injection.seen = {2: (place, number)}, {}
    train.train(small_config(), workdir)
    for at, (before, after) in injection.seen.items():
        for part in PARTS:
            assert (before[part] == after[part]) == (at == 2), (at, part)
    (event,) = lines(workdir / "events.jsonl")
    assert event["step"] == 3 and event["skipped"][0] == PLACES[place], event
    logged = lines(workdir / "metrics.jsonl")
    assert [line["step"] for line in logged] == list(range(1, 9))
    assert [line["skipped"] for line in logged] == [0, 0, 1, 0, 0, 0, 0, 0]
    said = capfd.readouterr().err
    assert f"step 3 (clips 4 to 5 of the stream): {PLACES[place]} is " in said, said
    # What was saved at step 4 is what the steps made, to the bit.
    assert saved_parts(workdir, 4) == (4, injection.seen[3][1])


@pytest.fixture
def injection(monkeypatch):
    return Injection(monkeypatch)


@pytest.mark.parametrize(("place", "number"), QUICK_CASES)
def test_what_is_not_finite_is_left_out(injection, tmp_path, place, number, capfd):
    check_left_out(injection, tmp_path / "run", place, number, capfd)


@pytest.mark.faults
@pytest.mark.parametrize(("place", "number"), sorted(set(CODES) - set(QUICK_CASES)))
def test_everything_that_is_not_finite_is_left_out(injection, tmp_path, place, number, capfd):
    check_left_out(injection, tmp_path / "run", place, number, capfd)


def test_a_run_replays_what_it_left_out_wherever_it_was_stopped(injection, tmp_path):
    """Stopped and gone on, before, at and after the fault: the same bits and the same record."""
    injection.at = {2: ("gradient of the generator", "nan"), 4: ("average", "inf")}
    train.train(small_config(), tmp_path / "whole")
    for stop in (2, 3, 4):
        workdir = tmp_path / f"stopped-{stop}"
        with pytest.raises(Preempted):
            train.train(small_config(), workdir, signals=StopAt(injection, stop))
        train.train(small_config(), workdir)
        check_same_run(workdir, tmp_path / "whole", 8)
        assert lines(workdir / "events.jsonl") == lines(tmp_path / "whole" / "events.jsonl")


class StopAt:
    """Signals of which one comes in a step."""

    def __init__(self, injection, step):
        self.injection, self.step = injection, step
        injection.seen = {}

    @property
    def received(self):
        return "SIGTERM" if len(self.injection.seen) >= self.step else ""


def test_three_in_a_row_twice_end_with_4(injection, tmp_path, capfd):
    injection.at = {at: ("gradient of the discriminator", "nan") for at in (2, 3, 4)}
    with pytest.raises(DivergedError, match="dis/grad is nan") as error:
        train.train(small_config(), tmp_path / "run")
    assert error.value.exit_code == 4 and "step 5" in str(error.value)
    assert capfd.readouterr().err.count("once more from the last checkpoint") == 1
    assert saved_parts(tmp_path / "run")[0] == 4
    # What counts is not lost where the run is stopped within the row.
    with pytest.raises(Preempted):
        train.train(small_config(), tmp_path / "stopped", signals=StopAt(injection, 4))
    with pytest.raises(DivergedError, match="step 5"):
        train.train(small_config(), tmp_path / "stopped")
    injection.at.pop(4)  # two in a row end nothing
    train.train(small_config(), tmp_path / "two")


def poisoned(part):
    """Returns what makes one number of a part of the state NaN, as a broken memory would."""

    def poison(state):
        leaves, shape = jax.tree.flatten(getattr(state, part))
        n = max(range(len(leaves)), key=lambda n: leaves[n].size)
        leaves[n] = leaves[n].at[(0,) * leaves[n].ndim].set(jnp.nan)
        return state.replace(**{part: jax.tree.unflatten(shape, leaves)})

    return poison


def check_poisoned(injection, folder, part, at, capfd):
    """Checks that a state broken in memory is never saved, and that the run recovers by itself."""
    injection.at = {}
    train.train(small_config(), folder / "whole")
    capfd.readouterr()
    injection.poison = {at: poisoned(part)}
    train.train(small_config(), folder / "run")
    assert "once more from the last checkpoint" in capfd.readouterr().err
    check_same_run(folder / "run", folder / "whole", 8)


@pytest.mark.parametrize(("part", "at"), [("dis_opt", 4), ("ema", 5)])
def test_a_state_that_broke_in_memory_is_taken_from_disk_again(
    injection, tmp_path, part, at, capfd
):
    check_poisoned(injection, tmp_path, part, at, capfd)


@pytest.mark.faults
@pytest.mark.parametrize("at", [3, 4, 6])
@pytest.mark.parametrize("part", PARTS)
def test_every_part_that_broke_in_memory_is_taken_from_disk_again(
    injection, tmp_path, part, at, capfd
):
    check_poisoned(injection, tmp_path, part, at, capfd)


@pytest.mark.parametrize(
    ("sabotage", "place"),
    [
        ("masked", "gradient of the generator"),
        pytest.param("unguarded", "average", marks=pytest.mark.faults),
        pytest.param("half guarded", "optimizer of the generator", marks=pytest.mark.faults),
    ],
)
def test_a_sabotaged_guard_is_seen(tmp_path, monkeypatch, sabotage, place, capfd):
    sabotaged = Injection(monkeypatch, sabotage)
    with pytest.raises((AssertionError, DivergedError)):
        check_left_out(sabotaged, tmp_path / "run", place, "nan", capfd)
