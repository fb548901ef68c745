"""Hands a package to `sam deploy`, together with the template."""

from __future__ import annotations

import importlib.resources
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from hpe_tasks.contract.names import MANIFEST
from hpe_tasks.errors import BadInputError, ConfigError
from hpe_tasks.local.environment import lambda_python
from hpe_tasks.packaging.dependencies import Architecture

_TEMPLATE = importlib.resources.files("hpe_tasks.packaging") / "template.yaml"


class _TemplateLoader(yaml.SafeLoader):
    """Reads the template without a look at the functions of CloudFormation in it."""


_TemplateLoader.add_multi_constructor("!", lambda *_: None)


def template_parameters() -> dict[str, str]:
    """Parameters of the template and what each is for."""
    # Derived from SafeLoader: it does not make objects.
    template = yaml.load(_TEMPLATE.read_text(), _TemplateLoader)
    return {name: str(described.get("Description", "")) for name, described in template["Parameters"].items()}


def deploy_package(package: Path, stack: str, parameters: Mapping[str, str], options: Sequence[str]) -> int:
    """Run `sam deploy` with the template and this package; returns its exit status.

    Args:
        package: A .zip of `build_package`; it says itself which architecture it is for.
        stack: Name of the CloudFormation stack.
        parameters: Of the template.
        options: Further options for `sam deploy`, such as `--region`.

    Raises:
        BadInputError: The file is not such a package.
        ConfigError: A parameter is unknown or contradicts the package, there is no model to serve, or SAM is missing.
    """
    architecture, holds_model = _look_into(package)
    known = template_parameters()
    unknown = sorted(parameters.keys() - known.keys())
    if unknown:
        raise ConfigError(f"The template has no parameter {unknown[0]!r}.", hint=f"It has: {', '.join(known)}.")
    if parameters.get("Architecture", architecture) != architecture:
        raise ConfigError(
            f"{package} is for {architecture}, but Architecture is {parameters['Architecture']}.",
            hint="Leave the parameter out, or build the package for that architecture.",
        )
    if not holds_model and not parameters.get("RegistryBucket"):
        raise ConfigError(
            f"{package} holds no model, and no registry is named.",
            hint="Set RegistryBucket and ModelName, or build the package with a model.",
        )
    if holds_model and parameters.get("RegistryBucket"):
        raise ConfigError(
            f"{package} holds a model, and RegistryBucket names a registry: the one in the package would not be used.",
            hint="Leave RegistryBucket out, or build the package without a model.",
        )
    given = {"Architecture": architecture, **parameters}
    sam = _find_sam()
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder, "template.yaml")
        template.write_text(_TEMPLATE.read_text())
        shutil.copyfile(package, Path(folder, "package.zip"))
        command: list[str | Path] = [sam, "deploy", "--template-file", template, "--stack-name", stack]
        if not any(option.split("=")[0] == "--s3-bucket" for option in options):
            # SAM makes a bucket for packages, once, and finds it again.
            command += ["--resolve-s3"]
        command += ["--capabilities", "CAPABILITY_IAM", *options]
        command += ["--parameter-overrides", *(_quoted(name, value) for name, value in given.items())]
        return subprocess.run(command, check=False).returncode


def _quoted(name: str, value: str) -> str:
    """A parameter as SAM reads it: without quotation marks a value would end at its first blank."""
    escaped = value.replace('"', '\\"')
    return f'{name}="{escaped}"'


def _look_into(package: Path) -> tuple[Architecture, bool]:
    try:
        with zipfile.ZipFile(package) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{package} cannot be read: {error}.", hint="Make it with `hpe lambda build`.") from error
    if "hpe_tasks/serving/handler.py" not in names:
        raise BadInputError(f"{package} is not a package of the function.", hint="Make it with `hpe lambda build`.")
    architecture: Architecture = "arm64" if any("-aarch64-linux-gnu.so" in name for name in names) else "x86_64"
    return architecture, f"model/{MANIFEST}" in names


def _find_sam() -> Path:
    try:
        beside = lambda_python().with_name("sam")
        if beside.is_file():
            return beside
    except ConfigError:
        # SAM may be installed on its own.
        pass
    found = shutil.which("sam")
    if found is None:
        raise ConfigError(
            "SAM, which deploys the function, is missing.", hint="Run `make setup`, or install the SAM CLI."
        )
    return Path(found)
