"""Splits classes into looks: clips that look alike, which a model is told apart in training.

A GAN that is told "someone who waves" makes one figure that waves, for one is enough to be
believed. Told which of the looks a real clip has, it must make them all. In samples the look is
drawn, as often as clips have it.

Reference: Liu et al., "Diverse image generation via self-conditioned GANs", 2020, for clusters as
  classes; Boley, "Principal direction divisive partitioning", 1998, for the clusters.
"""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int, Int32, UInt8

FRAMES = 4  # frames of a clip that are looked at
POINTS = 16  # pixels that are looked at along each of their sides, or a few more
QUANTILES = np.linspace(0.01, 0.99, 32)  # of each colour's values, by which clips are compared


def counts(label: Int[np.ndarray, " clips"], classes: int, looks: int) -> tuple[int, ...]:
    """Returns how many looks each class has: `looks`, or as many as it has clips, or one."""
    return tuple(int(max(min(n, looks), 1)) for n in np.bincount(label, minlength=classes))


def split(
    clip: Callable[[int], UInt8[np.ndarray, "time height width channel"]],
    numbers: Iterable[int],
    label: Int[np.ndarray, " clips"],
    classes: int,
    looks: int,
) -> tuple[Int32[np.ndarray, " clips"], tuple[tuple[int, ...], ...]]:
    """Splits each class into looks.

    Clips are compared by how often colours occur in them, which is the same wherever things stand
    and whichever way they face. Again and again the largest look of a class is split along its
    first principal component, where the gap between neighbours is largest, but not in the outer
    quarters. There is no chance in it: the same clips have the same looks.

    Args:
      clip: Returns a clip by its number, of any size.
      numbers: Numbers of the clips to split, rising.
      label: Their classes, in the same order.
      classes: Number of classes.
      looks: Looks of each class; fewer where it has fewer clips, one where it has none.

    Returns:
      The look of each of these clips, counted through all classes, in their order; and for each
      class how many clips its looks have.
    """
    seen = np.array([_colours(clip(n)) for n in numbers])
    found, sizes, first = np.zeros(len(label), np.int32), [], 0
    for kind, most in enumerate(counts(label, classes, looks)):
        groups = [np.flatnonzero(label == kind)]
        while len(groups) < most:
            largest = max(range(len(groups)), key=lambda n: len(groups[n]))
            groups[largest : largest + 1] = _parts(groups[largest], seen)
        for group in groups:
            found[group] = first
            first += 1
        sizes.append(tuple(len(group) for group in groups))
    return found, tuple(sizes)


def draw(sizes: tuple[tuple[int, ...], ...], label: int, u: Float[np.ndarray, ""] | float) -> int:
    """Returns the look, counted through all classes, that a number in [0, 1) chooses of a class."""
    first = sum(map(len, sizes[:label]))
    ends = np.cumsum(sizes[label])
    chosen = int(np.searchsorted(ends, u * ends[-1], side="right"))
    return first + min(chosen, len(ends) - 1)  # a class without clips has one empty look


def _colours(clip: UInt8[np.ndarray, "time height width channel"]) -> np.ndarray:
    """Returns the quantiles of each colour over some pixels of some frames."""
    times = np.linspace(0, len(clip) - 1, FRAMES).round().astype(int)
    down, across = (max(side // POINTS, 1) for side in clip.shape[1:3])
    pixels = clip[times, ::down, ::across].reshape(-1, clip.shape[-1])
    return np.quantile(pixels, QUANTILES, axis=0).ravel()


def _parts(group: Int[np.ndarray, " members"], seen: np.ndarray) -> list[np.ndarray]:
    """Splits a group of at least two in two, neither smaller than a quarter of it, rounded down."""
    centred = seen[group] - seen[group].mean(0)
    place = np.linalg.svd(centred, full_matrices=False)[0][:, 0]
    # A component has no direction of its own: the first clip says which, on any machine.
    place = np.copysign(1, -place[0]) * place
    order, least = np.argsort(place, kind="stable"), max(len(group) // 4, 1)
    gaps = np.diff(place[order])[least - 1 : len(group) - least]
    cut = least + int(np.argmax(gaps))
    return [np.sort(group[order[:cut]]), np.sort(group[order[cut:]])]
