"""Whether this machine may serve a model, as its manifest says."""

from __future__ import annotations

from collections.abc import Sequence

from hpe_tasks.contract.cpu import VNNI, cpu_features
from hpe_tasks.errors import ConfigError
from hpe_tasks.serving.served_model import ServedModel

_ARCHITECTURES = {"x86_64": {"x86_64", "amd64"}, "arm64": {"aarch64", "arm64"}, "x86_64_vnni": {"x86_64", "amd64"}}
_NAMES = {"x86_64": "x86-64", "arm64": "arm64", "x86_64_vnni": "x86-64 with VNNI"}


def check_processor(model: ServedModel, features: Sequence[str] | None = None) -> None:
    """Refuse a model that was not published for this machine's processor.

    Args:
        model: Says where it may be served.
        features: The machine's name and its int8 features; None reads them.

    Raises:
        ConfigError: Nothing proves that the model computes here what it was measured with.
    """
    machine, *has = cpu_features() if features is None else features
    if fits_processor(model.processors, (machine, *has)):
        return
    raise ConfigError(
        f"Version {model.version} of {model.name!r} was published for {_NAMES[model.processors]} "
        f"(destination.processors={model.processors}), and this processor is {', '.join((machine, *has))}: its int8 "
        "kernels may compute something else than what was measured.",
        hint="Serve it where it was published for, or publish a version with destination.processors=any.",
    )


def fits_processor(processors: str, features: Sequence[str]) -> bool:
    """Whether a processor, by its machine's name and int8 features, is one of `destination.processors`."""
    machine, *has = features
    if processors == "any":
        return True
    return machine.lower() in _ARCHITECTURES[processors] and (processors != "x86_64_vnni" or bool(set(VNNI) & set(has)))
