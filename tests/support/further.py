"""One more of each thing that varies in this field, as the files that it takes: what a person would have to write.

The table is the place that shows all five seams. `tests/unit/test_seams.py` compares each with the number of files that
it may take and uses it; the check is used in `tests/unit/gate/test_further_requirement.py`, the pipeline in
`tests/dags/test_second_pipeline.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Further:
    """What one more takes.

    Attributes:
        most: Number of files that it may take.
        new: Files that are written, with their content.
        changed: Texts that are replaced in files that are there.
    """

    most: int
    new: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """All files that it touches."""
        return (*self.new, *self.changed)

    def add_to(self, tree: Path) -> None:
        """Write and change them in a copy of the project."""
        for name, text in self.new.items():
            assert not (tree / name).exists()
            (tree / name).write_text(text)
        for name, replacements in self.changed.items():
            text = (tree / name).read_text()
            for old, new in replacements:
                assert text.count(old) == 1, f"{name}: {old}"
                text = text.replace(old, new)
            (tree / name).write_text(text)


def copy_of(repository: Path, tree: Path, *folders: str) -> Path:
    """A copy of some of the project's folders, to be changed."""
    for name in folders:
        shutil.copytree(repository / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


_CODEC = '''"""Heatmaps that are read at their highest cell, and not between cells."""

from hpe_tasks.pose.codecs.heatmap import HeatmapCodec


class PeakCodec(HeatmapCodec):
    """One heatmap for each joint; its joint is the middle of the highest cell."""

    name = "peaks"
    decoder = "heatmap argmax"

    def decode(self, outputs, centers, scales):
        """Joints N×K×2 in image pixels, and the maps' maxima."""
        import numpy as np

        from hpe_tasks.pose.crops import from_crops

        maps = outputs["heatmaps"]
        height, width = maps.shape[2:]
        best = maps.reshape(*maps.shape[:2], -1).argmax(axis=2)
        cells = np.stack([best % width, best // width], axis=2).astype(np.float64)
        return from_crops(cells, (width, height), centers, scales), maps.max(axis=(2, 3))
'''

_KIND = '''"""Wrists alone, of persons."""

from hpe_tasks.datasets.kind import DatasetKind, Layout
from hpe_tasks.pose.skeletons import Skeleton

WRISTS = DatasetKind(
    name="wrists",
    title="Wrists",
    format="coco",
    layout=Layout("truth/of_{split}.json", ("pictures",)),
    splits=("calibration", "val"),
    skeleton=Skeleton("wrists", ("right_wrist", "left_wrist"), (("right_wrist", "left_wrist"),)),
    sigmas={"left_wrist": 0.05, "right_wrist": 0.05},
    metric="coco_oks_ap",
    gate_metric="ap",
    agreement="OKS is 1 where a pose equals the truth",
    area_of_box=0.5,
    is_drawn=True,
)
'''

_BACKBONE = '''"""Five plain convolutions."""

import torch
from torch import nn


class PosePlain(nn.Module):
    """Maps N×3×H×W to N×K×H/4×W/4."""

    def __init__(self, joints: int) -> None:
        super().__init__()
        widths = (3, 16, 32, 32)
        layers = []
        for before, after, stride in zip(widths, widths[1:], (2, 2, 1), strict=False):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], joints, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.layers(x)
'''

_PLAIN = """def _pose_plain(options: NetworkOptions) -> nn.Module:
    from hpe_tasks.networks.pose_plain import PosePlain

    return PosePlain(options.joints)


_LISTED = (
    NetworkArchitecture("pose_plain", _pose_plain, side_multiple=4),
"""

_PIPELINE = '''"""Data and checkpoint alone: what a run would start from."""

from __future__ import annotations

from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.pipeline import Pipeline
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Results, step
from hpe_tasks.records.run import RunReport
from hpe_tasks.storage.workspace import Scratch


def _small(results: Results) -> str:
    fetched = results.find(steps.fetch_dataset)
    return "" if fetched is None or fetched.num_files > 2 else f"{fetched.num_files} files are nothing to list."


@step(RunReport, "List", needs=(steps.fetch_dataset, steps.fetch_checkpoint), skip=_small, tell=lambda r: r.html.sha256)
def list_inputs(run: Run, scratch: Scratch) -> RunReport:
    """List what a run would start from."""
    file = scratch.path / "inputs.html"
    file.write_text(f"{run.result(steps.fetch_dataset).num_files} files")
    return RunReport(html=scratch.artifact(file))


INPUTS = Pipeline(
    name="hpe_inputs",
    command="inputs",
    summary="Fetch what a run would start from.",
    steps=(steps.fetch_checkpoint, steps.fetch_dataset, list_inputs),
)
'''

_DAG = '''"""The DAG `hpe_inputs`."""

from airflow.sdk import dag
from hpe_airflow.params_form import form_params
from hpe_airflow.tasks import add_tasks

from hpe_tasks.pipeline.inputs_only import INPUTS


@dag(dag_id=INPUTS.name, params=form_params())
def hpe_inputs() -> None:
    add_tasks(INPUTS, {})


hpe_inputs()
'''

_LIMIT = """
    max_opset: int | None = Field(default=None, ge=1, description="Latest ONNX opset of the exported file.")

    @model_validator(mode="before")
    @classmethod
    def _without_metric("""

_CHECK = '''

class OldEnough(Requirement):
    """That runtimes which are some years old can read the file."""

    title = "Opset of the exported file"
    comparison = "at_most"
    unit = "layers"
    names = ("max_opset",)

    @override
    def subject(self, evidence: Evidence) -> str:
        return "Opset"

    @override
    def limit(self, evidence: Evidence) -> float | None:
        return evidence.limits.max_opset

    @override
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        return Observation(evidence.exported.opset)

    @override
    def advise(self, run: Situation) -> Iterator[Advice]:
        yield Advice("Use a younger runtime.", "gate.max_opset=17")


CHECKS: tuple[Requirement, ...] = (FileSize(), SpeedAgainstFp32(), OldEnough())
'''

_RUNG = """RUNGS: tuple[Rung, ...] = (
    Rung("coarse", "Give each tensor one scale.", _with(granularity="per_tensor")),
"""

FURTHER: dict[str, Further] = {
    "codec": Further(
        most=2,
        new={"hpe_tasks/pose/codecs/peaks.py": _CODEC},
        changed={
            "hpe_tasks/pose/codecs/__init__.py": [
                (
                    "from hpe_tasks.pose.codecs.simcc",
                    "from hpe_tasks.pose.codecs.peaks import PeakCodec\nfrom hpe_tasks.pose.codecs.simcc",
                ),
                ('Literal["heatmap", ', 'Literal["heatmap", "peaks", '),
                ("(HeatmapCodec(), ", "(HeatmapCodec(), PeakCodec(), "),
            ],
        },
    ),
    "data set": Further(
        most=3,
        new={"hpe_tasks/datasets/wrists.py": _KIND},
        changed={
            "hpe_tasks/datasets/__init__.py": [
                (
                    "from hpe_tasks.datasets.mpii import MPII\n",
                    "from hpe_tasks.datasets.mpii import MPII\nfrom hpe_tasks.datasets.wrists import WRISTS\n",
                ),
                ("(COCO, MPII, CROWDPOSE, CUSTOM)", "(COCO, MPII, CROWDPOSE, CUSTOM, WRISTS)"),
            ],
        },
    ),
    "backbone": Further(
        most=2,
        new={"hpe_tasks/networks/pose_plain.py": _BACKBONE},
        changed={"hpe_tasks/networks/__init__.py": [("_LISTED = (\n", _PLAIN)]},
    ),
    "pipeline": Further(
        most=3,
        new={"hpe_tasks/pipeline/inputs_only.py": _PIPELINE, "dags/hpe_inputs.py": _DAG},
        changed={
            "hpe_tasks/pipeline/pipelines.py": [
                ("= (REQUANTIZE, RETRAIN)", "= (REQUANTIZE, RETRAIN, INPUTS)"),
                (
                    "from hpe_tasks.pipeline.requantize",
                    "from hpe_tasks.pipeline.inputs_only import INPUTS\nfrom hpe_tasks.pipeline.requantize",
                ),
            ],
        },
    ),
    "gate check": Further(
        most=2,
        changed={
            "hpe_tasks/config/gate.py": [
                ('\n    @model_validator(mode="before")\n    @classmethod\n    def _without_metric(', _LIMIT)
            ],
            "hpe_tasks/gate/checks/cost.py": [
                ("\n\nCHECKS: tuple[Requirement, ...] = (FileSize(), SpeedAgainstFp32())\n", _CHECK)
            ],
        },
    ),
    "rung": Further(most=1, changed={"hpe_tasks/config/rungs.py": [("RUNGS: tuple[Rung, ...] = (\n", _RUNG)]}),
}
"""By what varies."""
