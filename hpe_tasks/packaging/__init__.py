"""The function's package: a reproducible, slim .zip for AWS Lambda, and what deploys it."""

from hpe_tasks.packaging.build import Package, PackagedModel, PackagePart, build_package
from hpe_tasks.packaging.dependencies import Architecture, packaged_graph_role

__all__ = ["Architecture", "Package", "PackagePart", "PackagedModel", "build_package", "packaged_graph_role"]
