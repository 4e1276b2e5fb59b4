"""Plots of scores, as SVG or PNG, by matplotlib: an extra, `pip install 'vidgen[plots]'`.

The same reports give the same bytes, with the same version of matplotlib.
"""

import contextlib
import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vidgen.errors import ConfigError
from vidgen.evaluation import scores
from vidgen.evaluation.scores import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REAL, GENERATED = "#777777", "#dd6600"
INSTALL = "pip install 'vidgen[plots]'"
METADATA: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".png": {}}  # by kind of file
_COLUMNS = 3
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "vidgen",  # ids of elements, else drawn at random
    "svg.fonttype": "none",  # text stays text
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def available() -> bool:
    """Tells whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def require(suffix: str = ".svg") -> None:
    """Checks that plots can be drawn.

    Args:
      suffix: Of the file that is wished.

    Raises:
      ConfigError: matplotlib is not installed, or there is no such format.
    """
    if suffix not in METADATA:
        said = f"plots are written as {' or '.join(METADATA)}"
        raise ConfigError(said, f"not as {suffix or 'a file without suffix'}")
    if not available():
        raise ConfigError("plots need matplotlib, which is not installed", INSTALL)


def _style() -> contextlib.AbstractContextManager[None]:
    """Sets the style of plots for a while, whatever a person's matplotlibrc says."""
    import matplotlib.style

    return matplotlib.style.context(["default", _STYLE])


def _figure(width: float, height: float) -> "Figure":
    """Makes a figure of its own, of inches: pyplot's are global."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _encode(figure: "Figure", suffix: str) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format=suffix[1:], metadata=METADATA[suffix], dpi=150)
    return data.getvalue()


def comparison(names: Sequence[str], reports: Sequence[Scores], suffix: str = ".svg") -> bytes:
    """Plots scores side by side: an axis for each score, a point and an interval for each report.

    A line marks the score of the real clips themselves, where there is one.

    Args:
      names: What the reports are called.
      reports: The scores of each.
      suffix: `.svg` or `.png`.

    Returns:
      What a file of that kind holds.

    Raises:
      ConfigError: matplotlib is not installed, or there is no such format.
    """
    shown = scores.names(reports[0])
    rows = math.ceil(len(shown) / _COLUMNS)
    height = 0.55 + 0.2 * len(names)
    require(suffix)
    with _style():
        figure = _figure(10, 0.3 + rows * height)
        axes = figure.subplots(rows, _COLUMNS, sharey=True, squeeze=False)
        places = range(len(names))
        for axis, score_name in zip(axes.flat, shown, strict=False):
            axis.set_title(score_name, loc="left", fontsize=8, fontweight="bold")
            axis.set_yticks(places, [name[-30:] for name in names])
            axis.set_ylim(len(names) - 0.5, -0.5)  # the first on top
            axis.margins(x=0.1)
            real = scores.of_real(reports[0], score_name)
            if real is not None:
                axis.axvline(real["value"], color=REAL, linestyle=":")
            for place, report in zip(places, reports, strict=True):
                score = report.get(score_name)
                if score is None:
                    continue
                axis.plot(score["value"], place, "o", color=GENERATED, markersize=4)
                if "low" in score:
                    axis.hlines(place, score["low"], score["high"], color=GENERATED)
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        return _encode(figure, suffix)


def distributions(values: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Plots the share of clips below each value, of real and of generated clips.

    Args:
      values: By name of a score, its values of each clip, `(real, generated)`, `[N]` and `[M]`.

    Returns:
      An SVG.

    Raises:
      ConfigError: matplotlib is not installed.
    """
    rows = math.ceil(len(values) / _COLUMNS)
    require()
    with _style():
        figure = _figure(9, 0.3 + 2 * rows)
        axes = figure.subplots(rows, _COLUMNS, squeeze=False)
        for axis, (name, (real, generated)) in zip(axes.flat, values.items(), strict=False):
            axis.ecdf(real, color=REAL, label="real")
            axis.ecdf(generated, color=GENERATED, label="generated")
            axis.set_title(name, loc="left", fontsize=8, fontweight="bold")
            axis.set_xlabel(scores.MEANINGS[name][1])
        axes.flat[0].legend(loc="lower right", frameon=False)
        for axis in axes.flat[len(values) :]:
            axis.set_visible(False)
        return _encode(figure, ".svg")
