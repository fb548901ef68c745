"""Steps that turn a pose-estimation checkpoint into a proven int8 ONNX model; usable with and without Airflow.

What is listed in `__all__` is the Python API. Importing this package imports nothing: a name is fetched from where it
is defined when it is first asked for, because this file ships in the Lambda function, which has neither pydantic nor
torch, and because Airflow imports it whenever it parses a DAG.
"""

TYPE_CHECKING = False  # as `typing` has it: type checkers and editors take it for true

if TYPE_CHECKING:
    from hpe_tasks import errors as errors
    from hpe_tasks.api.configs import from_onnx as from_onnx
    from hpe_tasks.api.configs import load_file as load_file
    from hpe_tasks.api.configs import load_preset as load_preset
    from hpe_tasks.api.configs import with_settings as with_settings
    from hpe_tasks.api.ladder import Ladder as Ladder
    from hpe_tasks.api.registry import Registry as Registry
    from hpe_tasks.api.registry import Verified as Verified
    from hpe_tasks.api.results import Decision as Decision
    from hpe_tasks.api.results import Evaluation as Evaluation
    from hpe_tasks.api.results import Export as Export
    from hpe_tasks.api.results import PosePictures as PosePictures
    from hpe_tasks.api.results import Quantization as Quantization
    from hpe_tasks.api.results import RunResult as RunResult
    from hpe_tasks.api.runs import decide as decide
    from hpe_tasks.api.runs import evaluate as evaluate
    from hpe_tasks.api.runs import export as export
    from hpe_tasks.api.runs import find_run as find_run
    from hpe_tasks.api.runs import quantize as quantize
    from hpe_tasks.api.runs import run as run
    from hpe_tasks.api.samples import sample_onnx as sample_onnx
    from hpe_tasks.api.selftests import run_selftest as run_selftest
    from hpe_tasks.config.presets import PRESETS as PRESETS
    from hpe_tasks.config.run import RunConfig as RunConfig
    from hpe_tasks.errors import HpeError as HpeError
    from hpe_tasks.pose.codecs import CODECS as CODECS
    from hpe_tasks.pose.codecs import Codec as Codec
    from hpe_tasks.records.base import Artifact as Artifact
    from hpe_tasks.records.diagnosis import Diagnosis as Diagnosis
    from hpe_tasks.records.diagnosis import Fp32Check as Fp32Check
    from hpe_tasks.records.evaluation import CocoStats as CocoStats
    from hpe_tasks.records.evaluation import CrowdPoseStats as CrowdPoseStats
    from hpe_tasks.records.evaluation import EvaluationReport as EvaluationReport
    from hpe_tasks.records.evaluation import PckhStats as PckhStats
    from hpe_tasks.records.evaluation import ProtocolFingerprint as ProtocolFingerprint
    from hpe_tasks.records.evaluation import QuantizedEvaluation as QuantizedEvaluation
    from hpe_tasks.records.execution import KernelAgreement as KernelAgreement
    from hpe_tasks.records.execution import KernelProof as KernelProof
    from hpe_tasks.records.execution import LatencyComparison as LatencyComparison
    from hpe_tasks.records.execution import PlacementAudit as PlacementAudit
    from hpe_tasks.records.execution import SpeedUp as SpeedUp
    from hpe_tasks.records.gate import GateCheck as GateCheck
    from hpe_tasks.records.gate import GateDecision as GateDecision
    from hpe_tasks.records.inputs import DatasetValidation as DatasetValidation
    from hpe_tasks.records.inputs import FetchedCheckpoint as FetchedCheckpoint
    from hpe_tasks.records.inputs import FetchedDataset as FetchedDataset
    from hpe_tasks.records.ladder import RecipeChoice as RecipeChoice
    from hpe_tasks.records.ladder import RungOutcome as RungOutcome
    from hpe_tasks.records.ladder import TriedRung as TriedRung
    from hpe_tasks.records.network import ExportedModel as ExportedModel
    from hpe_tasks.records.network import QuantizedModel as QuantizedModel
    from hpe_tasks.records.release import PromotedModel as PromotedModel
    from hpe_tasks.records.release import PublishedModel as PublishedModel
    from hpe_tasks.records.release import SmokeTest as SmokeTest
    from hpe_tasks.records.selftest import GuardTrial as GuardTrial
    from hpe_tasks.records.selftest import SelfTest as SelfTest
    from hpe_tasks.registry.channels import ChannelPointer as ChannelPointer
    from hpe_tasks.registry.manifest import ModelManifest as ModelManifest
    from hpe_tasks.registry.publishing import StoredVersion as StoredVersion
    from hpe_tasks.report.records import RunRecords as RunRecords
    from hpe_tasks.report.records import Verdict as Verdict
    from hpe_tasks.verification.findings import VerificationCheck as VerificationCheck
    from hpe_tasks.verification.findings import VerifiedVersion as VerifiedVersion

