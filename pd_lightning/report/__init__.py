"""The paper's tables, learning curves and intervals from runs' own logs: `python -m pd_lightning.report RUN...`.

The rooms: `settings` <- `runs` <- `lineage` <- `folders`, `recorded`, `labels`, `measures` <- `summaries`, `groups`,
`cells` <- `details` <- `tables` <- `lines`, `following`, `teachers`, `pictures` <- `charts` <- `findings`; each imports
only from those to its left.
"""

from pd_lightning.report.findings import Findings
from pd_lightning.report.groups import measure
from pd_lightning.report.measures import Measure
from pd_lightning.report.runs import read_run
from pd_lightning.report.summaries import summarise
from pd_lightning.report.tables import report

__all__ = ["Findings", "Measure", "measure", "read_run", "report", "summarise"]
