"""What each kind of data set is: one object for each, listed here once.

Everything that differs between kinds is asked of these objects: `dataset.kind` of a configuration names one of them.
"""

from hpe_tasks.datasets.coco import COCO
from hpe_tasks.datasets.crowdpose import CROWDPOSE
from hpe_tasks.datasets.custom import CUSTOM
from hpe_tasks.datasets.kind import DatasetKind, GateMetric, Layout, MetricName
from hpe_tasks.datasets.mpii import MPII

__all__ = ["COCO", "CROWDPOSE", "CUSTOM", "KINDS", "MPII", "DatasetKind", "GateMetric", "Layout", "MetricName"]

KINDS: dict[str, DatasetKind] = {kind.name: kind for kind in (COCO, MPII, CROWDPOSE, CUSTOM)}
"""By the name that `dataset.kind` has for it."""
