"""What each kind of data set is: one object for each, listed here once.

Everything that differs between kinds is asked of these objects: `dataset.kind` of a configuration names one of them.
"""

from hpe_tasks.datasets.coco import COCO
from hpe_tasks.datasets.kind import DatasetKind, GateMetric, Layout, MetricName
from hpe_tasks.datasets.mpii import MPII

__all__ = ["COCO", "KINDS", "MPII", "DatasetKind", "GateMetric", "Layout", "MetricName"]

KINDS: dict[str, DatasetKind] = {kind.name: kind for kind in (COCO, MPII)}
"""By the name that `dataset.kind` has for it."""