_HOMES = {
    "hpe_tasks.api.configs": ("from_onnx", "load_file", "load_preset", "with_settings"),
    "hpe_tasks.api.ladder": ("Ladder",),
    "hpe_tasks.api.registry": ("Registry", "Verified"),
    "hpe_tasks.api.results": ("Decision", "Evaluation", "Export", "PosePictures", "Quantization", "RunResult"),
    "hpe_tasks.api.runs": ("decide", "evaluate", "export", "find_run", "quantize", "run"),
    "hpe_tasks.api.samples": ("sample_onnx",),
    "hpe_tasks.api.selftests": ("run_selftest",),
    "hpe_tasks.config.presets": ("PRESETS",),
    "hpe_tasks.config.run": ("RunConfig",),
    "hpe_tasks.errors": ("HpeError",),
    "hpe_tasks.pose.codecs": ("CODECS", "Codec"),
    "hpe_tasks.records.base": ("Artifact",),
    "hpe_tasks.records.diagnosis": ("Diagnosis", "Fp32Check"),
    "hpe_tasks.records.evaluation": (
        "CocoStats",
        "CrowdPoseStats",
        "EvaluationReport",
        "PckhStats",
        "ProtocolFingerprint",
        "QuantizedEvaluation",
    ),
    "hpe_tasks.records.execution": ("KernelAgreement", "KernelProof", "LatencyComparison", "PlacementAudit", "SpeedUp"),
    "hpe_tasks.records.gate": ("GateCheck", "GateDecision"),
    "hpe_tasks.records.inputs": ("DatasetValidation", "FetchedCheckpoint", "FetchedDataset"),
    "hpe_tasks.records.ladder": ("RecipeChoice", "RungOutcome", "TriedRung"),
    "hpe_tasks.records.network": ("ExportedModel", "QuantizedModel"),
    "hpe_tasks.records.release": ("PromotedModel", "PublishedModel", "SmokeTest"),
    "hpe_tasks.records.selftest": ("GuardTrial", "SelfTest"),
    "hpe_tasks.registry.channels": ("ChannelPointer",),
    "hpe_tasks.registry.manifest": ("ModelManifest",),
    "hpe_tasks.registry.publishing": ("StoredVersion",),
    "hpe_tasks.report.records": ("RunRecords", "Verdict"),
    "hpe_tasks.verification.findings": ("VerificationCheck", "VerifiedVersion"),
}
"""Where each name is defined; a test compares it with the imports above."""

__all__ = [
    "CODECS",
    "PRESETS",
    "Artifact",
    "ChannelPointer",
    "CocoStats",
    "Codec",
    "CrowdPoseStats",
    "DatasetValidation",
    "Decision",
    "Diagnosis",
    "Evaluation",
    "EvaluationReport",
    "Export",
    "ExportedModel",
    "FetchedCheckpoint",
    "FetchedDataset",
    "Fp32Check",
    "GateCheck",
    "GateDecision",
    "GuardTrial",
    "HpeError",
    "KernelAgreement",
    "KernelProof",
    "Ladder",
    "LatencyComparison",
    "ModelManifest",
    "PckhStats",
    "PlacementAudit",
    "PosePictures",
    "PromotedModel",
    "ProtocolFingerprint",
    "PublishedModel",
    "Quantization",
    "QuantizedEvaluation",
    "QuantizedModel",
    "RecipeChoice",
    "Registry",
    "RunConfig",
    "RunRecords",
    "RunResult",
    "RungOutcome",
    "SelfTest",
    "SmokeTest",
    "SpeedUp",
    "StoredVersion",
    "TriedRung",
    "Verdict",
    "VerificationCheck",
    "Verified",
    "VerifiedVersion",
    "decide",
    "errors",
    "evaluate",
    "export",
    "find_run",
    "from_onnx",
    "load_file",
    "load_preset",
    "quantize",
    "run",
    "run_selftest",
    "sample_onnx",
    "with_settings",
]

if not TYPE_CHECKING:  # with it, type checkers would let any name pass

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name == "errors":
            return import_module("hpe_tasks.errors")
        for home, names in _HOMES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(home), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
