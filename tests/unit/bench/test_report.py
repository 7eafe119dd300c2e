"""A run's results replace those of an earlier run on the page, and nothing else of it."""

from pathlib import Path

from bench.figures import Figures
from bench.harness.report import write


def figures_with(value: float) -> Figures:
    figures = Figures()
    figures.add("ours", [value, value + 2, value + 1], "events/s", goal="≥ 10")
    return figures


def test_a_section_is_added_and_then_replaced(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n\nwritten by people\n")

    write("speed", "How fast.", figures_with(1), "Monday.", page)
    write("other", "Another.", figures_with(50), "Monday.", page)
    write("speed", "How fast.", figures_with(20), "Tuesday.", page)

    text = page.read_text()
    assert text.startswith("# Benchmarks\n\nwritten by people\n\n<!-- results of speed -->\n### speed\n\nHow fast.\n")
    assert "| ours | 21 | events/s | ≥ 10 | 20 … 22, 3 times |" in text
    assert text.count("### speed") == text.count("### other") == 1
    assert text.index("Tuesday.") < text.index("### other")
