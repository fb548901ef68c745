"""Writes the bills of materials of what ships, and checks that all of it may.

    python tools/sbom.py [--out FOLDER] [--lambda-venv .venv-lambda]

One CycloneDX file each for the images of worker and scheduler and for the function's packages, from the locks that they
are built from. Licences are read from what is installed here in the same versions, so that `make sbom` runs this after
`make setup`. A licence that is not in hpe_tasks/packaging/licences.yaml ends it with an error.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from importlib.metadata import Distribution, distributions
from pathlib import Path

from hpe_tasks.errors import HpeError
from hpe_tasks.packaging.dependencies import ARCHITECTURES, bill_of_libraries
from hpe_tasks.packaging.licences import LicencePolicy
from hpe_tasks.packaging.locks import read_lock
from hpe_tasks.packaging.sbom import ShippedDistribution, bill_of_materials, shipped

REPOSITORY = Path(__file__).resolve().parents[1]
_BASE = "Not in this bill: the base image's Debian packages and Python. `docker build --sbom=true` lists them."


def bills(lambda_libraries: Path) -> dict[str, tuple[bytes, tuple[ShippedDistribution, ...]]]:
    """Each bill by the name of its file, and what it lists.

    Args:
        lambda_libraries: Where docker/lambda/requirements.txt is installed, which the worker's image holds as well.
    """
    here = list(distributions(path=sys.path))
    policy = LicencePolicy.of_the_project()

    def of_lock(name: str, installed: list[Distribution]) -> tuple[ShippedDistribution, ...]:
        lock = REPOSITORY / "docker" / name / "requirements.txt"
        return shipped(read_lock(lock.read_text(encoding="utf-8"), str(lock)), installed, policy)

    worker = (*of_lock("worker", here), *of_lock("lambda", list(distributions(path=[str(lambda_libraries)]))))
    scheduler = of_lock("airflow", here)
    found = {
        "worker.cdx.json": (bill_of_materials("hpe-worker", "container", worker, _BASE), worker),
        "scheduler.cdx.json": (bill_of_materials("hpe-airflow", "container", scheduler, _BASE), scheduler),
    }
    for architecture in ARCHITECTURES:
        found[f"lambda-{architecture}.cdx.json"] = bill_of_libraries(architecture, here)
    return found


def main() -> int:
    """Write the bills; 1 where something may not ship."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / ".cache" / "sbom", help="folder to write to")
    parser.add_argument("--lambda-venv", type=Path, default=REPOSITORY / ".venv-lambda")
    given = parser.parse_args()
    try:
        [libraries] = given.lambda_venv.glob("lib/python3.*/site-packages")
        found = bills(libraries)
    except ValueError:
        print(f"{given.lambda_venv} is no virtual environment: run `make setup`.", file=sys.stderr)
        return 1
    except HpeError as error:
        print(error, file=sys.stderr)
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    for name, (bill, parts) in found.items():
        (given.out / name).write_bytes(bill)
        licences = Counter(part.licence for part in parts).most_common(3)
        most = ", ".join(f"{licence} {count}" for licence, count in licences)
        print(f"{given.out / name}: {len(parts)} distributions ({most}, …)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
