"""What a config describes, built: pure functions of a state and a batch.

The last place that sees a config: below it, functions take plain keyword arguments.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from vidgen import config as configs
from vidgen import methods, models
from vidgen.errors import ConfigError
from vidgen.training import nonfinite, optimizers


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A training.

    Attributes:
      generator: Arguments that `models.build` makes the generator from; JSON data.
      init: `init(seed) -> state`.
      steps: By kind, `step(state, batch, *, mean) -> (state, metrics)`, the fullest first; they
        take no update that is not finite.
      kind: Which of them a step is, by its number.
      optimizers: By the part of the state that each updates.
      total: Steps of the whole training.
      alone: Clips that must be computed together, or 0: where statistics are of the whole batch.
    """

    generator: dict[str, Any]
    init: Callable[[int], Any]
    steps: dict[str, Callable]
    kind: Callable[[int], str]
    optimizers: dict[str, Any]
    total: int
    alone: int = 0

    @property
    def step(self) -> Callable:
        """The fullest of the steps."""
        return next(iter(self.steps.values()))


def build(config: configs.Config, classes: int) -> Experiment:
    """Builds the experiment of a config.

    Args:
      config: A config that `vidgen.config.validate` took.
      classes: Number of classes of the data; 1 or 0 for none.

    Raises:
      ConfigError: The models cannot be built from their arguments.
    """
    return _METHODS[config.method](config, classes if classes > 1 else 0)


def _gan(config: configs.Config, classes: int) -> Experiment:
    gen_arguments, gen, dis = _players(config, classes)
    _check_fold(config, dis)
    data, objective = config.data, config.objective
    method, parts = _module(config), {"gen": gen, "dis": dis, **_two(config)}
    interval, each = objective.penalty_interval, objective.discriminator_steps
    schedule = functools.partial(_schedule, config)
    step = functools.partial(
        method.step,
        **parts,
        loss=objective.loss,
        r1=optimizers.times(interval, schedule(objective.r1)),
        r2=optimizers.times(interval, schedule(objective.r2)),
        pick=data.pick,
        sigma=objective.penalty_sigma,
        ema_decay=_average(config),
        augment_p=schedule(objective.augment_p),
        augmentations=tuple(objective.augmentations),
        mismatch=schedule(objective.mismatch)
        if objective.mismatch.start or objective.mismatch.end
        else None,
    )

    def kind(at):
        words = ["" if at % interval == 0 else "bare", "" if (at + 1) % each == 0 else "dis"]
        return " ".join(filter(None, words)) or "whole"

    found = {
        name: {"penalize": "bare" not in name, "play": "dis" not in name}
        for name in ("whole", "bare", "dis", "bare dis")
    }
    init = functools.partial(method.init, **parts, frames=data.frames, pick=data.pick)
    return Experiment(
        generator=gen_arguments,
        init=functools.partial(init, normalize=objective.spectral),
        steps={n: nonfinite.guarded(functools.partial(step, **how)) for n, how in found.items()},
        kind=kind,
        optimizers={"gen": parts["gen_tx"], "dis": parts["dis_tx"]},
        total=_total(config),
    )


