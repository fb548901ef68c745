"""What both AIMET packages share: a quiet import, the recipe in AIMET's terms, and checks of what goes in."""

from __future__ import annotations

import importlib
import json
import logging
import logging.config
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from jsonschema.exceptions import ValidationError

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import ConfigError, QuantizationError
from hpe_tasks.models.interface import input_sizes

REFUSALS = (
    AssertionError,
    AttributeError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValidationError,
    ValueError,
)
"""What AIMET raises when it cannot work with a configuration or a network; it has no exception of its own."""

_SHIPPED_CONFIGS = {"per_channel": "default_config_per_channel.json", "per_tensor": "default_config.json"}

# AIMET's logger names carry no package prefix. The connected graph warns about every traced network whose output is
# not wrapped in a module, which is all of them, and loses nothing by it.
_AIMET_LOG_LEVELS = {"ConnectedGraph": logging.ERROR}


def import_aimet(module: str) -> ModuleType:
    """Import a module of aimet_torch or aimet_onnx without its side effects on logging.

    At import AIMET configures Python's logging anew: it closes all handlers of the process and sends its own INFO lines
    to stdout, where they would mix with results. Here its loggers hand warnings to the process's own handlers instead.
    """

    def keep_configuration(config: dict[str, Any]) -> None:
        for name in config["loggers"]:
            logging.getLogger(name).setLevel(_AIMET_LOG_LEVELS.get(name, logging.WARNING))

    configure = logging.config.dictConfig
    logging.config.dictConfig = keep_configuration  # type: ignore[assignment]
    try:
        return importlib.import_module(module)
    finally:
        logging.config.dictConfig = configure


def quantized_tensors(graph: onnx.GraphProto) -> dict[str, str]:
    """What stands before each quantizer in the graph of an `aimet_onnx` simulation, by the tensor behind it."""
    return {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QcQuantizeOp"}


def simulation_session(sim: Any, model: Any) -> Any:
    """AIMET's session of a copy of an `aimet_onnx` simulation's graph, with the quantizers of the simulation itself."""
    return import_aimet("aimet_onnx.utils").OrtInferenceSession(
        model, sim.providers, session_options=sim._ort_session_options
    )


@contextmanager
def vendor_warnings_muted() -> Iterator[None]:
    """Hide deprecation and tracer warnings that AIMET causes in torch and onnx; errors pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def aimet_config_file(recipe: QuantizationRecipe, package: str) -> Iterator[str]:
    """Path of the AIMET configuration that the recipe asks for.

    Weights of a `per_tensor` recipe are asymmetric, as the AIMET model zoo published its pose network; AIMET's own
    per-tensor default is symmetric. onnxruntime runs both as int8.

    Args:
        recipe: `aimet_config` names the user's own file.
        package: "aimet_torch" or "aimet_onnx", whose shipped configurations are used otherwise.

    Raises:
        ConfigError: The user's file is missing or not a JSON object.
    """
    if recipe.aimet_config is not None:
        yield str(_users_config(Path(recipe.aimet_config)))
        return
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise QuantizationError(f"{package} is not installed.", hint="Install the project with its `worker` extra.")
    shipped = Path(spec.origin).parent / "common" / "quantsim_config" / _SHIPPED_CONFIGS[recipe.granularity]
    if recipe.granularity == "per_channel":
        yield str(shipped)
        return
    content = json.loads(shipped.read_text())
    content["defaults"]["params"]["is_symmetric"] = "False"
    # Biases are exported as int32 in the scale of their layer, without a zero point.
    content["params"]["bias"]["is_symmetric"] = "True"
    with TemporaryDirectory(prefix="hpe-aimet-") as folder:
        file = Path(folder) / "per_tensor_asymmetric.json"
        file.write_text(json.dumps(content))
        yield str(file)


def _users_config(path: Path) -> Path:
    hint = "Give recipe.aimet_config the path of an AIMET quantsim configuration (.json), or leave it out."
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"recipe.aimet_config: {path} cannot be read ({error.strerror or error}).", hint=hint
        ) from error
    except ValueError as error:
        raise ConfigError(f"recipe.aimet_config: {path} is not JSON ({error}).", hint=hint) from error
    if not isinstance(content, dict) or "defaults" not in content:
        raise ConfigError(f"recipe.aimet_config: {path} has no `defaults` section.", hint=hint)
    return path


def config_rejected(recipe: QuantizationRecipe, error: Exception) -> Exception:
    """The error to raise when AIMET refuses to simulate: a ConfigError where the user's own file may be why."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if recipe.aimet_config is not None:
        return ConfigError(
            f"recipe.aimet_config: AIMET does not accept {recipe.aimet_config}: {reason}",
            hint="Compare it with AIMET's default_config_per_channel.json.",
        )
    return QuantizationError(f"AIMET cannot simulate this network: {reason}")


def checked_batches(batches: Iterable[np.ndarray], config: ModelConfig) -> Iterator[np.ndarray]:
    """Calibration batches with their shape, type and values checked.

    Raises:
        QuantizationError: A batch is not N×3×H×W float32 of an input size or not finite, or there is none.
    """
    shapes = [(3, height, width) for width, height in input_sizes(config)]
    seen = 0
    for batch in batches:
        if batch.ndim != 4 or batch.shape[1:] not in shapes or batch.dtype != np.float32:
            expected = " or ".join(f"(N, {', '.join(map(str, shape))})" for shape in shapes)
            raise QuantizationError(f"A calibration batch is {batch.dtype} {batch.shape}; expected float32 {expected}.")
        if not np.isfinite(batch).all():
            raise QuantizationError("A calibration batch holds NaN or infinite values.")
        seen += len(batch)
        yield batch
    if not seen:
        raise QuantizationError(
            "There is no calibration image.", hint="Check dataset.calibration_split and recipe.calibration_images."
        )
