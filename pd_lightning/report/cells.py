"""What stands in the cells of a table."""

from __future__ import annotations

import math

from pd_lightning.report.measures import Measure
from pd_lightning.scores import SCORES


def percent(value: float) -> str:
    """A percentage, or a dash."""
    return "-" if math.isnan(value) else f"{value:.1f}%"


def between(low: float, high: float) -> str:
    """An interval, or a dash."""
    return "(-)" if math.isnan(low) else f"({low:.1f} to {high:.1f})"


def with_interval(value: float, low: float, high: float) -> str:
    """A percentage and its interval: a dash if that is unknown, or begins where percentages have no meaning."""
    if math.isnan(value):
        return "-"
    return f"{percent(value)} {between(low, high)}" if low >= 0 else f"{percent(value)} (-)"


def of_teacher(found: Measure) -> float:
    """Percent of the teacher; nan also where the score is negative, and the percentage without a meaning."""
    return math.nan if found.score < 0 else found.percent


def cell(found: Measure | None) -> str:
    """Score and percent of the teacher; above random, where only that has a meaning."""
    if found is None:
        return "-"
    share, below_zero = of_teacher(found), found.game in SCORES and SCORES[found.game].random < 0
    instead = below_zero and math.isnan(share) and not math.isnan(found.above_random)
    above = f" ({percent(found.above_random)} above random)" if instead else ""
    return f"{found.score:.1f}, {percent(share)}{above}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table, its columns of numbers (and of dashes) aligned to the right."""
    numbers = (all(not cell or cell[0] in "-0123456789" for cell in column) for column in zip(*rows, strict=True))
    rule = ["---:" if right else "---" for right in numbers]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])
