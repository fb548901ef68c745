"""Steps that turn a pose-estimation checkpoint into a proven int8 ONNX model; usable with and without Airflow.

What is listed in `__all__` is the Python API. Importing this package imports nothing: a name is fetched from where it
is defined when it is first asked for, because this file ships in the Lambda function, which has neither pydantic nor
torch, and because Airflow imports it whenever it parses a DAG.
"""

TYPE_CHECKING = False  # as `typing` has it: type checkers and editors take it for true

if TYPE_CHECKING:
    from hpe_tasks import errors as errors
    from hpe_tasks import records as records
    from hpe_tasks.api.configs import from_onnx as from_onnx
    from hpe_tasks.api.configs import load_file as load_file
    from hpe_tasks.api.configs import load_preset as load_preset
    from hpe_tasks.api.configs import with_settings as with_settings
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
    from hpe_tasks.config.run import RunConfig as RunConfig
    from hpe_tasks.errors import HpeError as HpeError
    from hpe_tasks.pose.codecs import CODECS as CODECS
    from hpe_tasks.pose.codecs import Codec as Codec
    from hpe_tasks.presets import PRESETS as PRESETS

_HOMES = {
    "hpe_tasks.api.configs": ("from_onnx", "load_file", "load_preset", "with_settings"),
    "hpe_tasks.api.registry": ("Registry", "Verified"),
    "hpe_tasks.api.results": ("Decision", "Evaluation", "Export", "PosePictures", "Quantization", "RunResult"),
    "hpe_tasks.api.runs": ("decide", "evaluate", "export", "find_run", "quantize", "run"),
    "hpe_tasks.api.samples": ("sample_onnx",),
    "hpe_tasks.config.run": ("RunConfig",),
    "hpe_tasks.errors": ("HpeError",),
    "hpe_tasks.pose.codecs": ("CODECS", "Codec"),
    "hpe_tasks.presets": ("PRESETS",),
}
"""Where each name is defined; a test holds it against the imports above."""

_MODULES = ("errors", "records")

__all__ = [
    "CODECS",
    "PRESETS",
    "Codec",
    "Decision",
    "Evaluation",
    "Export",
    "HpeError",
    "PosePictures",
    "Quantization",
    "Registry",
    "RunConfig",
    "RunResult",
    "Verified",
    "decide",
    "errors",
    "evaluate",
    "export",
    "find_run",
    "from_onnx",
    "load_file",
    "load_preset",
    "quantize",
    "records",
    "run",
    "sample_onnx",
    "with_settings",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(home), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
