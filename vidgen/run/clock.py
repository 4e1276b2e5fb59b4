"""Where the time of a run goes."""

import time


class Clock:
    """Accounts for a run's time: at every moment one part of it runs, so they sum to the whole.

    Parts: `startup`, `compile` (the first step), `data` (waiting for clips), `step`, `sample`,
    `save`, `other` (logs), and `lost`: what was done after the checkpoint that a start went on
    from. They count on over all starts of a run.
    """

    def __init__(self):
        self.parts: dict[str, float] = {}
        self.part, self.since = "startup", time.monotonic()
        self._start = self.since

    def add(self, parts: dict[str, float]) -> None:
        """Adds what earlier starts took."""
        for name, value in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + value

    def enter(self, part: str) -> None:
        """Ends the part that runs and begins another."""
        now = time.monotonic()
        self.parts[self.part] = self.parts.get(self.part, 0.0) + now - self.since
        self.part, self.since = part, now

    def since_start(self) -> float:
        """Returns the seconds since this start of the run."""
        return time.monotonic() - self._start

    def total(self) -> float:
        """Returns the seconds of all parts."""
        self.enter(self.part)
        return sum(self.parts.values())

    def seconds(self) -> dict[str, float]:
        """Returns `seconds/<part>` and `goodput`, the share of `step` in the whole."""
        total = self.total()
        parts = {f"seconds/{name}": value for name, value in sorted(self.parts.items())}
        return {**parts, "goodput": self.parts.get("step", 0.0) / total if total else 0.0}
