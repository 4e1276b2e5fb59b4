"""Do generated toy clips show what toy clips show? A check of each clip by rule, without a network.

A clip passes when in every frame there is one compact object whose outline is a disc or a square of
plausible size, the object and the background each keep one colour over the clip, the object keeps
its shape and size, and its track is continuous and moves. The thresholds were chosen on real clips
so that nearly all of them pass, and then left alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from vidgen.data import toy_captions
from vidgen.data.toy import CLASSES, RADIUS, SPEED

CONTRAST = 0.15  # least difference (of 0..1, largest channel) between object and background
OUTLINE = 0.80  # least intersection over union with the ideal shape, mean over frames
OUTLINE_WORST = 0.65  # and in the worst frame
FLATNESS = 0.06  # largest standard deviation of colour inside the object or the background
DRIFT = 0.08  # largest change over the clip of the object's or the background's colour
GROWTH = 0.20  # largest relative deviation of the object's radius from its median
SLACK = 1.0  # pixels a frame that a measured step may exceed the fastest true one
STILL = 0.15  # least mean step in pixels a frame


def _outlines(
    size: tuple[int, int], centre: Float[np.ndarray, "2"], area: float | np.integer
) -> dict[str, Bool[np.ndarray, "{size[0]} {size[1]}"]]:
    """Returns the ideal masks of a disc and a square of that area at that centre."""
    y, x = (np.abs(np.arange(side) + 0.5 - at) for side, at in zip(size, centre, strict=True))
    dy, dx = y[:, None], x[None, :]
    half = np.sqrt(area) / 2
    return {
        "disc": dy**2 + dx**2 <= area / np.pi,
        "square": np.maximum(dy, dx) <= half,
    }


def _iou(a: Bool[np.ndarray, "height width"], b: Bool[np.ndarray, "height width"]) -> float:
    return np.sum(a & b) / max(np.sum(a | b), 1)


def describe(clip: UInt8[np.ndarray, "time height width 3"]) -> dict:
    """Measures one clip.

    Args:
      clip: uint8 `[T, H, W, 3]`, T at least 2.

    Returns:
      A dict: `faults`, the tuple of names of what is wrong (empty if the clip passes); `shape`, a
      name out of `CLASSES`, or None without an object; `colour` and `background`, mean RGB in
      [0, 1]; `track`, float `[T, 2]` in pixels.
    """
    video = clip.astype(np.float64) / 255
    height, width = clip.shape[1:3]
    side = min(height, width)
    backgrounds, colours, tracks, radii, spreads = [], [], [], [], []
    fits: dict[str, list[float]] = {name: [] for name in CLASSES}
    empty = {"shape": None, "colour": None, "background": None, "track": None}
    for frame in video:
        background = np.median(frame.reshape(-1, 3), axis=0)
        distance = np.abs(frame - background).max(-1)
        peak = np.quantile(distance, 0.98)  # objects cover at least 5 % of a frame
        if peak < CONTRAST:
            return {"faults": ("no object",), **empty}
        mask = distance > peak / 2  # half of the soft edge belongs to the object
        parts = np.zeros(mask.shape, np.int32)
        ndimage.label(mask, output=parts)
        areas = np.bincount(parts.ravel())[1:]
        mask = parts == 1 + np.argmax(areas)
        if areas.max() < 0.9 * areas.sum():
            return {"faults": ("several objects",), **empty}
        area, centre = areas.max(), np.argwhere(mask).mean(0) + 0.5
        for name, ideal in _outlines((height, width), centre, area).items():
            fits[name].append(_iou(mask, ideal))
        inside = ndimage.binary_erosion(mask, iterations=1)
        # Two pixels leave the soft edge out; whatever else is not background counts against it.
        outside = np.logical_not(ndimage.binary_dilation(mask, iterations=2))
        if not inside.any() or not outside.any():
            return {"faults": ("no object",), **empty}
        colours.append(frame[inside].mean(0))
        backgrounds.append(background)
        spreads.append(max(frame[inside].std(0).max(), frame[outside].std(0).max()))
        tracks.append(centre)
        radii.append(np.sqrt(area))
    fit = {name: np.mean(values) for name, values in fits.items()}
    shape = max(fit, key=lambda name: fit[name])
    track, radius = np.array(tracks), np.array(radii) / side
    # From the square root of an area back to a half side or a radius.
    half = np.median(radius) / (2 if shape == "square" else np.sqrt(np.pi))
    steps = np.linalg.norm(np.diff(track, axis=0), axis=1)
    tests = {
        "outline": fit[shape] >= OUTLINE and min(fits[shape]) >= OUTLINE_WORST,
        "flat colours": max(spreads) <= FLATNESS,
        "constant colour": np.ptp(colours, axis=0).max() <= DRIFT
        and np.ptp(backgrounds, axis=0).max() <= DRIFT,
        "size": 0.8 * RADIUS[0] <= half <= 1.2 * RADIUS[1],
        "constant size": np.abs(radius / np.median(radius) - 1).max() <= GROWTH,
        "continuous track": steps.max() <= SPEED[1] * side + SLACK,
        "moves": steps.mean() >= STILL,
    }
    return {
        "faults": tuple(name for name, good in tests.items() if not good),
        "shape": shape,
        "colour": np.mean(colours, axis=0),
        "background": np.mean(backgrounds, axis=0),
        "track": track,
    }


def obeyed(
    clips: UInt8[np.ndarray, "clips time height width 3"], wanted: Sequence[Mapping[str, str]]
) -> dict[str, float]:
    """Compares clips with what they were asked to show.

    Args:
      clips: uint8 `[N, T, H, W, 3]`.
      wanted: Of each, as from `vidgen.data.toy_captions.words`.

    Returns:
      Shares in [0, 1] of all clips: of those whose `colour`, whose `shape` and whose `direction` in
      the first frames is that of the words.
    """
    hits: dict[str, list[bool]] = {"colour": [], "shape": [], "direction": []}
    for clip, words in zip(clips, wanted, strict=True):
        found = describe(clip)
        shown: dict[str, str | None] = {"shape": found["shape"]}
        if found["track"] is not None:
            down, right = np.median(np.diff(found["track"][:4], axis=0), axis=0).tolist()
            shown["colour"] = toy_captions.colour_name(found["colour"])
            shown["direction"] = toy_captions.direction_name(down, right)
        for name, each in hits.items():
            each.append(shown.get(name) == words[name])
    return {name: float(np.mean(each)) for name, each in hits.items()}


def score(clips: UInt8[np.ndarray, "clips time height width 3"]) -> dict[str, float]:
    """Checks a set of generated toy clips.

    Args:
      clips: uint8 `[N, T, H, W, 3]`.

    Returns:
      Shares in [0, 1]: `pass`; `disc` and `square`, shares of the passing clips; one
      `fault/<name>` for each fault that occurred. And `hues`, how many of 12 equal arcs of the
      colour circle the passing clips' objects fall in, and `places`, how many of the 3x3 fields of
      the frame their first centres fall in.
    """
    found = [describe(clip) for clip in clips]
    good = [d for d in found if not d["faults"]]
    result = {"pass": len(good) / len(found)}
    for name in CLASSES:
        result[name] = sum(d["shape"] == name for d in good) / max(len(good), 1)
    result["hues"] = float(len({int(12 * _hue(d["colour"])) % 12 for d in good}))
    size = np.array(clips.shape[2:4])
    result["places"] = float(len({tuple((d["track"][0] * 3 // size).astype(int)) for d in good}))
    for fault in sorted({fault for d in found for fault in d["faults"]}):
        result[f"fault/{fault}"] = sum(fault in d["faults"] for d in found) / len(found)
    return result


def _hue(rgb: Float[np.ndarray, "3"]) -> float:
    """Returns the angle on the colour circle, in turns."""
    return (
        float(np.arctan2(np.sqrt(3) * (rgb[1] - rgb[2]), 2 * rgb[0] - rgb[1] - rgb[2]))
        / (2 * np.pi)
        % 1.0
    )
