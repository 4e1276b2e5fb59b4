"""What the start of any run needs, and what every run writes beside its checkpoints."""

import importlib.metadata
import json
import logging
import os
import pathlib
import platform
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

import vidgen
from vidgen import config as configs
from vidgen import methods, sampling
from vidgen.data.pack import Pack, open_store
from vidgen.data.settings import pack_settings
from vidgen.data.stream import Clips, choose_stride, describe_choice
from vidgen.data.toy import ToySource
from vidgen.errors import ConfigError, DataError
from vidgen.models import conditions
from vidgen.run import logs, watch
from vidgen.run.metrics_log import RunLog
from vidgen.video import atomic, layout, writing

_LOG = logging.getLogger("vidgen")


def write_json(path: pathlib.Path, data: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all.

    Raises:
      FullDisk: The disk is full.
      StorageError: The folder cannot be written.
    """
    atomic.make_way(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with atomic.storage(path):
        try:
            temporary.write_text(json.dumps(data, indent=2) + "\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def open_clips(
    config: configs.Config, progress: Callable | None = None
) -> tuple[Pack | ToySource, Clips]:
    """Opens the clips that a config names, packing them if need be.

    Returns:
      The store (its `classes`, `fps`, `fingerprint`, `skipped`) and the endless stream of clips.

    Raises:
      DataError: No clip can be used.
    """
    data = config.data
    store = open_store(
        data.path,
        pack_settings(data),
        toy_frames=(data.frames - 1) * max(data.stride, 1) + 1,
        cache=data.cache or None,
        strict=data.strict,
        workers=data.workers,
        progress=progress,
    )
    clips = Clips(
        store,
        frames=data.frames,
        stride=data.stride,
        seed=config.seed,
        flip=data.flip,
        short=data.short,
        looks=data.get("looks", 1),
    )
    if data.stride == 0:
        lengths, fps = np.asarray(store.lengths), store.fps
        logs.say(describe_choice(lengths, fps, data.frames, clips.stride, data.short))
    if len(clips.skipped):
        names = store.names if isinstance(store, Pack) else range(len(store))
        some = ", ".join(str(names[n]) for n in clips.skipped[:3].tolist())
        _LOG.warning(
            "%d of %d clips are shorter than a window of data.frames=%d, data.stride=%d and are "
            "left out (%s%s); data.short=loop would repeat them",
            len(clips.skipped), len(store), data.frames, clips.stride,
            some, ", ..." if len(clips.skipped) > 3 else "",
        )  # fmt: skip
    return store, clips


def clips_to_show(
    config: configs.Config,
    path: str,
    classes: tuple[str, ...],
    count: int,
    progress: Callable | None = None,
) -> tuple[np.ndarray, list[str] | None]:
    """Reads the first clips of a source: the videos and classes of `batch_to_show`."""
    batch, names = batch_to_show(config, path, classes, count, progress)
    return batch["video"], names


def batch_to_show(
    config: configs.Config,
    path: str,
    classes: tuple[str, ...],
    count: int,
    progress: Callable | None = None,
) -> tuple[dict[str, np.ndarray], list[str] | None]:
    """Reads the first clips of a source as a run's training reads its own, but none is changed.

    Args:
      config: The run's; it is left as it is.
      path: Of the clips.
      classes: Of the run.
      count: How many; fewer where there are not as many.
      progress: `(done, total, text)`.

    Returns:
      `video` uint8 `[N, T, H, W, 3]` and what else is known of the clips, and the name of each
      clip's class; None where the run has no classes or not all of those.

    Raises:
      DataError: No clip can be used.
    """
    config = configs.from_json(configs.to_json(config))
    config.data.path = path
    for name, plain in (("flip", False), ("looks", 1)):
        if name in config.data:
            config.data[name] = plain
    store, clips = open_clips(config, progress)
    batch = clips.first(count)
    label = batch.get("label")
    known = bool(classes) and label is not None and set(store.classes) <= set(classes)
    names = [store.classes[n] for n in np.asarray(label)] if known else None
    return batch, names


def meta(
    config: configs.Config, generator: dict[str, Any], store: Pack | ToySource, clips: Clips
) -> dict[str, Any]:
    """Returns what is kept with each checkpoint; JSON data.

    Args:
      config: The run's.
      generator: Arguments that `methods.generator` makes the generator from.
      store: The clips.
      clips: The stream of them.
    """
    return {
        "config": configs.to_json(config),
        "generator": generator,
        "classes": list(store.classes),
        "looks": [list(sizes) for sizes in clips.looks],
        "fps": config.sampling.fps or store.fps,
        "stride": config.data.stride
        or choose_stride(np.asarray(store.lengths), store.fps, config.data.frames),
        "fingerprint": store.fingerprint,
        "vidgen": vidgen.__version__,
    }


def facts(store: Pack | ToySource, clips: Clips) -> dict[str, Any]:
    """Returns what run.json says of the machine and the clips."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "av")
    return {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "devices": [str(d.device_kind) for d in jax.devices()],
        "clips": len(store),
        "windows": clips.windows,
        "short": len(clips.skipped),
        "skipped": [list(pair) for pair in store.skipped],
    }


def check_same(saved: dict[str, Any], now: dict[str, Any], workdir: pathlib.Path) -> None:
    """Refuses to go on with a run whose result the new config or data would change.

    Fields that this version has no more are not compared; those that the version that saved the run
    had not yet are taken for their defaults.

    Raises:
      ConfigError: The config would change the result.
      DataError: The clips have changed.
    """
    free = methods.free_fields(now["config"]["method"])
    changed = [
        f"config.{name} was {old!r}, is {new!r}"
        for name, old, new in _changes(saved["config"], now["config"])
        if name not in free
    ]
    if changed:
        raise ConfigError(
            f"the run in {workdir} has another config: " + "; ".join(changed),
            "set them back, or name a new --workdir",
        )
    if saved["fingerprint"] != now["fingerprint"]:
        raise DataError(
            f"the clips of the run in {workdir} have changed since it began: "
            f"fingerprint {saved['fingerprint'][:12]}, now {now['fingerprint'][:12]}",
            "bring the old clips back, or name a new --workdir",
        )


def _changes(saved: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yields `(field, old value, new value)` of what both versions know, or have a default for."""
    old, new = (configs.flatten(configs.from_json(data)) for data in (saved, now))
    known = methods.fields(configs.from_json(now))
    defaults = {name: field.default for name, field in known.items()}
    for role in ("generator", "discriminator"):
        # Runs of methods that are fitted at once had the GAN's networks in their config once.
        if old.get(f"{role}.kind") not in methods.networks(role, now["method"]):
            old = {n: value for n, value in old.items() if not n.startswith(f"{role}.")}
            new = {n: value for n, value in new.items() if not n.startswith(f"{role}.")}
    for name in sorted(old.keys() | new.keys()):
        if name in old and name not in new and name not in defaults:
            continue  # this version has no such field
        before, after = (fields.get(name, defaults.get(name)) for fields in (old, new))
        if before != after:
            yield name, before, after


def sample_path(workdir: pathlib.Path, step: int, suffix: str) -> pathlib.Path:
    """Returns where the samples of a step are."""
    return workdir / "samples" / f"step-{step:08d}{suffix}"


def write_samples(
    workdir: pathlib.Path,
    config: configs.Config,
    sampler: sampling.Sampler,
    log: RunLog,
    clips: Clips | None = None,
) -> None:
    """Writes sample videos, always of the same seeds, as MP4, PNG and to TensorBoard.

    A generator that has conditions is asked for what the first clips of the stream are.

    Raises:
      FullDisk: The disk is full.
      StorageError: The folder cannot be written.
    """
    frames = min(config.sampling.frames, sampler.limit or config.sampling.frames)
    condition, count = None, config.sampling.clips
    if clips is not None and sampler.generator.conditions:
        condition, labels = asked_for(sampler, clips, count)
        most = min(frames, clips.frames) if "video" in condition else frames
        videos = sampler.sample(range(count), most, labels=labels, condition=condition)
    else:
        videos = sampler.sample(range(count), frames)
    grid = layout.grid(videos)
    log.video(sampler.step, "samples", grid, sampler.fps)
    video, picture = (sample_path(workdir, sampler.step, suffix) for suffix in (".mp4", ".png"))
    atomic.make_way(video.parent, folder=True)
    for path in (video, picture):
        atomic.make_way(path)
    writing.write_video(video, grid, fps=sampler.fps)
    writing.write_grid(picture, videos)  # last: a mark that all is written


def asked_for(
    sampler: sampling.Sampler, clips: Clips, count: int
) -> tuple[dict[str, Any], list[int] | None]:
    """Returns the conditions and labels that the first `count` clips of the stream fulfil."""
    batch = clips.take(0, count)
    condition = conditions.of_clips(sampler.generator.conditions, batch["video"], batch)
    whole = sampler.classes and not sampler.looks and "label" in batch
    return condition, batch["label"].tolist() if whole else None


def compare_samples(sampler: sampling.Sampler, clips: Clips) -> dict[str, float]:
    """Compares samples of seeds 0, 1, 2, ... with the first clips of the stream.

    Returns:
      What `watch.compare` does.
    """
    real = watch.describe(clips.take(0, watch.CLIPS)["video"])
    condition, labels = None, None
    if sampler.generator.conditions:
        condition, labels = asked_for(sampler, clips, watch.CLIPS)
    latents = sampler.latents(range(watch.CLIPS), clips.frames, labels=labels, condition=condition)
    # Each clip with the motion of the one before it.
    other = {**latents, **{n: np.roll(latents[n], 1, 0) for n in ("motion", "cycle")}}
    video, moved = (sampler.decode(noise, clips.frames) for noise in (latents, other))
    return watch.compare(real, video, moved)
