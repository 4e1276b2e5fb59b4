"""Video as a function of (weights, seed, time).

sampler = vidgen.load("runs/toy")
clips = sampler.sample(seeds=[0, 1, 2], frames=64)
vidgen.write_video("out.mp4", clips[0], fps=sampler.fps)
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64, Int32, Shaped, UInt8, UInt32

from vidgen.data.looks import draw
from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models import conditions
from vidgen.models.protocol import Generator
from vidgen.sampling import batches, programs
from vidgen.sampling.arguments import (
    Labels,
    Seeds,
    class_numbers,
    is_whole,
    read_numbers,
    read_seeds,
)
from vidgen.sampling.latents import Latents, check_clips, check_latents, check_size
from vidgen.seeds import stream

FRAMES = 64  # of a video that has no end, by default

Video = UInt8[np.ndarray, "videos time height width 3"]
Progress = Callable[[int, int], None]  # frames done, of how many
Condition = Mapping[str, Any] | None  # by name of the condition, what its kind takes
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
        self,
        seeds: Seeds,
        frames: int | None = None,
        start: int = 0,
        labels: Labels = None,
        progress: Progress | None = None,
        condition: Condition = None,
    ) -> Video:
        """Makes video.

        Args:
          seeds: One for each video, in [0, 2^32); a number alone is one video.
          frames: Length of the videos, at least 1; by default 64, or all there are where videos
            have an end.
          start: First frame, at least 0; any window of the endless video of a seed can be had.
          labels: A class for all videos, or one for each: text is its name, an integer its place
            among `classes`, from 0; by default each seed has its own.
          progress: Called after each chunk of each batch with the frames that are done, and all.
          condition: What is asked for beside the class, by name of the conditions that the run was
            trained with (docs/conditions.md); each is absent by default.

        Returns:
          uint8 `[len(seeds), frames, H, W, 3]`.

        Raises:
          ConfigError: An argument is out of range or names no class, or the run does not know the
            condition.
        """
        latents = self.latents(seeds, frames, start, labels, condition)
        return self.decode(latents, frames, start, progress)

    def sample_at(
        self,
        seeds: Seeds,
        times: Sequence[float] | np.ndarray,
        labels: Labels = None,
        condition: Condition = None,
    ) -> Video:
        """Makes the frames of any times: slower, faster, backwards, to and fro.

        `np.arange(64) / 2` is half the speed, `np.arange(64)[::-1]` runs backwards. At whole
        numbers the frames are those that `sample` gives, bit for bit.

        Args:
          seeds: As for `sample`.
          times: In frames from frame 0, at least 0, in any order. Between whole numbers only where
            the generator is a function of time (`generator.between_frames`).
          labels: As for `sample`.
          condition: As for `sample`.

        Returns:
          uint8 `[len(seeds), len(times), H, W, 3]`.

        Raises:
          ConfigError: An argument is out of range, or the generator has nothing between frames.
        """
        start, frames = self.window(times)
        return self.decode_at(self.latents(seeds, frames, start, labels, condition), times)

    def window(self, times: Sequence[float] | np.ndarray) -> tuple[int, int]:
        """Returns the first frame and the number of frames of the window that holds some times.

        Raises:
          ConfigError: They are out of range, or between frames where there is nothing.
        """
        wanted = read_numbers("times", times, least=0)
        start, last = math.floor(wanted.min()), math.ceil(wanted.max())
        if not self.generator.between_frames and (wanted % 1).any():
            raise ConfigError(
                f"a {type(self.generator).__name__} makes whole frames, and nothing between",
                "whole numbers as times",
            )
        frames = self.length(last + 1 - start, start)
        return start, frames

    def decode_at(self, latents: Latents, times: Sequence[float] | np.ndarray) -> Video:
        """Turns noise into the frames of any times: `decode` as `sample_at` is to `sample`.

        Args:
          latents: For the window of the times: `latents(seeds, frames, start)`, where
            `start, frames = window(times)`.
          times: As for `sample_at`.

        Returns:
          uint8 `[N, len(times), H, W, 3]`.

        Raises:
          ConfigError: As for `decode` and `sample_at`.
        """
        start, frames = self.window(times)
        wanted = read_numbers("times", times, least=0)
        if self.generator.recurrent:
            return self.decode(latents, frames, start)[:, wanted.astype(np.int64) - start]
        latents = check_latents(self.generator, latents)
        self._length(frames, start, latents)
        first, last = self._chunks(frames, start)
        self._check_motion(latents, first, last)
        count = len(latents["content"])
        video = np.empty((count, len(wanted), *height_width(self.size), 3), np.uint8)
        whole = wanted % 1 == 0
        for rows in batches.rows(count, self.batch):
            batch = self._batch(latents, rows)
            for chunk in np.unique(wanted // self.chunk).astype(np.int64).tolist():
                inside = wanted // self.chunk == chunk
                at = (chunk - first) * self._steps
                part = {**batch, "motion": batch["motion"][:, at : at + self._steps + self._extra]}
                if frames_of := np.flatnonzero(inside & whole).tolist():
                    made, _ = next(self._decode_batch(part, chunk, chunk + 1))
                    places = wanted[frames_of].astype(np.int64) - chunk * self.chunk
                    video[rows, frames_of] = made[: len(video[rows]), places]
                between = np.flatnonzero(inside & ~whole)
                part["motion"] = batch["motion"][:, at:]
                for begin in range(0, len(between), self.chunk):
                    some = between[begin : begin + self.chunk]
                    made = self._decode_between(part, wanted[some], chunk)
                    video[rows, some] = made[: len(video[rows])]
        return video

    def _decode_between(
        self, latents: Latents, times: Float64[np.ndarray, " time"], chunk: int
    ) -> Video:
        """Makes at most a chunk of frames at times within one chunk, of one batch."""
        need = self.generator.keyframes(self.chunk + 1)
        motion = latents["motion"][:, :need]
        spare = need - motion.shape[1]  # of what is not reached from within the chunk
        motion = np.concatenate([motion, np.repeat(motion[:, -1:], spare, 1)], 1)
        within = np.zeros(self.chunk, np.float32)
        within[: len(times)] = times - chunk * self.chunk
        start = np.asarray(chunk * self.chunk, np.int32)
        given = (latents["content"], motion, latents["cycle"], start, latents["label"], within)
        decode = programs.decode(self.generator, self.chunk)
        told = self._told(latents, chunk, self.chunk + 1)
        return np.asarray(decode(self.params, *given, **told))[:, : len(times)]

    def _batch(self, latents: Latents, rows: slice) -> Latents:
        """Returns the latents of a batch, filled up; but for conditions, which may be long."""
        some = {name: x[rows] for name, x in latents.items()}
        return {n: x if "/" in n else batches.pad(x, self.batch) for n, x in some.items()}

    def _told(self, latents: Latents, chunk: int, frames: int) -> dict[str, Any]:
        """Returns the conditions in latents as a chunk of one batch sees them, as an argument."""
        known = self.generator.conditions
        if not known:
            return {}
        start, given = chunk * self.chunk, conditions.of_flat(latents)
        count = next((len(x) for n, x in latents.items() if "/" in n), self.batch)
        beside = self.generator.beside
        seen = conditions.window(known, given, count, self.size, start, frames, beside)
        return {"given": jax.tree.map(lambda x: batches.pad(x, self.batch), seen)}

    def stream(
        self,
        seed: int | np.integer,
        start: int = 0,
        labels: Labels = None,
        condition: Condition = None,
    ) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """Yields the frames of one seed from `start` on without end, in constant memory.

        Args:
          seed: In [0, 2^32).
          start: First frame.
          labels: A class, as for `sample`; by default the seed's own.
          condition: As for `sample`; a condition that ends, ends the stream.

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
        given = self._given(condition, 1)
        self._length(None, start, given)  # refuses what is no frame's number
        first, carry, end = start // self.chunk * self.chunk, None, self._end(given)
        while not end or first < end:
            latents = self._latents(seed, self.chunk, first, labels, given, carry)
            video, carry = self._decode(latents, self.chunk, first)
            yield from video[0, max(start - first, 0) : (end or 2**31) - first]
            first += self.chunk

    def latents(
        self,
        seeds: Seeds,
        frames: int | None = None,
        start: int = 0,
        labels: Labels = None,
        condition: Condition = None,
    ) -> Latents:
        """Draws the noise that `decode` turns into video; arguments as for `sample`.

        Returns:
          `content` float32 `[N, Z]`; `motion` float32 `[N, K, M]`, the keyframes of motion noise
          from `context` before the first chunk to the end of the last; `cycle` float32 `[N, P]` in
          [0, 1), the turn of each cycle in frame 0; `label` int32 `[N]`, the number of the class,
          or of the look where classes are split into looks. Of a recurrent generator that does not
          begin at frame 0 also `carry`, its state before the first chunk, for which all that lies
          before is run through. Conditions are arrays named `condition/array`.
        """
        count = len(read_seeds(seeds))
        given = self._given(condition, count)
        frames = self._length(frames, start, given)
        return self._latents(seeds, frames, start, labels, given)

    def _given(self, condition: Condition, count: int) -> Latents:
        """Returns conditions of `count` videos as they are kept in latents."""
        known = self.generator.conditions
        given = conditions.read(known, condition, count, self.size)
        if self.generator.loop and conditions.lie_in_space(tuple((name, {}) for name in given)):
            raise ConfigError(
                f"the video begins again after {self.generator.loop} frames, and a condition says "
                "what its frames are like",
                "loop=0, or without the condition",
            )
        return conditions.flat(given)

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
        content, motion, cycle = batches.by_batch(
            lambda *rows: run(self.params, *rows), self.batch, clips, label
        )
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
        return batches.by_batch(lambda rows: (run(self.params, rows),), self.batch, clips)[0]

    def decode(
        self,
        latents: Latents,
        frames: int | None = None,
        start: int = 0,
        progress: Progress | None = None,
    ) -> Video:
        """Turns noise into video: `decode(latents(seeds, n, s), n, s)` is `sample(seeds, n, s)`.

        The latents may have been edited in between (`vidgen.edit`): contents exchanged or
        interpolated, motion of one video given to another. Their `label` may be weights of classes,
        float `[N, classes]`, where `generator.between_classes`.

        Args:
          latents: As from `latents`, for the same `frames` and `start`.
          frames: Length of the videos; by default as for `sample`.
          start: First frame.
          progress: As for `sample`.

        Returns:
          uint8 `[N, frames, H, W, 3]`.

        Raises:
          ConfigError: The latents are of other frames or another generator, or not finite.
        """
        latents = check_latents(self.generator, latents)
        if self.generator.recurrent and start >= self.chunk and "carry" not in latents:
            raise ConfigError("latents lack carry", f"draw them with start={start}")
        return self._decode(latents, self._length(frames, start, latents), start, progress)[0]

    def length(
        self, frames: int | None, start: int = 0, condition: Condition = None, count: int = 1
    ) -> int:
        """Returns how many frames `sample` makes of `count` seeds, given its other arguments.

        Raises:
          ConfigError: They are out of range, or a condition says nothing of some of the frames.
        """
        return self._length(frames, start, self._given(condition, count))

    def _length(self, frames: int | None, start: int, given: Latents) -> int:
        """Returns the number of frames, given conditions as latents have them."""
        if not is_whole(start):
            raise ConfigError(f"start is {start!r}", "a whole number, 0 to about 2^31")
        end = self._end(given)
        if frames is None:
            last = end or self.limit
            frames = max(last - start, 1) if last else FRAMES
        self._chunks(frames, start)
        if end and start + frames > end:
            raise ConfigError(
                f"frames {start} to {start + frames} are asked for",
                f"the condition has {end} frames",
            )
        return frames

    def _end(self, given: Latents) -> int:
        """Returns how many frames conditions in latents say something of; 0: there is no end."""
        return conditions.length(self.generator.conditions, conditions.of_flat(given))

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
        self,
        seeds: Seeds,
        frames: int,
        start: int,
        labels: Labels,
        given: Latents,
        carry: State | None = None,
    ) -> Latents:
        """Draws noise beside conditions as `latents` does; from a state, where one is known."""
        numbers = read_seeds(seeds)
        first, last = self._chunks(frames, start)
        label = self._labels(numbers, labels)
        begin = first * self._steps - self.generator.context
        need = (last - first) * self._steps + self._extra

        def noise(rows):
            # In blocks of one length, so that one program makes all of it.
            blocks = [self._draw(rows, begin + at) for at in range(0, need, self._steps)]
            motion = np.concatenate([motion for _, motion, _ in blocks], 1)[:, :need]
            return blocks[0][0], motion, blocks[0][2]

        content, motion, cycle = batches.by_batch(noise, self.batch, numbers)
        latents = {"content": content, "motion": motion, "cycle": cycle, "label": label}
        latents |= given
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

        asked = {name: x for name, x in latents.items() if "/" in name}

        def run(seeds, content, label, *given):
            some = dict(zip(asked, given, strict=True))
            before = self._draw(seeds, -generator.context)[1][:, : generator.context]
            told = self._told(some, 0, self.chunk)
            state = begin(self.params, content, before, label, **told)
            for at in range(chunk):
                motion = self._draw(seeds, at * self._steps)[1]
                told = self._told(some, at, self.chunk)
                state, _ = advance(self.params, state, content, motion, label, **told)
            return (state,)

        rows = seeds, latents["content"], latents["label"], *asked.values()
        return batches.by_batch(run, self.batch, *rows)[0]

    def _check_motion(self, latents: Latents, first: int, last: int) -> None:
        """Raises ConfigError unless latents are for the chunks from one to before another."""
        need, have = (last - first) * self._steps + self._extra, latents["motion"].shape[1]
        if have != need:
            raise ConfigError(
                f"these latents hold {have} steps of motion, frames {first * self.chunk} to "
                f"{last * self.chunk} need {need}",
                "decode with the frames and start they were drawn for",
            )

    def _decode(
        self, latents: Latents, frames: int, start: int, progress: Progress | None = None
    ) -> tuple[Video, State | None]:
        """Turns noise into video as `decode` does; also returns a recurrent generator's state."""
        first, last = self._chunks(frames, start)
        self._check_motion(latents, first, last)
        count, length, states = len(latents["content"]), (last - first) * self.chunk, []
        video = np.empty((count, length, *height_width(self.size), 3), np.uint8)
        for rows in batches.rows(count, self.batch):
            state, batch = None, self._batch(latents, rows)
            for number, (made, after) in enumerate(self._decode_batch(batch, first, last)):
                time = slice(number * self.chunk, (number + 1) * self.chunk)
                video[rows, time], state = made[: len(video[rows])], after
                if progress is not None:
                    done = rows.start * length + len(video[rows]) * min(time.stop, length)
                    progress(done * frames // length, count * frames)
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
                told = self._told(latents, first, self.chunk)
                state = programs.begin(generator)(self.params, content, before, label, **told)
            for chunk in range(first, last):
                part = motion[:, (chunk - first) * steps :][:, :steps]
                told = self._told(latents, chunk, self.chunk)
                state, states = advance(self.params, state, content, part, label, **told)
                video = render(self.params, states, content, label, **told)
                yield np.asarray(video), np.asarray(state)
            return
        decode = programs.decode(generator, self.chunk)
        for chunk in range(first, last):
            at = (chunk - first) * steps
            part = motion[:, at : at + steps + self._extra]
            start = np.asarray(chunk * self.chunk, np.int32)
            told = self._told(latents, chunk, self.chunk)
            video = decode(self.params, content, part, cycle, start, label, **told)
            yield np.asarray(video), None

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

    def _labels(self, seeds: np.ndarray, labels: Labels) -> Int32[np.ndarray, " videos"]:
        found = class_numbers(self.classes, seeds, labels)
        if not self.looks:
            return found
        chances = [stream(int(seed), "look").uniform() for seed in seeds]
        pairs = zip(found.tolist(), chances, strict=True)
        return np.array([draw(self.looks, kind, u) for kind, u in pairs], np.int32)
