"""Protocols of measuring, the manifest of what scores depend on, and when two reports compare."""

import dataclasses
from collections.abc import Mapping
from typing import TypedDict

from vidgen.errors import ConfigError
from vidgen.metrics.features import Network

MIN_CLIPS = 8  # of a side; fewer are refused
FEW_CLIPS = 256  # of a side; fewer are measured with a warning


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is measured.

    Attributes:
      version: Raised when what the protocol computes changes: reports of another do not compare.
      network: Name of the feature network, as in `features.build`.
      clips: How many clips of each side.
      frames: Frames of a clip.
    """

    version: int
    network: str
    clips: int
    frames: int


PROTOCOLS: dict[str, Protocol] = {
    "fvd16": Protocol(version=1, network="i3d", clips=2048, frames=16),
    "fvd128": Protocol(version=1, network="i3d", clips=2048, frames=128),
    "quick": Protocol(version=1, network="random", clips=256, frames=16),
    "pixel": Protocol(version=1, network="pixel", clips=256, frames=16),
}


class RealClips(TypedDict):
    """The real clips of a manifest: which windows of them, and how they were read.

    Attributes:
      fingerprint: Changes with any of the clips.
      half: 0 where one half of them was measured against the other, or None.
      stride: Every n-th frame was taken.
      fps: They were resampled to this rate, or None.
      crop: "center".
      size: Of the frames: the side of squares, or `[height, width]`.
      windows: `[name of the clip, first frame]` of each.
    """

    fingerprint: str
    half: int | None
    stride: int
    fps: float | None
    crop: str
    size: int | list[int]
    windows: list[list[str | int]]


class Manifest(TypedDict):
    """All that scores depend on but for the generated clips; JSON data.

    Attributes:
      protocol: Its name.
      version: Its version.
      clips: How many of each side were asked for.
      measured: How many generated ones there were.
      frames: Frames of a clip.
      network: The feature network.
      layer: Which of its layers.
      sha256: Hash of its weights.
      resize: How frames come to the network's size.
      range: Range of the values that it takes.
      seed: Of the choice of windows and of all draws.
      real: The real clips.
    """

    protocol: str
    version: int
    clips: int
    measured: int
    frames: int
    network: str
    layer: str
    sha256: str
    resize: str
    range: list[int]
    seed: int
    real: RealClips


def choose(name: str, clips: int | None) -> tuple[Protocol, int]:
    """Returns a protocol, and how many clips of each side to measure.

    Args:
      name: In `PROTOCOLS`.
      clips: Instead of the protocol's number, or None.

    Raises:
      ConfigError: There is no such protocol, or the clips are fewer than `MIN_CLIPS`.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {name!r}", "one of " + ", ".join(PROTOCOLS))
    protocol = PROTOCOLS[name]
    count = protocol.clips if clips is None else clips
    if count < MIN_CLIPS:
        raise ConfigError(f"--clips={count}", f"at least {MIN_CLIPS}")
    return protocol, count


def make_manifest(
    name: str,
    *,
    clips: int,
    measured: int,
    network: Network,
    seed: int,
    real: RealClips,
) -> Manifest:
    """Returns the manifest of scores by a protocol; arguments as the fields of `Manifest`."""
    protocol = PROTOCOLS[name]
    return {
        "protocol": name,
        "version": protocol.version,
        "clips": clips,
        "measured": measured,
        "frames": protocol.frames,
        "network": network.name,
        "layer": network.layer,
        "sha256": network.sha256,
        "resize": network.resize,
        "range": [-1, 1],
        "seed": seed,
        "real": real,
    }


def title(manifest: Manifest) -> str:
    """Says in a line what was measured."""
    return (
        f"{manifest['protocol']} version {manifest['version']}: {manifest['clips']} clips of "
        f"{manifest['frames']} frames, {manifest['network']} features"
    )


# ------------------------------------------------------------------------ whether two compare

_WORDS = {  # fields of a manifest, as a person calls them
    "protocol": "protocol",
    "version": "version of the protocol",
    "clips": "clips",
    "measured": "generated clips",
    "frames": "frames",
    "network": "network",
    "seed": "seed",
}
_NETWORK_WORDS = {
    "layer": "layer of the network",
    "sha256": "weights of the network, SHA-256",
    "resize": "how frames are resized",
    "range": "range of values",
}
_REAL_WORDS = {"stride": "stride", "fps": "frames per second", "crop": "crop", "size": "size"}


def differences(one: Manifest, other: Manifest, real: tuple[str, str] | None = None) -> list[str]:
    """Says in words where two manifests differ: `frames: 16 and 128`.

    What follows from another difference is not named beside it: of two networks not their weights,
    of other clips not their windows.

    Args:
      one: A manifest.
      other: Another.
      real: The real clips of both in words, as `56 clips of actions64`; by default as far as the
        manifests say.

    Returns:
      A line for each difference; none where the scores compare.
    """
    lines = _unlike(_WORDS, one, other)
    if one["network"] == other["network"]:
        lines += _unlike(_NETWORK_WORDS, one, other)
    a, b = one["real"], other["real"]
    if a["fingerprint"] != b["fingerprint"]:
        words = real or (describe_windows(one), describe_windows(other))
        both = words[0] if words[0] == words[1] else f"{words[0]} and {words[1]}"
        lines.append(f"real clips: {both} (fingerprint differs)")
    if a["half"] != b["half"]:
        lines.append(f"real clips taken: {_half(a)} and {_half(b)}")
    lines += _unlike(_REAL_WORDS, a, b)
    # Windows follow from all else: they differ alone where vidgen drew them otherwise than now.
    if not lines and a["windows"] != b["windows"]:
        unlike = sum(x != y for x, y in zip(a["windows"], b["windows"], strict=False))
        lines.append(
            f"windows of the real clips: {len(a['windows'])} and {len(b['windows'])}, {unlike} of "
            "those in the same places are others"
        )
    # What another version of vidgen has added.
    return lines or _unlike({name: name for name in sorted({*one, *other} - {"real"})}, one, other)


def describe_windows(manifest: Manifest) -> str:
    """Says of which real clips a manifest is, as far as it knows: it has no path."""
    windows = manifest["real"]["windows"]
    names = sorted({str(name) for name, _ in windows})
    return f"{len(windows)} windows of {len(names)} clips ({', '.join([*names[:1], '...'])})"


def _unlike(
    words: Mapping[str, str], one: Mapping[str, object], other: Mapping[str, object]
) -> list[str]:
    return [
        f"{name}: {_value(field, one.get(field))} and {_value(field, other.get(field))}"
        for field, name in words.items()
        if one.get(field) != other.get(field)
    ]


def _value(field: str, value: object) -> str:
    if value is None:
        return "as recorded" if field == "fps" else "none"
    text = str(value)
    return text if len(text) < 64 else f"{text[:8]}..."  # a hash


def _half(real: RealClips) -> str:
    return "all" if real["half"] is None else "one half"
