"""Finding a data set whose annotations have COCO's form: drawn here, in one place, or in several that are joined."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.config.base import SAMPLE
from hpe_tasks.data.annotation_files import find_root
from hpe_tasks.data.fetch import layouts
from hpe_tasks.data.fetch.sources import SourceRequest, refuse_digest
from hpe_tasks.datasets import DatasetKind
from hpe_tasks.storage.folders import make_folder

if TYPE_CHECKING:
    from hpe_tasks.data.sample import SampleSpec


def find_coco(request: SourceRequest) -> Path:
    """The folder that holds the layout on this machine; see `fetch_dataset`."""
    config, splits, kind = request.config, request.splits, request.config.described
    if config.source == SAMPLE:
        refuse_digest(config.sha256, config.source, "the sample")
        folder = _sample(request.sources.cache, splits, request.sample, kind)
    elif config.images_by_url:
        from hpe_tasks.data.fetch.coco_images import fetch_needed_images

        folder = fetch_needed_images(
            _records(request),
            config,
            request.sources.cache,
            calibration_images=request.calibration_images,
            seed=request.seed,
        )
    elif config.image_archives is not None:
        folder = _joined(request)
    else:
        parts = kind.layout.parts(splits, images=True)
        folder = request.sources.folder(config.source, option="dataset.source", sha256=config.sha256, parts=parts)
        layouts.refuse_file(kind, folder)
        layouts.refuse_other_kind(kind, folder)
    return find_root(folder, splits, kind)


def _records(request: SourceRequest) -> Path:
    """A folder with the annotations' folder; its images are elsewhere."""
    config, splits, kind = request.config, request.splits, request.config.described
    found = request.sources.folder(
        config.source,
        option="dataset.source",
        sha256=config.sha256,
        parts=kind.layout.parts(splits, images=False),
    )
    layouts.refuse_file(kind, found)
    annotations = layouts.find_annotations(kind, found, splits)
    if annotations is None:
        layouts.refuse_annotations(kind, found, splits)
    folder = kind.layout.annotation_folder
    if annotations.name == folder:
        return annotations.parent
    return layouts.join({folder: annotations}, request.sources.cache / "joined")


def _joined(request: SourceRequest) -> Path:
    kind = request.config.described
    annotations = kind.layout.annotation_folder
    parts = {annotations: _records(request) / annotations}
    folders = layouts.image_sources(request)
    for split in request.splits:
        images = layouts.find_images(kind, folders.values(), split)
        if images is None:
            layouts.refuse_images(kind, folders, split)
        parts[kind.layout.image_folders(split)[0]] = images
    return layouts.join(parts, request.sources.cache / "joined")


def _sample(cache: Path, splits: tuple[str, ...], spec: SampleSpec | None, kind: DatasetKind) -> Path:
    from hpe_tasks.data import sample

    spec = spec or sample.SampleSpec()
    # A sample drawn by other code is another sample.
    code = b"".join(path.read_bytes() for path in sorted(Path(sample.__file__).parent.glob("*.py")))
    key = hashlib.sha256(repr((spec, sorted(splits), kind)).encode() + code).hexdigest()[:16]
    folder = cache / "samples" / key
    make_folder(folder, lambda working: sample.make_sample(working, spec, splits=splits, kind=kind))
    return folder
