"""Where the time goes: step by part, loader and sampler, against what the machine can do.

Two measures stand beside a step: the rate of one large matrix product, which nothing exceeds, and
what the step's own convolutions and products take, each run alone: what is lost beyond that is
lost to everything else.
"""

import functools
import json
import pathlib
import platform
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend import core

from vidgen import config as configs
from vidgen import methods, sampling
from vidgen.errors import ConfigError
from vidgen.run import artifacts, logs, setup
from vidgen.runtime import devices
from vidgen.video import atomic

PRODUCTS = ("conv_general_dilated", "dot_general")


def best(run: Callable[[], Any], seconds: float = 3.0, least: int = 3) -> float:
    """Returns the shortest time in seconds of several runs, each waited for."""
    jax.block_until_ready(run())
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times)


def ceiling(seconds: float = 3.0, size: int = 1536, dtype: str = "float32") -> float:
    """Returns the rate of a square matrix product on the first device, in FLOP/s."""
    left = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / best(lambda: product(left), seconds)


def flops(compiled: Any) -> float:
    """Returns the operations that the compiler counts in a program."""
    return float(compiled.cost_analysis().get("flops", 0.0))


def alone(step: Callable, *arguments: Any, seconds: float = 0.05) -> dict[str, tuple[float, float]]:
    """Runs every convolution and matrix product of a function alone, each as its own program.

    Args:
      step: A function that JAX can trace.
      arguments: Its arguments, or their shapes.
      seconds: How long each different one is measured.

    Returns:
      `(seconds, operations)`, summed by the Flax module that they belong to.
    """
    found: dict[str, tuple[Any, dict[str, int]]] = {}
    for equation, module, times in _products(jax.make_jaxpr(step)(*arguments).jaxpr, 1):
        shapes = [str(v.aval) for v in equation.invars]
        _, counts = found.setdefault(
            f"{equation.primitive} {shapes} {equation.params}", (equation, {})
        )
        counts[module] = counts.get(module, 0) + times
    sums: dict[str, tuple[float, float]] = {}
    for equation, counts in found.values():
        program = jax.jit(functools.partial(equation.primitive.bind, **equation.params))
        given = [jnp.ones(v.aval.shape, v.aval.dtype) for v in equation.invars]
        compiled = program.lower(*given).compile()
        took = best(functools.partial(compiled, *given), seconds)
        for module, times in counts.items():
            before = sums.get(module, (0.0, 0.0))
            sums[module] = before[0] + times * took, before[1] + times * flops(compiled)
    return sums


