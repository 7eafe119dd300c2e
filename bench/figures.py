"""The figures of a benchmark: medians of several measurements, with their spread, for people and for programs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One measured quantity."""

    name: str
    samples: Sequence[float]
    unit: str
    goal: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> str:
        """Lowest and highest, if there are several."""
        low, high = min(self.samples), max(self.samples)
        return f"{shown(low)} … {shown(high)}, {len(self.samples)} times" if len(self.samples) > 1 else ""

    def line(self) -> str:
        """For people: median, range and goal."""
        spread = f"   ({self.spread})" if self.spread else ""
        goal = f"   goal {self.goal}" if self.goal else ""
        return f"{self.name:28} {shown(self.median):>12} {self.unit:10}{goal}{spread}"


@dataclass
class Figures:
    """All figures of one benchmark."""

    figures: list[Figure] = field(default_factory=list)

    def add(self, name: str, samples: float | Sequence[float], unit: str = "", goal: str = "") -> float:
        """Takes one measurement or several; returns their median."""
        figure = Figure(name, [samples] if isinstance(samples, int | float) else samples, unit, goal)
        self.figures.append(figure)
        return figure.median

    def values(self) -> dict[str, float]:
        """For programs: the medians."""
        return {figure.name: float(f"{figure.median:.4g}") for figure in self.figures}

    def lines(self) -> Iterator[str]:
        """For people."""
        return (figure.line() for figure in self.figures)

    def table(self) -> Iterator[str]:
        """For a page: lines of Markdown."""
        yield "| figure | median | unit | goal | range |"
        yield "|---|---:|---|---|---|"
        for figure in self.figures:
            yield f"| {figure.name} | {shown(figure.median)} | {figure.unit} | {figure.goal} | {figure.spread} |"


def shown(value: float) -> str:
    """Four digits, with separators where they help."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
