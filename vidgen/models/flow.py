"""Video by a flow in the latents of a codec: noise becomes latents along a learnt velocity.

Reference: Lipman et al., "Flow matching for generative modeling", 2023; Liu et al., "Flow straight
  and fast: learning to generate and transfer data with rectified flow", 2023; Chen et al.,
  "Diffusion forcing: next-token prediction meets full-sequence diffusion", 2024, for a noise level
  for each frame.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models import codec, known_frames, layers, protocol
from vidgen.models import conditions as conditioning
from vidgen.models.codec import round_latents, straight_through
from vidgen.models.known_frames import Hints, Known, apart
from vidgen.models.velocity import Velocity

SOLVERS = ("euler", "heun")
# Classes, arrays of conditions, and tokens of frames that are known.
_Asked = tuple[protocol.Label | None, conditioning.Given | None, Hints | None]


class FlowGenerator(protocol.GeneratorDefaults, nn.Module):
    """Follows a learnt velocity from noise to the latents of frames, which a codec decodes.

    What stays over a video is a latent of its own, the mean of its frames' latents: it is drawn
    first, of the content noise, and frames are drawn given it. Frames are drawn in chunks: those of
    a chunk together, with `margin` frames on each side of it, which are dropped. Attention in time
    reaches `reach` pairs of frames each way and knows distances alone. So a frame is a function of
    the weights, the seed and its number, in whatever window it is asked for.

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      classes: Number of classes; 0 for none.
      patch: Side in pixels of the patches that the codec's first layer takes.
      encoder_widths: Channels of its encoder's levels, finest first; each has half the side of the
        one before, and the last is the map of latents.
      widths: Channels of its decoder's levels, finest first, whose side is half that of frames.
      head: Channels of its last layers, at the resolution of frames.
      blocks: Residual blocks of each level.
      levels: Values of each number of a latent.
      join: Side of the squares of places that are one token; frames are joined in pairs.
      width: Channels of the tokens.
      heads: Heads of attention; divides the width.
      expand: Channels inside feed-forward layers over the width.
      layers: Blocks of attention in space, in time, and a feed-forward layer.
      reach: Pairs of frames that attention in time sees before and after each.
      chunk: Frames that are drawn together, even.
      margin: Frames on each side that are drawn with them, even, at most a chunk.
      stream: Draw chunks given the last frames before, instead of with those around.
      steps: When sampling, steps of the solver.
      whole_steps: The same for what is drawn once a video: its latent, and the frames before the
        first of a stream; 0: as many.
      kept: Draw that by a network of its own, the flow that the other was made of (`one_step`).
      guidance: When sampling, the velocity is that with class and conditions and so many times,
        less one, the difference from that without.
      solver: When sampling, `euler`, or `heun` with twice the evaluations.
      loop: Frames after which a sampled video begins again, a multiple of chunk; 0: never. None for
        a stream.
      conditions: What it is told beside the class, names and options (`models.conditions`):
        captions, and frames that are known whole.
      dtype: Type of the computation; parameters and latents are float32.
    """

    size: Size
    classes: int = 0
    patch: int = 4
    encoder_widths: tuple[int, ...] = (64, 128)
    widths: tuple[int, ...] = (48, 96, 128)
    head: int = 16
    blocks: int = 1
    levels: tuple[int, ...] = (8, 5, 5, 5)
    join: int = 2
    width: int = 192
    heads: int = 6
    expand: int = 4
    layers: int = 5
    reach: int = 4
    chunk: int = 32
    margin: int = 16
    stream: bool = False
    steps: int = 20
    whole_steps: int = 0
    kept: bool = False
    guidance: float = 1.0
    solver: str = "euler"
    loop: int = 0
    conditions: conditioning.Conditions = ()
    dtype: str = "float32"
    context = 1
    reconstructs = True
    sampling_options = ("stream", "steps", "whole_steps", "guidance", "solver", "loop")

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        codec.of(self).check()
        sizes = ("join", "width", "heads", "expand", "layers", "reach")
        layers.check_sizes(self, "generator", *sizes, "chunk", "margin", "steps")
        layers.check_heads(self.width, self.heads, "generator")
        rows, columns = codec.of(self).map
        if rows % self.join or columns % self.join:
            raise ConfigError(
                f"config.generator.join is {self.join}, and the codec's map {rows}x{columns}",
                "it must divide both",
            )
        for name in ("chunk", "margin"):
            if getattr(self, name) % 2:
                raise ConfigError(f"config.generator.{name} is {getattr(self, name)}", "even")
        layers.check_loop(self)
        if self.loop and self.stream:
            raise ConfigError(
                f"config.generator.loop is {self.loop}, and config.generator.stream is set",
                "what is drawn given the frames before does not come back: one of them",
            )
        if self.margin > self.chunk:
            raise ConfigError(
                f"config.generator.margin is {self.margin}", f"at most chunk={self.chunk}"
            )
        if self.solver not in SOLVERS:
            raise ConfigError(
                f"config.generator.solver is {self.solver!r}", f"one of {', '.join(SOLVERS)}"
            )
        conditioning.check(self.conditions, self.size)
        known_frames.check(self.conditions, "a flow")
        if self.stream and self._hinted:
            raise ConfigError(
                "config.generator.stream is True, and config.conditions has frames",
                "stream=False, or no known frames: a stream knows the frames before alone",
            )

    @property
    def beside(self) -> int:
        """Frames beside a window that are drawn with it, so that it must know of them."""
        return self.margin

    @property
    def _hinted(self) -> bool:
        """Whether frames may be known."""
        return "frames" in dict(self.conditions)

    @property
    def recurrent(self) -> bool:
        """Whether frames are drawn given those before, instead of with those around."""
        return self.stream

    @property
    def stride(self) -> int:
        """Frames of a keyframe of motion noise: those of a chunk."""
        return self.chunk

    @property
    def content(self) -> int:
        """Numbers of the latent of a video: those of a frame."""
        rows, columns = codec.of(self).map
        return rows * columns * len(self.levels)

    @property
    def motion(self) -> int:
        """Numbers of a chunk of frames."""
        return self.chunk * self.content

    def keyframes(self, frames: int) -> int:
        """Returns how many chunks of noise a window needs: one before its own, and one after.

        None comes after those of a stream.
        """
        return -(-(frames + self.chunk - 1) // self.chunk) + (1 if self.stream else 2)

    @property
    def tokens(self) -> int:
        """Tokens of a pair of frames."""
        rows, columns = codec.of(self).map
        return rows * columns // self.join**2

    def setup(self):
        """Makes the codec and the network of the velocity."""
        self.codec = codec.of(self).clone(parent=self)
        names = ("classes", "width", "heads", "expand", "layers", "reach", "conditions", "size")
        names = (*names, "dtype")
        arguments = {name: getattr(self, name) for name in names}
        arguments |= {"tokens": self.tokens, "features": self.join**2 * len(self.levels)}
        self.model = Velocity(**arguments)
        if self.kept:
            self.flow = Velocity(**arguments)

    def reconstruct(
        self, video: Float[Array, "batch time height width 3"]
    ) -> Float32[Array, "batch time height width 3"]:
        """Codes a video in [-1, 1] and decodes it."""
        return self.codec.reconstruct(video)

    def encode_tokens(
        self, video: Float[Array, "batch time height width 3"]
    ) -> tuple[Float32[Array, "batch 1 token feature"], Float32[Array, "batch pair token two"]]:
        """Maps a video in [-1, 1] of an even number of frames to tokens of about unit variance.

        Returns:
          Those of the mean of all frames `[B, 1, S, F]`, and of pairs of frames `[B, T/2, S, 2F]`.
        """
        b, t = video.shape[:2]
        x = self._encode(video.reshape(-1, *video.shape[2:])).reshape(b, t, self.tokens, -1)
        pairs = x.reshape(b, t // 2, 2, self.tokens, -1).swapaxes(2, 3)
        return x.mean(1, keepdims=True), pairs.reshape(b, t // 2, self.tokens, -1)

    def velocity(
        self,
        whole: Float[Array, "batch wholes token feature"],
        pairs: Float[Array, "batch pair token two"],
        level: Float[Array, "batch slot"],
        label: protocol.Label | None,
        known: bool,
        kept: bool = False,
        given: conditioning.Given | None = None,
        hints: Hints | None = None,
    ) -> tuple[
        Float32[Array, "batch wholes token feature"], Float32[Array, "batch pair token two"]
    ]:
        """Gives the velocity of tokens, arguments as for `Velocity`; of the kept flow if asked."""
        return (self.flow if kept else self.model)(whole, pairs, level, label, known, given, hints)

    def begin(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch context motion"],
        label: protocol.Label | None,
        given: conditioning.Given | None = None,
    ) -> Float32[Array, "batch past token two"]:
        """Draws the margin before frame 0, and the latent of the video, which stands first."""
        asked = label, given, None
        whole = self._draw_whole(content, asked)
        noise = self._pairs(motion[:, -1])[:, self._spare :]
        none, steps = jnp.zeros_like(noise[:, :0]), self.whole_steps or self.steps
        past = self._draw_pairs(whole, noise, none, asked, steps, self.kept)
        return jnp.concatenate([jnp.concatenate([whole, whole], -1), past], 1)

    def advance(
        self,
        carry: Float[Array, "batch past token two"],
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch chunk motion"],
        label: protocol.Label | None,
        given: conditioning.Given | None = None,
    ) -> tuple[
        Float32[Array, "batch past token two"], Float32[Array, "batch chunk pair token two"]
    ]:
        """Draws chunks, each given the last `margin` frames before it.

        Args:
          carry: From `begin`, or the chunk before.
          content: Unused: the latent of the video is in the carry.
          motion: Standard normal noise of chunks, `[B, N, chunk * content]`.
          label: Classes, int32 `[B]`, where there are classes.
          given: Arrays of conditions; those that are not there are absent.

        Returns:
          The carry after the last chunk, and the tokens of all, `[B, N, chunk/2, S, 2F]`.
        """
        del content
        whole = carry[:, :1, :, : carry.shape[-1] // 2]

        asked = label, given, None

        def chunk(past, noise):
            # Rounded as the latents of clips are: small faults are not handed on.
            past = self._rounded(past)
            pairs = self._draw_pairs(whole, self._pairs(noise), past, asked, self.steps)
            return jnp.concatenate([past, pairs], 1)[:, -past.shape[1] :], pairs

        past, states = jax.lax.scan(chunk, carry[:, 1:], motion.swapaxes(0, 1))
        return jnp.concatenate([carry[:, :1], past], 1), states.swapaxes(0, 1)

    def render(
        self,
        states: Float[Array, "batch chunk pair token two"],
        content: Float[Array, "batch content"],
        label: protocol.Label | None,
        given: conditioning.Given | None = None,
    ) -> Float32[Array, "batch time height width 3"]:
        """Decodes tokens of chunks to frames in [-1, 1]."""
        del content, label, given
        return self._decode(apart(_joined(states)))

    def __call__(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch keyframe motion"],
        cycle: Float[Array, "batch cycle"],
        start: Int[Array, " batch"],
        label: protocol.Label | None = None,
        pick: Int[Array, "batch time"] | None = None,
        given: conditioning.Given | None = None,
        *,
        frames: int,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes a window of video; see `protocol.Generator`."""
        del cycle
        if self.is_initializing():  # parameters alone
            video = jnp.zeros((1, 2, *height_width(self.size), 3))
            whole, pairs = self.encode_tokens(self.reconstruct(video))
            for kept in (False, True) if self.kept else (False,):
                self.velocity(whole, pairs, jnp.zeros((1, 2)), label, True, kept)
            return jnp.zeros((len(content), frames, *height_width(self.size), 3))
        offset = start % self.chunk
        at = offset[:, None] + (jnp.arange(frames)[None] if pick is None else pick)
        if self.stream:
            carry = self.begin(content, motion[:, :1], label, given)
            _, made = self.advance(carry, content, motion[:, 1:], label, given)
            return self._decode(apart(_joined(made)), at)
        known = self._encode_known(given, len(content))
        whole = self._draw_whole(content, (label, given, known and known.hints(0, 0)))
        count = motion.shape[1] - 2

        def chunk(number):
            noise = jax.lax.dynamic_slice_in_dim(motion, number, 3, 1)
            before, within, after = (self._pairs(noise[:, n]) for n in range(3))
            around = [before[:, self._spare :], within, after[:, : self.margin // 2]]
            none, noise = jnp.zeros_like(within[:, :0]), jnp.concatenate(around, 1)
            first = number * self.chunk - offset - self.margin
            hints = known and known.hints(first, self.chunk + 2 * self.margin)
            made = self._draw_pairs(whole, noise, none, (label, given, hints), self.steps)
            return made[:, self.margin // 2 :][:, : self.chunk // 2]

        def wanted(number):
            # A window that begins with a chunk ends with one: what comes after is not drawn.
            needed = jnp.any(offset + frames > number * self.chunk)
            nothing = jnp.zeros((len(content), self.chunk // 2, self.tokens, 2 * whole.shape[-1]))
            return jax.lax.cond(needed, lambda: chunk(number), lambda: nothing)

        made = jax.lax.map(wanted, jnp.arange(count))  # [N, B, chunk/2, S, 2F]
        video = self._decode(apart(_joined(made.swapaxes(0, 1))), at)
        return known.put_back(video, at - offset[:, None]) if known else video

    # ---------------------------------------------------------------------------- parts

    @property
    def _spare(self) -> int:
        """Pairs of a chunk that are not in the margin of the next."""
        return (self.chunk - self.margin) // 2

    def _pairs(self, noise: Float[Array, "batch motion"]) -> Float[Array, "batch pair token two"]:
        """Lays the noise of a chunk out as tokens."""
        return noise.reshape(len(noise), self.chunk // 2, self.tokens, -1)

    def _encode(
        self, frames: Float[Array, "n height width 3"]
    ) -> Float32[Array, "n token feature"]:
        """Maps frames in [-1, 1] to tokens."""
        latents = round_latents(self.codec.encode(frames), self.levels) * _SCALE
        return layers.space_to_depth(latents, self.join).reshape(len(frames), self.tokens, -1)

    def _rounded(self, x: Float[Array, "*some feature"]) -> Float[Array, "*some feature"]:
        """Rounds tokens to those of codes; gradients pass."""
        levels = self.levels * (x.shape[-1] // len(self.levels))
        return straight_through(x, round_latents(x / _SCALE, levels) * _SCALE)

    def _decode(
        self,
        latents: Float[Array, "batch time token feature"],
        at: Int[Array, "batch picked"] | None = None,
    ) -> Float32[Array, "batch frames height width 3"]:
        """Decodes the tokens of frames, or of those whose numbers are `at`, in [-1, 1]."""
        if at is not None:
            latents = jnp.take_along_axis(latents, at[:, :, None, None], 1)
        (rows, columns), (b, t) = codec.of(self).map, latents.shape[:2]
        x = self._rounded(latents).reshape(b * t, rows // self.join, columns // self.join, -1)
        x = self.codec.decode(layers.depth_to_space(x / _SCALE, self.join))
        return jnp.clip(x, -1, 1).reshape(b, t, *height_width(self.size), 3)

    def _encode_known(self, given: conditioning.Given | None, count: int) -> Known | None:
        """Codes the frames that are known; None where none can be."""
        if not self._hinted:
            return None
        given = conditioning.filled(given, self.conditions, count, self.size, 1)["frames"]
        return known_frames.coded(given, self._encode, self._decode)

    def _draw_whole(
        self,
        content: Float[Array, "batch content"],
        asked: _Asked,
    ) -> Float32[Array, "batch 1 token feature"]:
        """Draws the latent of videos of their content noise."""
        noise = content.reshape(len(content), 1, self.tokens, -1)
        pairs = jnp.zeros((len(content), 0, self.tokens, 2 * noise.shape[-1]))

        def run(x, level, label, given, hints):
            return self.velocity(x, pairs, level, label, False, self.kept, given, hints)[0]

        steps = self.whole_steps or self.steps
        return self._solve(run, noise, jnp.ones((1, 1)), asked, steps)

    def _draw_pairs(
        self,
        whole: Float[Array, "batch 1 token feature"],
        noise: Float[Array, "batch pair token two"],
        past: Float[Array, "batch past token two"],
        asked: _Asked,
        steps: int,
        kept: bool = False,
    ) -> Float32[Array, "batch pair token two"]:
        """Draws pairs of frames of noise, given the latent of the video and the pairs before."""
        known = jnp.arange(1 + past.shape[1] + noise.shape[1]) > past.shape[1]

        def run(x, level, label, given, hints):
            pairs = jnp.concatenate([past, x], 1)
            made = self.velocity(whole, pairs, level, label, True, kept, given, hints)[1]
            return made[:, past.shape[1] :]

        return self._solve(run, noise, known[None].astype(jnp.float32), asked, steps)

    def _solve(self, run, x, drawn, asked, steps):
        """Integrates the velocity from noise, level 0, to latents, level 1.

        Args:
          run: `(x, level [B, slots], label, given, hints) -> velocity`.
          x: Noise.
          drawn: 1 for slots that are drawn, 0 for those that are known, `[1, slots]`.
          asked: Classes, int32 `[B]`, where there are classes, arrays of conditions, and hints.
          steps: From level 0 to 1.
        """
        label, given, hints = asked
        always = conditioning.needed(self.conditions)  # without them nothing was learnt

        def velocity(x, moment):
            level = jnp.broadcast_to(1 - drawn + moment * drawn, (len(x), drawn.shape[1]))
            told = run(x, level, label, given, hints)
            if self.guidance == 1 or (label is None and not given):
                return told
            none = None if label is None else jnp.full(len(x), self.classes, jnp.int32)
            rest = {name: given[name] for name in always if given and name in given}
            without = run(x, level, none, rest, hints if "frames" in rest else None)
            return without + self.guidance * (told - without)

        def step(number, x):
            moment, by = number / steps, 1 / steps
            slope = velocity(x, moment)
            if self.solver == "heun":
                slope = (slope + velocity(x + by * slope, moment + by)) / 2
            return x + by * slope

        return jax.lax.fori_loop(0, steps, step, x)


def _joined(
    chunks: Float[Array, "batch chunk pair token two"],
) -> Float[Array, "batch pairs token two"]:
    """Puts the pairs of chunks one after another."""
    return chunks.reshape(len(chunks), -1, *chunks.shape[3:])


_SCALE = 3**0.5  # numbers that are uniform in [-1, 1] have unit variance when multiplied by it