def _products(jaxpr: Any, times: int) -> Iterator[tuple[Any, str, int]]:
    """Yields the convolutions and products of a jaxpr, whose they are and how often each runs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            stack = str(equation.source_info.name_stack)  # as in transpose(jvp(Net))/level0/in
            modules = re.findall(r"[A-Z]\w*", stack)
            yield equation, modules[0] if modules else "others", times
        length = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in core.jaxprs_in_params(equation.params):
            yield from _products(inner, times * length)


def bench(
    config: configs.Config,
    seconds: float = 3.0,
    path: str | pathlib.Path | None = None,
    quick: bool = False,
    sampler: bool = False,
) -> dict[str, float]:
    """Measures a config on the devices at hand and prints a table.

    Args:
      config: What to measure.
      seconds: How long each of the smaller parts is measured; the step three times as long.
      path: A JSON file to write the figures to, that a later measurement can be compared with.
      quick: The step as a whole, and nothing else.
      sampler: The sampler, and nothing else.

    Returns:
      Rates by name: `matmul`, `step` and `sampler` in FLOP/s; `step_clips`, `loader_clips`,
      `sampler_frames` and `stream_frames` (of one video that goes on) per second; in seconds,
      `step/<part>`: `whole`, `bare` (without penalties), `optimizer` (all updates and the average,
      alone), `products` (all convolutions and products, each alone) and `products/<module>`;
      `step_bytes`, the temporary memory of a step on a device.
    """
    if path is not None:
        atomic.check_place(path)
    setup.check_room(config, methods.experiment(config, 2))
    with logs.bar() as progress:
        store, clips = artifacts.open_clips(config, progress)
    experiment = methods.experiment(config, clips.labels)
    batch_size = config.training.batch_size
    result: dict[str, float] = {"matmul": ceiling(seconds, dtype=config.parallel.compute)}
    top = result["matmul"]
    kind = f"(1536 x 1536, {config.parallel.compute})"
    print(f"{'matrix product':16s}{top / 1e9:26.0f} GFLOP/s  {kind}")

    placed = setup.placement(config, experiment.together)
    if sampler:
        ema = placed.whole_copy(placed.init(experiment.init, config.seed).ema)
        result |= _sampler(experiment, ema, store, top, seconds)
        _write(path, result, placed, config)
        return result
    one = devices.numeric(setup.conditioned(experiment, clips.take(0, batch_size)))
    batch = placed.put(_call(one, placed.dispatch))

    def timed(step):
        state = placed.init(experiment.init, config.seed)
        program = placed.compile(step, state, batch)

        def run():
            nonlocal state
            state, metrics = program(state, batch)
            return metrics

        run()  # compiled by now, in every mode
        return best(run, 3 * seconds) / placed.dispatch, state, program

    took, state, program = timed(experiment.step)
    result |= {"step/whole": took, "step_clips": batch_size / took}
    if config.parallel.mode != "pmap":  # whose programs cannot be asked
        count = flops(program) * placed.mesh.size / placed.dispatch
        result |= {"step": count / took}
        result |= {"step_bytes": float(program.memory_analysis().temp_size_in_bytes)}
        _line("step", batch_size / took, "clips/s", count / took, top)
        print(f"  {1000 * took:8.1f} ms, {result['step_bytes'] / 1e6:.0f} MB beside the state")
    else:
        print(f"{'step':16s}{batch_size / took:10.1f} clips/s")
    if not quick:
        result |= _step_parts(experiment, state, one, timed, took, seconds)
        result |= _loader(clips, batch_size, batch_size / took, seconds)
        result |= _sampler(experiment, placed.whole_copy(state.ema), store, top, seconds)
    _write(path, result, placed, config)
    return result


def _write(path, figures, placed, config) -> None:
    if path is None:
        return
    device = jax.devices()[0].device_kind
    facts = {"device": device, "devices": placed.mesh.size, "python": platform.python_version()}
    facts |= {"jax": jax.__version__, "config": configs.to_json(config)}
    artifacts.write_json(pathlib.Path(path), {"figures": figures, **facts})


def _step_parts(experiment, state, batch, timed, took, seconds) -> dict[str, float]:
    bare = experiment.steps.get("bare")
    others = {"bare": timed(bare)[0]} if bare else {}
    products = alone(experiment.step, state, batch)
    parts = {
        **others,
        "optimizer": best(functools.partial(_update(experiment), state), seconds),
        "products": sum(seconds for seconds, _ in products.values()),
        **{f"products/{name}": seconds for name, (seconds, _) in sorted(products.items())},
    }
    if others:
        print(f"  {1000 * others['bare']:8.1f} ms {others['bare'] / took:5.0%}  without penalties, "
              f"which make it {took / others['bare']:.2f} times as long")  # fmt: skip
    for name, value in parts.items():
        if name != "bare":
            print(f"  {1000 * value:8.1f} ms {value / took:5.0%}  {name}, alone")
    return {f"step/{name}": value for name, value in parts.items()}


def _loader(clips, batch_size, needed, seconds) -> dict[str, float]:
    stream = clips.batches(batch_size)
    next(stream)
    start, seen = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(stream)
        seen += batch_size
    stream.close()
    rate = seen / (time.perf_counter() - start)
    print(f"{'loader':16s}{rate:10.1f} clips/s  ({needed / rate:.1%} of it feeds the step)")
    return {"loader_clips": rate}


def _sampler(experiment, ema, store, top, seconds) -> dict[str, float]:
    meta = {"generator": experiment.generator, "classes": store.classes, "fps": store.fps}
    sampler = sampling.from_weights(ema, meta, 0)
    frames = sampler.batch * sampler.chunk
    if sampler.generator.recurrent:
        # A chunk that goes on from the one before; its operations are those of several programs.
        latents = sampler.latents(range(sampler.batch), sampler.chunk, sampler.chunk)
        took = best(lambda: sampler.decode(latents, sampler.chunk, sampler.chunk), seconds)
        print(f"{'sampler':16s}{frames / took:10.1f} frames/s  in batches of {sampler.batch}")
        found = {"sampler_frames": frames / took}
    else:
        latents = sampler.latents(range(sampler.batch), sampler.chunk)
        decode = sampling.programs.decode(sampler.generator, sampler.chunk)
        noise = [latents[name] for name in ("content", "motion", "cycle")]
        noise += [jnp.zeros((), jnp.int32), latents["label"]]
        count = flops(decode.lower(sampler.params, *noise).compile())
        took = best(lambda: sampler.decode(latents, sampler.chunk), seconds)
        _line("sampler", frames / took, "frames/s", count / took, top)
        found = {"sampler": count / took, "sampler_frames": frames / took}
    if sampler.limit:
        return found
    stream = sampling.from_weights(ema, meta, 0, batch=1).stream(0)
    some = lambda: [next(stream) for _ in range(sampler.chunk)]  # noqa: E731
    some()  # compiled by now
    took = best(some, seconds)
    print(f"{'stream':16s}{sampler.chunk / took:10.1f} frames/s  one video")
    return {**found, "stream_frames": sampler.chunk / took}


def read_figures(path: str | pathlib.Path) -> dict[str, float]:
    """Reads the figures from a JSON file that `bench` wrote.

    Raises:
      ConfigError: There is no such file, or it is of another kind.
    """
    try:
        read = json.loads(pathlib.Path(path).read_text())["figures"]
        return {str(name): float(value) for name, value in read.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        kind = type(error).__name__
        raise ConfigError(
            f"--against={path} holds no figures of bench ({kind}: {error})",
            "a file that bench --json=FILE wrote",
        ) from error


def compare(old: str | pathlib.Path, new: dict[str, float]) -> None:
    """Prints how figures have changed since those in a JSON file that `bench` wrote."""
    before = read_figures(old)
    for name in sorted(before.keys() & new.keys()):
        print(f"{name:24s}{before[name]:14.4g}{new[name]:14.4g}{new[name] / before[name]:8.2f}x")


def _call(batch: dict[str, Any], dispatch: int) -> dict[str, Any]:
    if dispatch == 1:
        return batch
    return {name: jnp.stack([jnp.asarray(x)] * dispatch) for name, x in batch.items()}


def _update(experiment: setup.Experiment) -> Callable:
    """Returns a program that applies all optimizers and the average, to no purpose."""

    @jax.jit
    def update(state):
        new = {}
        for name, tx in experiment.optimizers.items():
            parts = vars(state)
            params = parts[name]
            slopes, new[name] = tx.update(params, parts[f"{name}_opt"], params)
            new[name] = optax.apply_updates(params, slopes), new[name]
        return new, jax.tree.map(lambda e, p: e + 0.1 * (p - e), state.ema, state.gen)

    return update


def _line(name: str, rate: float, unit: str, speed: float, top: float) -> None:
    print(
        f"{name:16s}{rate:10.1f} {unit:8s}{speed / 1e9:8.0f} GFLOP/s  "
        f"{speed / top:.0%} of the matrix product's"
    )
