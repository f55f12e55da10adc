"""What a soak measures, and what it says in the end: samples, fits, lines for people, one JSON."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

MIB: Final = 1 << 20
BARS: Final = "▁▂▃▄▅▆▇█"
WARM_UP: Final = 0.5  # part of a broker's life that is not judged: pools and caches fill up
SHORTEST: Final = 40.0  # s of a life that a slope can be told from
# Growth over the judged part of one life. A 32 MiB payload passes in several copies and the
# allocator keeps what it had for them; a leak of 1 KiB per call would show as far more than this.
MAX_GROWTH: Final = 48 * MIB


@dataclass
class Sample:
    """The broker at one moment of one of its lives."""

    at: float
    life: int
    rss: int
    fds: int
    streams: int = 0


@dataclass
class Report:
    """Everything that a soak found."""

    seed: int
    seconds: float
    violations: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)  # kills, stops, cuts...
    totals: Counter[str] = field(default_factory=Counter)  # calls, items, ends...
    left_out: list[str] = field(default_factory=list)
    base: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(count for name, count in self.events.items() if name.startswith("killed "))

    def lives(self) -> list[list[Sample]]:
        """The samples of each life of the broker, in order."""
        found: dict[int, list[Sample]] = {}
        for sample in self.samples:
            found.setdefault(sample.life, []).append(sample)
        return list(found.values())

    def growth(self) -> list[dict[str, float]]:
        """Return, for each life that is long enough, what its memory grew by in the judged part."""
        grown = []
        for life in self.lives():
            lasted = life[-1].at - life[0].at
            if lasted < SHORTEST:
                continue
            late = [s for s in life if s.at >= life[0].at + lasted * WARM_UP]
            slope = fit([(s.at, s.rss) for s in late])
            grown.append(
                {
                    "life_seconds": round(lasted, 1),
                    "median_mib": round(sorted(s.rss for s in late)[len(late) // 2] / MIB, 1),
                    "peak_mib": round(max(s.rss for s in life) / MIB, 1),
                    "slope_kib_per_s": round(slope / 1024, 1),
                    "grown_mib": round(slope * (late[-1].at - late[0].at) / MIB, 1),
                }
            )
        return grown

    def judge_memory(self) -> None:
        for life in self.growth():
            if life["grown_mib"] * MIB > MAX_GROWTH:
                self.violations.append(f"the broker's memory is not flat: {life}")

    # -- words ------------------------------------------------------------------------------------

    def table(self) -> str:
        ends = {k[4:]: v for k, v in self.totals.items() if k.startswith("end ")}
        rows = [
            ("seed", str(self.seed)),
            ("lasted", f"{self.seconds:.0f} s"),
            ("calls", f"{self.totals['calls']:,}, ok {ends.pop('ok', 0):,}"),
            ("items checked", f"{self.totals['items']:,}"),
            ("payloads", f"{self.totals['bytes'] / MIB:,.0f} MiB"),
            ("typed errors", ", ".join(f"{k} {v:,}" for k, v in sorted(ends.items())) or "none"),
            ("processes killed", str(self.kills)),
            ("happened", ", ".join(f"{k} {v}" for k, v in sorted(self.events.items()))),
            ("broker memory", sparkline([s.rss for s in self.samples])),
        ]
        rows += [
            (
                f"broker, {life['life_seconds']:.0f} s",
                (
                    f"median {life['median_mib']} MiB, peak {life['peak_mib']} MiB, "
                    f"slope {life['slope_kib_per_s']:+} KiB/s, grown {life['grown_mib']:+} MiB"
                ),
            )
            for life in self.growth()
        ]
        rows += [("before the load", _said(self.base)), ("after the load", _said(self.after))]
        rows += [("left out", text) for text in self.left_out]
        lines = [f"  {name:<18} {text}" for name, text in rows]
        lines += [f"  VIOLATION          {text}" for text in self.violations[:20]]
        if len(self.violations) > 20:
            lines.append(f"  ... and {len(self.violations) - 20} more")
        verdict = f"{len(self.violations)} violations" if self.violations else "no violation"
        return "\n".join([*lines, f"  soak: {verdict}"])

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        said = {**vars(self), "kills": self.kills, "growth": self.growth()}
        said["samples"] = [asdict(sample) for sample in self.samples]
        path.write_text(json.dumps(said, indent=1) + "\n")


def _said(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def fit(points: list[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through *points*; 0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def sparkline(values: list[int], width: int = 60) -> str:
    """Return *values* as a row of bars, the largest of each column, with both ends in words."""
    if not values:
        return "not measured"
    size = max(1, -(-len(values) // width))
    columns = [max(values[start : start + size]) for start in range(0, len(values), size)]
    low, high = min(columns), max(columns)
    scale = (len(BARS) - 1) / ((high - low) or 1)
    bars = "".join(BARS[round((value - low) * scale)] for value in columns)
    return f"{bars} {low / MIB:.0f} to {high / MIB:.0f} MiB"
