"""`python -m pd_lightning.report RUN...`: the paper's tables from the runs' own logs.

A folder with runs somewhere below it will do: `lightning_logs`, or that of a reproduction.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import Namespace

from pd_lightning.commands import Options, status_of
from pd_lightning.files import write_text
from pd_lightning.report.findings import Findings


def options_of(arguments: list[str] | None = None) -> Namespace:
    """What was asked for."""
    parser = Options(prog="python -m pd_lightning.report", description="The paper's tables, from runs' own logs.")
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="folders of runs, such as lightning_logs/version_0, or one that has runs somewhere below it, such as "
        "lightning_logs",
    )
    parser.add_argument(
        "--tests",
        type=bool,
        default=False,
        help="score runs that were tested (`python train.py test`) by the episodes of their last test instead of their "
        "own last rollout's; by default folders of tests are left out",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=None,
        help="the datasets, whose episodes' mean returns are the teachers' (default: what each run noted of those it "
        "learned from)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        help="a folder for report.md, report.csv (a line a run), students.csv, curves.png and sizes.png",
    )
    return parser.parse_args(arguments)


def show(options: Namespace) -> None:
    """Prints the tables, and writes everything to a folder, if one was named."""
    found = Findings.of(options.runs, options.root, tests=options.tests)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    print(found.tables)
    if options.output:
        files = [write_text(options.output / "report.md", found.tables), *found.write(options.output)]
        print(*(file.name for file in files), f"are in {options.output}", file=sys.stderr)


def main() -> int:
    """The command line."""
    options = options_of()
    return status_of(lambda: show(options))


if __name__ == "__main__":
    sys.exit(main())
