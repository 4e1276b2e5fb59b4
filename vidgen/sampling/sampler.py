"""Sampling: video as a function of (weights, seed, time).

import vidgen

sampler = vidgen.load("runs/toy")
clips = sampler.sample(seeds=[0, 1, 2], frames=64)
vidgen.write_video("out.mp4", clips[0], fps=sampler.fps)
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidgen import keys, methods
from vidgen.errors import ConfigError, StorageError
from vidgen.models.protocol import abstract_params
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.sampling.latents import Latents, check_clips, encode_program


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A generator with its weights, ready to make video.

    Every program runs on `batch` videos of `chunk` frames that begin at multiples of `chunk`,
    whatever is asked for. So, with the same weights, `batch`, `chunk`, machine and versions, frame
    t of seed s comes out with the same bits from any window, stream, or company of seeds.

    Attributes:
      generator: The Linen module.
      params: Its parameters (the moving average of training).
      classes: Names of the classes, in the order of the labels; empty without classes.
      fps: Frames per second of the training clips.
      step: Training step of the weights.
      batch: Videos computed together; fewer seeds are padded.
      chunk: Frames computed together; a multiple of the generator's stride.
    """

    generator: Any
    params: Any
    classes: tuple[str, ...]
    fps: float
    step: int
    batch: int
    chunk: int

    def sample(
        self,
        seeds: Sequence[int],
        frames: int,
        start: int = 0,
        labels: Sequence[int | str] | int | str | None = None,
    ) -> np.ndarray:
        """Makes video.

        Args:
          seeds: One for each video, in [0, 2^32).
          frames: Length of the videos, at least 1.
          start: First frame, at least 0; any window of the endless video of a seed can be had.
          labels: A class name or number for all, or one for each; by default each seed has its own.

        Returns:
          uint8 `[len(seeds), frames, H, W, 3]`.

        Raises:
          ConfigError: An argument is out of range or names no class.
        """
        return self.decode(self.latents(seeds, frames, start, labels), frames, start)

    def stream(
        self, seed: int, start: int = 0, label: int | str | None = None
    ) -> Iterator[np.ndarray]:
        """Yields the frames of one seed from `start` on without end, in constant memory.

        Each is uint8 `[H, W, 3]`, the same as `sample` gives.
        """
        if self.limit:
            raise ConfigError(
                f"this generator's videos end after {self.limit} frames",
                "sample them whole; nothing goes on without end",
            )
        first, carry = start // self.chunk * self.chunk, None
        while True:
            latents = self._latents([seed], self.chunk, first, label, carry)
            video, carry = self._decode_from(latents, self.chunk, first)
            yield from video[0, max(start - first, 0) :]
            first += self.chunk

    def latents(
        self,
        seeds: Sequence[int],
        frames: int,
        start: int = 0,
        labels: Sequence[int | str] | int | str | None = None,
    ) -> Latents:
        """Draws the noise that `decode` turns into video; arguments as for `sample`.

        Returns:
          `content` float32 `[N, Z]`; `motion` float32 `[N, K, M]`, the steps of motion noise from
          `context` before the first chunk to the end of the last; `cycle` float32 `[N, P]` in
          [0, 1), the turn of each cycle in frame 0; `label` int32 `[N]`. Of a recurrent generator
          that does not begin at frame 0 also `carry`, its state before the first chunk, for which
          all that lies before is run through.
        """
        return self._latents(seeds, frames, start, labels, None)

    def _latents(self, seeds, frames: int, start: int, labels, carry: Any) -> Latents:
        """Draws noise as `latents` does; from a state that is known, where one is given."""
        numbers = np.asarray(seeds)
        if numbers.ndim != 1 or not numbers.size or not np.issubdtype(numbers.dtype, np.integer):
            raise ConfigError(f"seeds are {numbers.tolist()!r}", "a list of whole numbers")
        low, high = numbers.min(), numbers.max()
        if low < 0 or high >= 2**32:
            raise ConfigError(f"seeds reach from {low} to {high}", "use 0 to 2^32-1")
        first, last = self._chunks(frames, start)
        numbers = numbers.astype(np.uint32)
        label = self._labels(numbers, labels)
        stride, context = self.generator.stride, self.generator.context
        per_chunk = self.chunk // stride
        begin = first * per_chunk - context
        need = (last - first) * per_chunk + self._extra
        blocks = -(-need // per_chunk)
        content, motion, cycle = [], [], []
        for rows in self._rows(len(numbers)):
            own = self._pad(numbers[rows])
            # Noise, too, is drawn in blocks of one shape, so that one program makes all of it.
            drawn = [
                _draw(self, own, np.asarray(begin + block * per_chunk, np.int32))
                for block in range(blocks)
            ]
            count = len(numbers[rows])
            content.append(np.asarray(drawn[0][0])[:count])
            cycle.append(np.asarray(drawn[0][1])[:count])
            motion.append(np.concatenate([np.asarray(m) for *_, m in drawn], 1)[:count, :need])
        found = {
            "content": np.concatenate(content),
            "motion": np.concatenate(motion),
            "cycle": np.concatenate(cycle),
            "label": label,
        }
        if self.generator.recurrent and first:
            found["carry"] = self._run_to(first, numbers, found) if carry is None else carry
        return found

    def _run_to(self, chunk: int, seeds: np.ndarray, latents: Latents) -> np.ndarray:
        """Returns the state of a recurrent generator before a chunk, from frame 0 on."""
        states = []
        steps = self.chunk // self.generator.stride
        for rows in self._rows(len(seeds)):
            own, content, label = (
                self._pad(x[rows]) for x in (seeds, latents["content"], latents["label"])
            )
            motion = lambda first, own=own: _draw(self, own, np.asarray(first, np.int32))[2]  # noqa: E731
            begin, advance = recurrence_programs(self.generator, steps)
            before = motion(-self.generator.context)[:, : self.generator.context]
            carry = begin(self.params, content, before, label)
            for at in range(chunk):
                carry, _ = advance(self.params, carry, content, motion(at * steps), label)
            states.append(np.asarray(carry)[: len(seeds[rows])])
        return np.concatenate(states)

    def encode(
        self, clips: np.ndarray, labels: Sequence[int | str] | int | str | None = None
    ) -> Latents:
        """Gives latents of clips for `decode(latents, T)`; see `latents.check_clips`."""
        check_clips(self.generator, clips, labels)
        label = self._labels(np.arange(len(clips)), labels)
        run = encode_program(self.generator, self._chunks(clips.shape[1], 0)[1] * self.chunk)
        rows = ((self._pad(clips[r]), self._pad(label[r])) for r in self._rows(len(clips)))
        made = zip(*(run(self.params, *row) for row in rows), strict=True)
        content, motion, cycle = (np.concatenate(x)[: len(clips)] for x in made)
        return {"content": content, "motion": motion, "cycle": cycle, "label": label}

    def decode(self, latents: Latents, frames: int, start: int = 0) -> np.ndarray:
        """Turns noise into video: `decode(latents(seeds, n, s), n, s)` is `sample(seeds, n, s)`.

        The latents may have been edited in between: contents exchanged or interpolated, motion of
        one video given to another.

        Args:
          latents: As from `latents`, for the same `frames` and `start`.
          frames: Length of the videos.
          start: First frame.

        Returns:
          uint8 `[N, frames, H, W, 3]`.
        """
        return self._decode_from(latents, frames, start)[0]

    def _decode_from(self, latents: Latents, frames: int, start: int) -> tuple[np.ndarray, Any]:
        """Turns noise into video as `decode` does; also returns a recurrent generator's state."""
        first, last = self._chunks(frames, start)
        per_chunk = self.chunk // self.generator.stride
        need = (last - first) * per_chunk + self._extra
        if latents["motion"].shape[1] != need:
            raise ConfigError(
                f"these latents hold {latents['motion'].shape[1]} steps of motion, "
                f"{frames} frames from {start} need {need}",
                "decode with the frames and start they were drawn for",
            )
        count = len(latents["content"])
        size = self.generator.size
        video = np.empty((count, (last - first) * self.chunk, size, size, 3), np.uint8)
        carries = []
        for rows in self._rows(count):
            content, motion, cycle, label = (
                self._pad(latents[name][rows]) for name in ("content", "motion", "cycle", "label")
            )
            if self.generator.recurrent:
                given = latents.get("carry")
                before = None if given is None else self._pad(given[rows])
                made, carry = self._advance(content, motion, label, before, last - first)
                video[rows] = made[: len(latents["content"][rows])]
                carries.append(carry[: len(latents["content"][rows])])
                continue
            for chunk in range(last - first):
                part = motion[:, chunk * per_chunk : (chunk + 1) * per_chunk + self._extra]
                begin = np.asarray((first + chunk) * self.chunk, np.int32)
                made = np.asarray(_decode(self, content, part, cycle, begin, label))
                video[rows, chunk * self.chunk : (chunk + 1) * self.chunk] = made[
                    : len(latents["content"][rows])
                ]
        skip = start - first * self.chunk
        return video[:, skip : skip + frames], np.concatenate(carries) if carries else None

    def _advance(self, content, motion, label, carry, chunks: int) -> tuple[np.ndarray, Any]:
        """Makes whole chunks of one batch by recurrence, from a state or from the beginning."""
        context, steps = self.generator.context, self.chunk // self.generator.stride
        begin, advance = recurrence_programs(self.generator, steps)
        render = render_program(self.generator)
        if carry is None:
            carry = begin(self.params, content, motion[:, :context], label)
        made = []
        for chunk in range(chunks):
            part = motion[:, context + chunk * steps : context + (chunk + 1) * steps]
            carry, states = advance(self.params, carry, content, part, label)
            made.append(np.asarray(render(self.params, states, content, label)))
        return np.concatenate(made, 1), np.asarray(carry)

    @property
    def limit(self) -> int:
        """How many frames a video has at most; 0: there is no end."""
        return self.generator.limit

    @property
    def _extra(self) -> int:
        """Steps of motion noise that a chunk needs beyond one every `stride` frames."""
        return self.generator.keyframes(self.chunk) - self.chunk // self.generator.stride

    def _chunks(self, frames: int, start: int) -> tuple[int, int]:
        if frames < 1:
            raise ConfigError(f"frames is {frames}", "at least 1")
        if self.limit and start + frames > self.limit:
            raise ConfigError(
                f"frames {start} to {start + frames} are asked for",
                f"this generator's videos end after {self.limit} frames",
            )
        if not 0 <= start <= 2**31 - 1 - frames - 2 * self.chunk:
            raise ConfigError(f"start is {start}", "0 to about 2^31")
        return start // self.chunk, -(-(start + frames) // self.chunk)

    def _rows(self, count: int) -> Iterator[slice]:
        return (slice(i, min(i + self.batch, count)) for i in range(0, count, self.batch))

    def _pad(self, rows: np.ndarray) -> np.ndarray:
        missing = self.batch - len(rows)
        return np.concatenate([rows, np.repeat(rows[-1:], missing, 0)]) if missing else rows

    def _labels(self, seeds: np.ndarray, labels) -> np.ndarray:
        number = max(len(self.classes), 1)
        if labels is None:
            return (seeds % number).astype(np.int32)
        if isinstance(labels, (int, str, np.integer)):
            labels = [labels] * len(seeds)
        if len(labels) != len(seeds):
            raise ConfigError(f"{len(labels)} labels for {len(seeds)} seeds", "give one for each")
        found = []
        for label in labels:
            if isinstance(label, str) and label in self.classes:
                found.append(self.classes.index(label))
            elif not isinstance(label, str) and 0 <= int(label) < number:
                found.append(int(label))
            else:
                raise ConfigError(
                    f"there is no class {label!r}", "one of " + ", ".join(self.classes or ("0",))
                )
        return np.array(found, np.int32)


def load(
    path: str | pathlib.Path,
    step: int | str | None = None,
    *,
    batch: int | None = None,
    chunk: int | None = None,
    **choices: Any,
) -> Sampler:
    """Loads the averaged generator of a run.

    Args:
      path: The run's folder.
      step: A step that has a checkpoint; "best" for what `training.keep_best` has kept; by
        default the newest that verifies.
      batch: Videos computed together; 1 on a CPU, 8 elsewhere by default.
      chunk: Frames computed together, a multiple of the generator's stride; by default the
        least that is at least 16.
      **choices: What the generator's class names in `choices`, in place of what the run's config
        has: of a `CodesGenerator` its `temperature`, `top_k` and `top_p`.

    Returns:
      A `Sampler`.

    Raises:
      StorageError: There is no checkpoint, or none that verifies.
      ConfigError: `batch`, `chunk` or a choice is out of range, or the generator has no such one.
    """
    found: dict[str, Any] = {}

    def wanted(meta):
        found["generator"] = methods.generator(meta, **choices)
        return {"ema": abstract_params(found["generator"])}

    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise StorageError(f"there is no run in {folder}", "name the folder given as --workdir")
    kept = "best" if step == "best" else "checkpoints"
    number = None if step == "best" or step is None else int(step)
    at, items, meta = Checkpoints(folder / kept).restore(wanted, number)
    return sampler(found["generator"], items["ema"], meta, at, batch=batch, chunk=chunk)


def sampler(
    generator: Any,
    params: Any,
    meta: dict[str, Any],
    step: int,
    *,
    batch: int | None = None,
    chunk: int | None = None,
) -> Sampler:
    """Makes a sampler of a generator and its weights; arguments as for `load`."""
    stride = int(generator.stride)
    if batch is None:
        batch = 1 if jax.default_backend() == "cpu" else 8
    if chunk is None:
        chunk = int(generator.limit) or -(-16 // stride) * stride
    if batch < 1:
        raise ConfigError(f"batch is {batch}", "at least 1")
    if chunk < 1 or chunk % stride:
        raise ConfigError(f"chunk is {chunk}", f"a positive multiple of the stride, {stride}")
    return Sampler(
        generator=generator,
        params=params,
        classes=tuple(meta["classes"]),
        fps=float(meta["fps"]),
        step=step,
        batch=batch,
        chunk=chunk,
    )


def build(params: Any, meta: dict[str, Any], step: int) -> Sampler:
    """Makes a sampler of a generator's weights and what is kept with them (`runs.meta`)."""
    generator = methods.generator(meta)
    return sampler(generator, params, meta, step)


def _draw(sampler: Sampler, seeds: np.ndarray, first: np.ndarray):
    per_chunk = sampler.chunk // sampler.generator.stride
    return draw_program(sampler.generator, per_chunk)(seeds, first)


def _decode(sampler: Sampler, *noise):
    return decode_program(sampler.generator, sampler.chunk)(sampler.params, *noise)


@functools.lru_cache(maxsize=8)
def draw_program(generator: Any, steps: int):
    """Compiles the drawing of noise: content, cycles, `steps` of motion from a given one on."""

    @jax.jit
    def draw(seeds, first):
        roots = jax.vmap(keys.root)(seeds)
        content = keys.normal(
            jax.vmap(lambda k: keys.named(k, "content"))(roots), (generator.content,)
        )
        cycle = keys.uniform(
            jax.vmap(lambda k: keys.named(k, "cycle"))(roots), (len(generator.periods),)
        )
        motion = keys.over_time(
            jax.vmap(lambda k: keys.named(k, "motion"))(roots),
            jnp.full(seeds.shape, first),
            steps,
            generator.motion,
        )
        return content, cycle, motion

    return draw


@functools.lru_cache(maxsize=8)
def decode_program(generator: Any, frames: int):
    """Compiles noise to video for one chunk of `frames`."""

    @jax.jit
    def decode(params, content, motion, cycle, start, label):
        start = jnp.full(content.shape[:1], start)
        label = label if generator.classes else None
        noise = (content, motion, cycle, start, label)
        return to_uint8(generator.apply({"params": params}, *noise, frames=frames))

    return decode


@functools.lru_cache(maxsize=8)
def recurrence_programs(generator: Any, steps: int):
    """Compiles how a recurrent generator begins, and how it advances by `steps`."""

    def bound(method):
        def run(params, *given):
            *given, label = given
            label = label if generator.classes else None
            return generator.apply({"params": params}, *given, label, method=method)

        return jax.jit(run)

    def advance(module, carry, content, motion, label):
        return module.advance(carry, content, motion[:, :steps], label)

    return bound(lambda module, *given: module.begin(*given)), bound(advance)


@functools.lru_cache(maxsize=8)
def render_program(generator: Any):
    """Compiles how a recurrent generator's states become frames."""

    @jax.jit
    def render(params, states, content, label):
        label = label if generator.classes else None
        given = (states, content, label)
        return to_uint8(generator.apply({"params": params}, *given, method="render"))

    return render


def to_uint8(video: jax.Array) -> jax.Array:
    """Maps float video in [-1, 1] to uint8 0..255, rounding; beyond is clipped."""
    return jnp.clip(jnp.round((video + 1) * 127.5), 0, 255).astype(jnp.uint8)
