"""`python -m pd_lightning.report RUN...`: the paper's tables from the runs' own logs.

A folder with runs somewhere below it will do: `lightning_logs`, or that of a reproduction.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from pd_lightning.blocks import ShardError
from pd_lightning.report.folders import runs_in
from pd_lightning.report.following import following_table
from pd_lightning.report.lines import write_csv
from pd_lightning.report.recorded import recordings_of, teacher_of
from pd_lightning.report.runs import ReportError
from pd_lightning.report.tables import measure, report


def main() -> int:
    """The command line."""
    parser = ArgumentParser(
        prog="python -m pd_lightning.report", description="The paper's tables, from runs' own logs."
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="folders of runs, such as lightning_logs/version_0, or one that has runs somewhere below it, such as "
        "lightning_logs; those of `test` are left out",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=None,
        help="the datasets, whose episodes' mean returns are the teachers' (default: what each run learned from)",
    )
    parser.add_argument(
        "--output", type=Path, default=None, help="a folder for report.md, report.csv, curves.png and sizes.png"
    )
    options = parser.parse_args()
    try:
        runs = runs_in(options.runs)
        shards = recordings_of(options.root, runs)
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
    except (ReportError, ShardError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    measures = measure(runs, lambda student, game: teacher_of(shards, runs, student, game))
    text = "\n".join(filter(None, [report(measures), following_table(runs)]))
    print(text)
    if options.output:
        from pd_lightning.report.charts import learning_curves, score_against_size  # takes a second to import

        (options.output / "report.md").write_text(text)
        write_csv(options.output / "report.csv", measures)
        pictures = [learning_curves(runs, measures, options.output / "curves.png"),
                    score_against_size(measures, options.output / "sizes.png")]  # fmt: skip
        print(
            *("report.md", "report.csv", *(p.name for p in pictures if p)), f"are in {options.output}", file=sys.stderr
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
