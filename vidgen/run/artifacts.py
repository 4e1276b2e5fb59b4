"""What the start of any run needs, and what every run writes beside its checkpoints."""

import importlib.metadata
import json
import logging
import pathlib
import platform
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import vidgen
from vidgen import config as configs
from vidgen import sampling
from vidgen.data.pack import open_store
from vidgen.data.settings import pack_settings
from vidgen.data.stream import Clips, choose_stride, describe_choice
from vidgen.errors import ConfigError, DataError
from vidgen.run import logs, watch
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.video import files

_LOG = logging.getLogger("vidgen")

# Fields that may change between the starts of one run: they do not change its result.
FREE = (
    "training.log_kclips",
    "training.sample_kclips",
    "training.save_kclips",
    "training.watch_kclips",
    "training.keep",
    "training.full_disk",
    "sampling.",
    "data.cache",
    "data.workers",
    "data.strict",
    "parallel.mode",
    "parallel.data",
    "parallel.fsdp",
    "parallel.microbatches",
    "parallel.remat",
    "parallel.distributed",
)


def open_clips(config: configs.Config, progress: Callable | None = None) -> tuple[Any, Clips]:
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
    )
    if data.stride == 0:
        lengths, fps = np.asarray(store.lengths), store.fps
        logs.say(describe_choice(lengths, fps, data.frames, clips.stride, data.short))
    if len(clips.skipped):
        names = getattr(store, "names", None) or [f"clip {n}" for n in range(len(store))]
        some = ", ".join(names[n] for n in clips.skipped[:3].tolist())
        _LOG.warning(
            "%d of %d clips are shorter than a window of data.frames=%d, data.stride=%d and are "
            "left out (%s%s); data.short=loop would repeat them",
            len(clips.skipped), len(store), data.frames, clips.stride,
            some, ", ..." if len(clips.skipped) > 3 else "",
        )  # fmt: skip
    return store, clips


def meta(config: configs.Config, generator: dict[str, Any], store: Any) -> dict[str, Any]:
    """Returns what is kept with each checkpoint; JSON data.

    Args:
      config: The run's.
      generator: Arguments that `models.build` makes the generator from.
      store: The clips.
    """
    return {
        "config": configs.to_json(config),
        "generator": generator,
        "classes": list(store.classes),
        "fps": config.sampling.fps or store.fps,
        "stride": config.data.stride
        or choose_stride(np.asarray(store.lengths), store.fps, config.data.frames),
        "fingerprint": store.fingerprint,
        "vidgen": vidgen.__version__,
    }


def facts(store: Any, clips: Clips) -> dict[str, Any]:
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
    """Refuses to go on with a run whose result the new config or data would change."""
    changed = [
        f"config.{name} was {old!r}, is {new!r}"
        for name, old, new in configs.differences(
            configs.from_json(saved["config"]), configs.from_json(now["config"])
        )
        if not name.startswith(FREE)
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


def sample_path(workdir: pathlib.Path, step: int, suffix: str) -> pathlib.Path:
    """Returns where the samples of a step are."""
    return workdir / "samples" / f"step-{step:08d}{suffix}"


def write_samples(
    workdir: pathlib.Path, config: configs.Config, sampler: sampling.Sampler, log: logs.RunLog
) -> None:
    """Writes sample videos, always of the same seeds, as MP4, PNG and to TensorBoard."""
    frames = min(config.sampling.frames, sampler.limit or config.sampling.frames)
    videos = sampler.sample(range(config.sampling.clips), frames)
    grid = files.grid(videos)
    log.video(sampler.step, "samples", grid, sampler.fps)
    files.write_video(sample_path(workdir, sampler.step, ".mp4"), grid, fps=sampler.fps)
    # Last: a mark that all is written.
    files.write_grid(sample_path(workdir, sampler.step, ".png"), videos)


def figures(sampler: sampling.Sampler, clips: Clips) -> dict[str, float]:
    """Looks at samples of seeds 0, 1, 2, ... beside the first clips of the stream.

    Returns:
      What `watch.figures` does.
    """
    real = watch.looks(clips.take(0, watch.CLIPS)["video"])
    latents = sampler.latents(range(watch.CLIPS), clips.frames)
    # Each clip with the motion of the one before it.
    other = {**latents, **{n: np.roll(latents[n], 1, 0) for n in ("motion", "cycle")}}
    video, moved = (sampler.decode(noise, clips.frames) for noise in (latents, other))
    return watch.figures(real, video, moved)


class Best:
    """Keeps the best checkpoint of a run, in `best/`, besides the newest.

    Args:
      workdir: The run's folder.
      figure: What decides: "distance", the lower the better; another figure of `watch.figures`,
        the nearer to 1 the better; "" for none.
    """

    def __init__(self, workdir: pathlib.Path, figure: str):
        self.figure, self._folder = figure, workdir / "best"
        self._note, self._score = self._folder / "best.json", float("inf")
        if figure and self._note.exists():
            try:
                self._score = self._score_of(json.loads(self._note.read_text()))
            except (ValueError, KeyError, TypeError):  # damaged, or of another figure
                _LOG.warning("%s: holds no %s; the next look is taken for the best", self._note,
                             figure)  # fmt: skip

    def _score_of(self, found: dict[str, float]) -> float:
        value = float(found[self.figure])
        return value if self.figure == "distance" else abs(value - 1)

    def improved(self, found: dict[str, float]) -> bool:
        """Tells whether figures are better than those of the checkpoint that is kept."""
        return bool(self.figure) and self.figure in found and self._score_of(found) < self._score

    def keep(self, step: int, found: dict[str, float], checkpoints: Checkpoints) -> None:
        """Keeps a checkpoint that is on disk in place of the one before.

        Raises:
          StorageError: It could not be written.
        """
        if step not in checkpoints.steps():  # there was no space for it
            return
        with files.storage(self._folder):
            checkpoints.link(step, self._folder)
            logs.write_json(self._note, {"step": step, **found})
            for old in Checkpoints(self._folder).steps():
                if old != step:
                    shutil.rmtree(self._folder / str(old))
        self._score = self._score_of(found)
