"""Where the time goes: step, loader and sampler, against the machine's own matrix-product rate."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vidgen import config as configs
from vidgen import logs, models, parallel, sampling, train


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


def ceiling(seconds: float = 3.0, size: int = 1536) -> float:
    """Returns the rate of a float32 matrix product on the first device, in FLOP/s."""
    left = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / best(lambda: product(left), seconds)


def flops(compiled: Any) -> float:
    """Returns the operations that the compiler counts in a program."""
    return float(compiled.cost_analysis().get("flops", 0.0))


def bench(config: configs.Config, seconds: float = 3.0) -> dict[str, float]:
    """Measures a config on the devices at hand and prints a table.

    Args:
      config: What to measure.
      seconds: How long each of the smaller parts is measured; the step three times as long.

    Returns:
      Rates by name: `matmul`, `step`, `sampler` in FLOP/s; `step_clips`, `loader_clips` and
      `sampler_frames` per second.
    """
    with logs.bar() as progress:
        store, clips = train.open_clips(config, progress)
    experiment = train.build(config, len(store.classes))
    batch_size = config.training.batch_size
    top = ceiling(seconds)
    print(f"{'matrix product':16s}{top / 1e9:26.0f} GFLOP/s  (1536 x 1536, float32)")

    step, put_state, put_batch = parallel.place(
        experiment.step, config.parallel.mode, batch_size=batch_size
    )
    state = put_state(jax.jit(functools.partial(experiment.init, config.seed))())
    batch = put_batch(clips.take(0, batch_size))
    count = flops(step.lower(state, batch).compile())

    def one():
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    took = best(one, 3 * seconds)
    result = {"matmul": top, "step": count / took, "step_clips": batch_size / took}
    _line("step", batch_size / took, "clips/s", count / took, top)

    stream = clips.batches(batch_size)
    next(stream)
    start, seen = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(stream)
        seen += batch_size
    stream.close()
    result["loader_clips"] = seen / (time.perf_counter() - start)
    share = result["step_clips"] / result["loader_clips"]
    print(
        f"{'loader':16s}{result['loader_clips']:10.1f} clips/s  ({share:.1%} of it feeds the step)"
    )

    sampler = sampling.sampler(
        models.build(models.GENERATORS, **experiment.generator),
        state.ema,
        {"classes": store.classes, "fps": store.fps},
        0,
    )
    frames = sampler.batch * sampler.chunk
    latents = sampler.latents(range(sampler.batch), sampler.chunk)
    program = sampling.decode_program(sampler.generator, sampler.chunk)
    noise = [latents[name] for name in ("content", "motion", "cycle")]
    noise += [jnp.zeros((), jnp.int32), latents["label"]]
    count = flops(program.lower(sampler.params, *noise).compile())
    took = best(lambda: sampler.decode(latents, sampler.chunk), seconds)
    result |= {"sampler": count / took, "sampler_frames": frames / took}
    _line("sampler", frames / took, "frames/s", count / took, top)
    return result


def _line(name: str, rate: float, unit: str, speed: float, top: float) -> None:
    print(
        f"{name:16s}{rate:10.1f} {unit:8s}{speed / 1e9:8.0f} GFLOP/s  "
        f"{speed / top:.0%} of the matrix product's"
    )
