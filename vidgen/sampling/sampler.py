"""Video as a function of (weights, seed, time).

sampler = vidgen.load("runs/toy")
clips = sampler.sample(seeds=[0, 1, 2], frames=64)
vidgen.write_video("out.mp4", clips[0], fps=sampler.fps)
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeGuard

import jax
import numpy as np
from jaxtyping import Int32, Shaped, UInt8, UInt32

from vidgen.data.looks import draw
from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models.protocol import Generator
from vidgen.sampling import programs
from vidgen.sampling.latents import Latents, check_clips, check_latents, check_size
from vidgen.seeds import stream

FRAMES = 64  # of a video that has no end, by default

Seeds = int | np.integer | Sequence[int] | np.ndarray
Labels = int | np.integer | str | Sequence[int | str] | np.ndarray | None
Video = UInt8[np.ndarray, "videos time height width 3"]
State = Shaped[np.ndarray, "videos ..."]  # of a recurrent generator


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sampler:
    """A generator with its weights, ready to make video.

    Every program that samples runs on `batch` videos of `chunk` frames that begin at multiples of
    `chunk`, whatever is asked for. So, with the same weights, `batch`, `chunk`, machine and
    versions, frame t of seed s comes out with the same bits from any window, stream, or company of
    seeds.

    Attributes:
      generator: The Linen module.
      params: Its parameters (the moving average of training).
      classes: Names of the classes, in the order of the labels; empty without classes.
      fps: Frames per second of the training clips.
      step: Training step of the weights.
      batch: Videos computed together; fewer seeds are padded.
      chunk: Frames computed together; a multiple of the generator's stride.
      looks: For each class how many training clips its looks have, where classes were split into
        looks; each seed draws one.
    """

    generator: Generator
    params: Any
    classes: tuple[str, ...]
    fps: float
    step: int
    batch: int
    chunk: int
    looks: tuple[tuple[int, ...], ...] = ()

    def __repr__(self) -> str:
        weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params))
        height, width = height_width(self.size)
        return (
            f"<Sampler: {type(self.generator).__name__} of {width}x{height} pixels, "
            f"{weights:,} parameters, step {self.step}, {len(self.classes)} classes, "
            f"{self.fps:g} fps, {f'{self.limit} frames' if self.limit else 'without end'}, "
            f"batch {self.batch}, chunk {self.chunk}>"
        )

    def sample(
        self, seeds: Seeds, frames: int | None = None, start: int = 0, labels: Labels = None
    ) -> Video:
        """Makes video.

        Args:
          seeds: One for each video, in [0, 2^32); a number alone is one video.
          frames: Length of the videos, at least 1; by default 64, or all there are where videos
            have an end.
          start: First frame, at least 0; any window of the endless video of a seed can be had.
          labels: A class for all videos, or one for each: text is its name, an integer its place
            among `classes`, from 0; by default each seed has its own.

        Returns:
          uint8 `[len(seeds), frames, H, W, 3]`.

        Raises:
          ConfigError: An argument is out of range or names no class.
        """
        return self.decode(self.latents(seeds, frames, start, labels), frames, start)

    def stream(
        self, seed: int | np.integer, start: int = 0, labels: Labels = None
    ) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """Yields the frames of one seed from `start` on without end, in constant memory.

        Args:
          seed: In [0, 2^32).
          start: First frame.
          labels: A class, as for `sample`; by default the seed's own.

        Yields:
          uint8 `[H, W, 3]`, the same as `sample` gives.

        Raises:
          ConfigError: An argument is out of range, or the generator's videos have an end.
        """
        if self.limit:
            raise ConfigError(
                f"this generator's videos end after {self.limit} frames",
                "sample them whole; nothing goes on without end",
            )
        self.length(None, start)  # refuses what is no frame's number
        first, carry = start // self.chunk * self.chunk, None
        while True:
            latents = self._latents(seed, self.chunk, first, labels, carry)
            video, carry = self._decode(latents, self.chunk, first)
            yield from video[0, max(start - first, 0) :]
            first += self.chunk

    def latents(
        self, seeds: Seeds, frames: int | None = None, start: int = 0, labels: Labels = None
    ) -> Latents:
        """Draws the noise that `decode` turns into video; arguments as for `sample`.

        Returns:
          `content` float32 `[N, Z]`; `motion` float32 `[N, K, M]`, the keyframes of motion noise
          from `context` before the first chunk to the end of the last; `cycle` float32 `[N, P]` in
          [0, 1), the turn of each cycle in frame 0; `label` int32 `[N]`, the number of the class,
          or of the look where classes are split into looks. Of a recurrent generator that does not
          begin at frame 0 also `carry`, its state before the first chunk, for which all that lies
          before is run through.
        """
        return self._latents(seeds, self.length(frames, start), start, labels, None)

    def encode(self, clips: np.ndarray, labels: Labels = None) -> Latents:
        """Gives the noise that clips were most likely made of, for `decode(latents, T)`.

        It is the means of the posterior, with frame 0 as the clips' first. Motion goes to the end
        of the last chunk, as in `latents`; what lies beyond the clips is extrapolated.

        Args:
          clips: uint8 `[N, T, H, W, 3]`.
          labels: A class name or number for all, or one for each; needed where there are classes.

        Raises:
          ConfigError: The generator has no encoder, the clips are none of its size, or their
            classes are missing.
        """
        check_clips(self.generator, clips, labels)
        label = self._labels(np.arange(len(clips)), labels)
        run = programs.encode(self.generator, self._chunks(clips.shape[1], 0)[1] * self.chunk)
        content, motion, cycle = self._by_batch(lambda *rows: run(self.params, *rows), clips, label)
        return {"content": content, "motion": motion, "cycle": cycle, "label": label}

    def reconstruct(self, clips: np.ndarray, labels: Labels = None) -> Video:
        """Codes clips and decodes them again, by a run's codec, or its encoder and decoder.

        Args:
          clips: uint8 `[N, T, H, W, 3]`.
          labels: As for `encode`; a codec needs none.

        Returns:
          uint8 `[N, T, H, W, 3]`.

        Raises:
          ConfigError: The generator has neither, or as for `encode`.
        """
        if not self.generator.reconstructs:
            return self.decode(self.encode(clips, labels), clips.shape[1])
        check_size(self.generator, clips)
        run = programs.reconstruct(self.generator)
        return self._by_batch(lambda rows: (run(self.params, rows),), clips)[0]

    def decode(self, latents: Latents, frames: int | None = None, start: int = 0) -> Video:
        """Turns noise into video: `decode(latents(seeds, n, s), n, s)` is `sample(seeds, n, s)`.

        The latents may have been edited in between: contents exchanged or interpolated, motion of
        one video given to another.

        Args:
          latents: As from `latents`, for the same `frames` and `start`.
          frames: Length of the videos; by default as for `sample`.
          start: First frame.

        Returns:
          uint8 `[N, frames, H, W, 3]`.

        Raises:
          ConfigError: The latents are of other frames or another generator, or not finite.
        """
        latents = check_latents(self.generator, latents)
        if self.generator.recurrent and start >= self.chunk and "carry" not in latents:
            raise ConfigError("latents lack carry", f"draw them with start={start}")
        return self._decode(latents, self.length(frames, start), start)[0]

    def length(self, frames: int | None, start: int = 0) -> int:
        """Returns how many frames `sample` makes, given its arguments.

        Raises:
          ConfigError: They are out of range.
        """
        if not is_whole(start):
            raise ConfigError(f"start is {start!r}", "a whole number, 0 to about 2^31")
        if frames is None:
            frames = max(self.limit - start, 1) if self.limit else FRAMES
        self._chunks(frames, start)
        return frames

    @property
    def size(self) -> Size:
        """Side of the frames in pixels."""
        return self.generator.size

    @property
    def limit(self) -> int:
        """How many frames a video has at most; 0: there is no end."""
        return self.generator.limit

    @property
    def _steps(self) -> int:
        """Keyframes of motion noise from one chunk to the next."""
        return self.chunk // self.generator.stride

    @property
    def _extra(self) -> int:
        """Keyframes that a chunk needs beyond those."""
        return self.generator.keyframes(self.chunk) - self._steps

    def _latents(
        self, seeds: Seeds, frames: int, start: int, labels: Labels, carry: State | None
    ) -> Latents:
        """Draws noise as `latents` does; from a state that is known, where one is given."""
        numbers = _seeds(seeds)
        first, last = self._chunks(frames, start)
        label = self._labels(numbers, labels)
        begin = first * self._steps - self.generator.context
        need = (last - first) * self._steps + self._extra

        def noise(rows):
            # In blocks of one length, so that one program makes all of it.
            blocks = [self._draw(rows, begin + at) for at in range(0, need, self._steps)]
            motion = np.concatenate([motion for _, motion, _ in blocks], 1)[:, :need]
            return blocks[0][0], motion, blocks[0][2]

        content, motion, cycle = self._by_batch(noise, numbers)
        latents = {"content": content, "motion": motion, "cycle": cycle, "label": label}
        if self.generator.recurrent and first:
            latents["carry"] = self._run_to(first, numbers, latents) if carry is None else carry
        return latents

    def _draw(self, seeds: UInt32[np.ndarray, " batch"], first: int) -> list[np.ndarray]:
        """Draws content, one chunk's motion from keyframe `first` on, and cycle, of one batch."""
        drawn = programs.draw(self.generator, self._steps)(seeds, np.asarray(first, np.int32))
        return [np.asarray(x) for x in drawn]

    def _run_to(self, chunk: int, seeds: np.ndarray, latents: Latents) -> State:
        """Returns the state of a recurrent generator before a chunk, run through from frame 0."""
        generator = self.generator
        assert programs.is_recurrent(generator)
        begin, advance = programs.begin(generator), programs.advance(generator, self._steps)

        def run(seeds, content, label):
            before = self._draw(seeds, -generator.context)[1][:, : generator.context]
            state = begin(self.params, content, before, label)
            for at in range(chunk):
                motion = self._draw(seeds, at * self._steps)[1]
                state, _ = advance(self.params, state, content, motion, label)
            return (state,)

        return self._by_batch(run, seeds, latents["content"], latents["label"])[0]

    def _decode(self, latents: Latents, frames: int, start: int) -> tuple[Video, State | None]:
        """Turns noise into video as `decode` does; also returns a recurrent generator's state."""
        first, last = self._chunks(frames, start)
        need, have = (last - first) * self._steps + self._extra, latents["motion"].shape[1]
        if have != need:
            raise ConfigError(
                f"these latents hold {have} steps of motion, {frames} frames from {start} need "
                f"{need}",
                "decode with the frames and start they were drawn for",
            )
        count, length, states = len(latents["content"]), (last - first) * self.chunk, []
        video = np.empty((count, length, *height_width(self.size), 3), np.uint8)
        for rows in self._rows(count):
            state, batch = None, {name: self._pad(x[rows]) for name, x in latents.items()}
            for number, (made, after) in enumerate(self._decode_batch(batch, first, last)):
                time = slice(number * self.chunk, (number + 1) * self.chunk)
                video[rows, time], state = made[: len(video[rows])], after
            if state is not None:
                states.append(state[: len(video[rows])])
        skip = start - first * self.chunk
        return video[:, skip : skip + frames], np.concatenate(states) if states else None

    def _decode_batch(
        self, latents: Latents, first: int, last: int
    ) -> Iterator[tuple[Video, State | None]]:
        """Yields chunk after chunk of one batch, with a recurrent generator's state after it."""
        generator, steps = self.generator, self._steps
        content, motion, cycle, label = (
            latents[name] for name in ("content", "motion", "cycle", "label")
        )
        if programs.is_recurrent(generator):
            render, advance = programs.render(generator), programs.advance(generator, steps)
            before, motion = np.split(motion, [generator.context], 1)
            state = latents.get("carry")
            if state is None:
                state = programs.begin(generator)(self.params, content, before, label)
            for at in range(0, (last - first) * steps, steps):
                part = motion[:, at : at + steps]
                state, states = advance(self.params, state, content, part, label)
                video = render(self.params, states, content, label)
                yield np.asarray(video), np.asarray(state)
            return
        decode = programs.decode(generator, self.chunk)
        for chunk in range(first, last):
            at = (chunk - first) * steps
            part = motion[:, at : at + steps + self._extra]
            start = np.asarray(chunk * self.chunk, np.int32)
            yield np.asarray(decode(self.params, content, part, cycle, start, label)), None

    def _chunks(self, frames: int, start: int) -> tuple[int, int]:
        """Returns the first chunk of a window, and the first after it."""
        if not is_whole(frames) or frames < 1:
            raise ConfigError(f"frames is {frames!r}", "a whole number, at least 1")
        if self.limit and start + frames > self.limit:
            raise ConfigError(
                f"frames {start} to {start + frames} are asked for",
                f"this generator's videos end after {self.limit} frames",
            )
        if start < 0:
            raise ConfigError(f"start is {start}", "at least 0")
        if start + frames > (last := 2**31 - 1 - 2 * self.chunk):
            raise ConfigError(
                f"frames {start} to {start + frames} are asked for",
                f"frames are counted to {last}: a smaller start, or fewer frames",
            )
        return start // self.chunk, -(-(start + frames) // self.chunk)

    def _by_batch(
        self, function: Callable[..., Sequence[Any]], *arrays: np.ndarray
    ) -> list[np.ndarray]:
        """Calls a function with `batch` rows of arrays at a time; puts together what it returns."""
        made = []
        for rows in self._rows(len(arrays[0])):
            results = function(*(self._pad(x[rows]) for x in arrays))
            made.append([np.asarray(x)[: len(arrays[0][rows])] for x in results])
        return [np.concatenate(parts) for parts in zip(*made, strict=True)]

    def _rows(self, count: int) -> Iterator[slice]:
        return (slice(at, at + self.batch) for at in range(0, count, self.batch))

    def _pad(self, rows: np.ndarray) -> np.ndarray:
        missing = self.batch - len(rows)
        return np.concatenate([rows, np.repeat(rows[-1:], missing, 0)]) if missing else rows

    def _labels(self, seeds: np.ndarray, labels: Labels) -> Int32[np.ndarray, " videos"]:
        found = self._classes(seeds, labels)
        if not self.looks:
            return found
        chances = [stream(int(seed), "look").uniform() for seed in seeds]
        pairs = zip(found.tolist(), chances, strict=True)
        return np.array([draw(self.looks, kind, u) for kind, u in pairs], np.int32)

    def _classes(self, seeds: np.ndarray, labels: Labels) -> Int32[np.ndarray, " videos"]:
        number = max(len(self.classes), 1)
        if labels is None:
            return (seeds % number).astype(np.int32)
        if hasattr(labels, "__array__"):
            labels = np.asarray(labels).tolist()  # of no axes: one value
        if isinstance(labels, (str, bytes)) or not isinstance(labels, Sequence):
            return np.full(len(seeds), self._label(labels, number), np.int32)
        if len(labels) != len(seeds):
            raise ConfigError(f"{len(labels)} labels for {len(seeds)} seeds", "give one for each")
        return np.array([self._label(label, number) for label in labels], np.int32)

    def _label(self, label: Any, number: int) -> int:
        if isinstance(label, str) and label in self.classes:
            return self.classes.index(label)
        if is_whole(label) and 0 <= label < number:
            return int(label)
        raise ConfigError(
            f"there is no class {label!r}", "one of " + ", ".join(self.classes or ("0",))
        )


def is_whole(value: Any) -> TypeGuard[int]:
    """Tells whether a value is a whole number; a truth value, which Python counts, is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _seeds(seeds: Seeds) -> UInt32[np.ndarray, " videos"]:
    if isinstance(seeds, range) and len(seeds) > 2**32:
        raise ConfigError(f"seeds are {len(seeds)} numbers", "use 0 to 2^32-1")
    try:
        numbers = np.atleast_1d(np.asarray(seeds))
    except ValueError as error:  # lists of different lengths
        raise ConfigError(f"seeds are {seeds!r}", "a whole number, or a list of them") from error
    if numbers.ndim != 1 or not numbers.size or not np.issubdtype(numbers.dtype, np.integer):
        raise ConfigError(
            f"seeds are {np.asarray(seeds).tolist()!r}", "a whole number, or a list of them"
        )
    low, high = numbers.min(), numbers.max()
    if low < 0 or high >= 2**32:
        raise ConfigError(f"seeds reach from {low} to {high}", "use 0 to 2^32-1")
    return numbers.astype(np.uint32)