def _mocogan(config: configs.Config, classes: int) -> Experiment:
    gen_arguments, gen, dis = _players(config, classes)
    least = 3 * ((config.data.size // 4).bit_length() - 1) + 1
    if config.data.frames < least:
        raise ConfigError(
            f"config.data.frames is {config.data.frames}",
            f"at least {least}: each of the video discriminator's levels takes 3 frames away",
        )
    if config.data.pick:
        raise ConfigError(f"config.data.pick is {config.data.pick}", "0: clips are judged whole")
    method, parts = _module(config), {"gen": gen, "dis": dis, **_two(config)}
    objective = config.objective
    step = functools.partial(
        method.step,
        **parts,
        loss=objective.loss,
        clip_every=objective.clip_every,
        categories=objective.categories,
        infogan=objective.infogan,
        ema_decay=_average(config),
    )
    return Experiment(
        generator=gen_arguments,
        init=functools.partial(method.init, **parts, frames=config.data.frames),
        steps={"whole": nonfinite.guarded(step)},
        kind=lambda at: "whole",
        optimizers={"gen": parts["gen_tx"], "dis": parts["dis_tx"]},
        total=_total(config),
        alone=_alone(config, gen, dis),
    )


def _dcgan(config: configs.Config, classes: int) -> Experiment:
    frames = config.data.frames
    gen_arguments, gen, dis = _players(config, classes, length=frames)
    if config.data.pick:
        raise ConfigError(f"config.data.pick is {config.data.pick}", "0: clips are judged whole")
    method, parts = _module(config), {"gen": gen, "dis": dis, **_two(config)}
    each = config.objective.discriminator_steps
    step = functools.partial(
        method.step, **parts, loss=config.objective.loss, ema_decay=_average(config)
    )
    init = functools.partial(method.init, **parts, frames=frames)
    return Experiment(
        generator=gen_arguments,
        init=functools.partial(init, normalize=config.objective.spectral),
        steps={
            name: nonfinite.guarded(functools.partial(step, play=name == "whole"))
            for name in ("whole", "dis")
        },
        kind=lambda at: "dis" if (at + 1) % each else "whole",
        optimizers={"gen": parts["gen_tx"], "dis": parts["dis_tx"]},
        total=_total(config),
        alone=_alone(config, gen, dis),
    )


def _vae(config: configs.Config, classes: int) -> Experiment:
    arguments, gen = _generator(config, classes)
    method, objective, pick = _module(config), config.objective, config.data.pick
    parts, judge = {"gen": gen, "gen_tx": _optimizer(config)}, {}
    if objective.adversarial:
        dis = _discriminator(config, classes)
        _check_fold(config, dis)
        parts |= {"dis": dis, "dis_tx": _two(config)["dis_tx"]}
        judge = {name: _schedule(config, objective[name]) for name in ("r1", "r2")}
        judge |= {"adversarial": objective.adversarial, "loss": objective.loss}
    step = functools.partial(
        method.step,
        **parts,
        **judge,
        reconstruction=objective.reconstruction,
        scale=objective.scale,
        beta=_schedule(config, objective.beta),
        pick=pick,
        ema_decay=_average(config),
    )
    return Experiment(
        generator=arguments,
        init=functools.partial(method.init, **parts, frames=config.data.frames, pick=pick),
        steps={"whole": nonfinite.guarded(step)},
        kind=lambda at: "whole",
        optimizers={name[:3]: tx for name, tx in parts.items() if name.endswith("_tx")},
        total=_total(config),
    )


def _autoregressive(config: configs.Config, classes: int) -> Experiment:
    for role in config.parallel.remat:
        _again(config, role)
    gen_arguments, gen = _generator(config, classes)
    data, objective, total = config.data, config.objective, _total(config)
    if gen.window > data.frames:
        raise ConfigError(
            f"config.generator.window is {gen.window}", f"at most data.frames={data.frames}"
        )
    # Each phase has its own optimizer, whose schedules count the steps of that phase.
    border, batch_size = _steps(config, objective.codes_kclips), config.training.batch_size
    if border % config.parallel.dispatch:
        raise ConfigError(
            f"config.objective.codes_kclips is {border} steps",
            f"set it to a multiple of config.parallel.dispatch={config.parallel.dispatch}",
        )
    txs = {
        "codes_tx": _optimizer(config, rate="codes_learning_rate", total=border),
        "prior_tx": _optimizer(config, total=max(total - border, 1)),
    }
    method, average = _module(config), _average(config)
    codes = functools.partial(
        method.codes_step,
        gen=gen,
        codes_tx=txs["codes_tx"],
        distance=objective.distance,
        commitment=objective.commitment,
        book_decay=0.5 ** (batch_size / max(1000 * objective.book_kclips, 1e-6)),
        revive=objective.revive,
        batch_size=batch_size,
        pick=data.pick,
    )
    prior = functools.partial(
        method.prior_step,
        gen=gen,
        prior_tx=txs["prior_tx"],
        ema_decay=lambda step: average(step - border),
    )
    return Experiment(
        generator=gen_arguments,
        init=functools.partial(method.init, gen=gen, **txs),
        steps={"prior": nonfinite.guarded(prior), "codes": nonfinite.guarded(codes)},
        kind=lambda at: "codes" if at < border else "prior",
        optimizers={},
        total=total,
    )


_METHODS = {
    "gan": _gan,
    "mocogan": _mocogan,
    "dcgan": _dcgan,
    "vae": _vae,
    "autoregressive": _autoregressive,
}


def _module(config: configs.Config) -> Any:
    return methods.module(config.method)


def _alone(config: configs.Config, *networks: Any) -> int:
    """Returns the clips whose statistics are of the whole batch; 0 where of none."""
    return config.training.batch_size if any(one.whole_batch for one in networks) else 0


def _players(config: configs.Config, classes: int, **more) -> tuple[dict[str, Any], Any, Any]:
    """Builds generator and discriminator; the former's arguments come first."""
    return *_generator(config, classes, **more), _discriminator(config, classes, **more)


def _generator(config: configs.Config, classes: int, **more) -> tuple[dict[str, Any], Any]:
    arguments = {**config.generator.to_dict(), **_shared(config, classes), **more}
    return arguments, models.build(models.GENERATORS, **arguments, **_again(config, "generator"))


def _discriminator(config: configs.Config, classes: int, **more) -> Any:
    arguments = {**config.discriminator.to_dict(), **_shared(config, classes), **more}
    return models.build(models.DISCRIMINATORS, **arguments, **_again(config, "discriminator"))


def _shared(config: configs.Config, classes: int) -> dict[str, Any]:
    return {"size": config.data.size, "classes": classes, "dtype": config.parallel.compute}


def _check_fold(config: configs.Config, dis: Any) -> None:
    """Refuses clips that the discriminator cannot fold."""
    data = config.data
    if (data.pick or data.frames) % dis.fold:
        name = "pick" if data.pick else "frames"
        raise ConfigError(
            f"config.data.{name} is {data[name]}, not a multiple of "
            f"config.discriminator.fold, {dis.fold}"
        )


def _again(config: configs.Config, role: str) -> dict[str, Any]:
    """Returns the argument of a network that `parallel.remat` names."""
    if role not in config.parallel.remat:
        return {}
    registry = models.GENERATORS if role == "generator" else models.DISCRIMINATORS
    kind = config[role].kind if role in config else "none"
    if not hasattr(registry.get(kind), "remat"):
        raise ConfigError(
            f"config.parallel.remat names {role!r}, whose kind is {kind!r}",
            "leave it out: that kind cannot compute its features again",
        )
    return {"remat": True}


def _two(config: configs.Config) -> dict[str, Any]:
    """Makes the optimizers of two players."""
    times = config.optimizer.discriminator_rate
    return {"gen_tx": _optimizer(config), "dis_tx": _optimizer(config, times)}


def _optimizer(
    config: configs.Config,
    times: float | None = None,
    rate: str = "learning_rate",
    total: int | None = None,
) -> Any:
    """Makes an optimizer.

    Args:
      config: The run's.
      times: The learning rate is multiplied by it.
      rate: Field of the learning rate.
      total: Updates that schedules go over; None: the whole training.
    """
    asked = config.optimizer
    warmup = _steps(config, asked.warmup_kclips) if asked.warmup_kclips else 0
    schedule = functools.partial(_schedule, config, total=total)
    along = optimizers.warmup(schedule(asked[rate]), warmup)
    return optimizers.build(
        asked.name,
        learning_rate=along if times is None else optimizers.times(times, along),
        b1=asked.b1,
        b2=schedule(asked.b2),
        weight_decay=asked.weight_decay,
        l2=asked.l2,
        clip=asked.clip,
    )


def _average(config: configs.Config) -> Any:
    training = config.training
    return optimizers.ema_decay(training.ema_kclips, training.ema_rampup, training.batch_size)


def _schedule(config: configs.Config, spec: configs.Config, total: int | None = None) -> Any:
    over = _steps(config, spec.kclips) if spec.kclips else total or _total(config)
    return optimizers.cosine(spec.start, spec.end, over)


def _total(config: configs.Config) -> int:
    return _steps(config, config.training.kclips)


def _steps(config: configs.Config, kclips: float) -> int:
    return configs.steps(kclips, config.training.batch_size)
