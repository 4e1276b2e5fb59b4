"""What each score is called and means, and how it is written."""

from collections.abc import Iterator, Mapping

Score = dict[str, float]  # `value` and, where estimated, `low` and `high` (95 %)
Scores = dict[str, Score]

# Which way is good: "-" low, "+" high, "1" near one, "=" near that of the real clips; and what a
# score is, in a few words. docs/metrics.md has more.
MEANINGS = {
    "fvd": ("-", "Frechet video distance: I3D logits as Gaussians"),
    "fvd_infinity": ("-", "the same, extrapolated to sets without end"),
    "kvd": ("-", "kernel video distance: unbiased MMD of I3D logits; 0 for equal sets"),
    "frechet": ("-", "Frechet distance of the network's features; no FVD"),
    "frechet_infinity": ("-", "the same, extrapolated to sets without end"),
    "kernel": ("-", "unbiased MMD of the network's features; no KVD"),
    "frame_frechet": ("-", "Frechet distance of single frames"),
    "precision": ("+", "share of clips among the real ones"),
    "recall": ("+", "share of real clips among these"),
    "density": ("1", "how densely real clips lie about these"),
    "coverage": ("+", "share of real clips with one of these nearby"),
    "inception_score": ("+", "how sure and how varied the classes are"),
    "flow": ("=", "optical flow, % of the frame's side a frame"),
    "difference": ("=", "difference of neighbouring frames, levels of 255"),
    "static": ("=", "share of frames like the one before"),
    "period": ("=", "how far motion comes back: 1 is a loop"),
    "flicker": ("=", "second difference of brightness, levels of 255"),
    "drift": ("=", "distance of the last frame's features from the first's"),
    "flow_distance": ("-", "Wasserstein distance of flow, in real standard deviations"),
    "difference_distance": ("-", "the same of differences"),
    "flicker_distance": ("-", "the same of flicker"),
    "period_distance": ("-", "the same of periods"),
    "drift_distance": ("-", "the same of drift"),
    "content_diversity": ("1", "distance of two first frames, over that of two real ones"),
    "motion_diversity": ("1", "distance of two motions, over that of two real ones"),
    "different_bins": ("-", "share of 20 kinds of clips that are too rare or too frequent"),
    "copied": ("-", "share of clips that are copies of real ones"),
    "nearest_distance": ("1", "distance to the nearest real clip, over the usual one"),
}
HEADINGS = ("score", "value [95 %]", "real clips", "(- low, + high, 1 near one, = near real)")
_REAL = "_real"  # ends the name of a score of the real clips themselves


def text(score: Score) -> str:
    """Writes a score as `12.3 [11.8, 12.9]`."""
    interval = f" [{score['low']:.4g}, {score['high']:.4g}]" if "low" in score else ""
    return f"{score['value']:.4g}{interval}"


def names(scores: Mapping[str, Score]) -> list[str]:
    """Returns the names of scores, those of the real clips themselves left out."""
    return [name for name in scores if not name.endswith(_REAL)]


def of_real(scores: Mapping[str, Score], name: str) -> Score | None:
    """Returns the score of that name of the real clips themselves, where there is one."""
    return scores.get(f"{name}{_REAL}")


def rows(scores: Mapping[str, Score]) -> Iterator[tuple[str, str, str, str]]:
    """Yields cells under `HEADINGS`: name, value, that of the real clips or "", what it is."""
    for name in names(scores):
        real = of_real(scores, name)
        good, meaning = MEANINGS[name]
        yield name, text(scores[name]), text(real) if real else "", f"({good}) {meaning}"
