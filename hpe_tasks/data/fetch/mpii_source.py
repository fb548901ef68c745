"""Finding MPII data: in the layout of Simple Baselines, or MPII's own annotation file, which is converted."""

from __future__ import annotations

import logging
from pathlib import Path

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.fetch import layouts
from hpe_tasks.data.fetch.digests import DigestCache
from hpe_tasks.data.fetch.sources import SourceRequest, Sources
from hpe_tasks.data.fetch.taken_in import try_matlab_file
from hpe_tasks.data.mpii import truth_path
from hpe_tasks.datasets import MPII
from hpe_tasks.errors import DatasetError
from hpe_tasks.storage.files import digest_of, sha256_file
from hpe_tasks.storage.folders import make_folder

log = logging.getLogger(__name__)


def find_mpii(request: SourceRequest) -> Path:
    """The folder with `annot/` and `images/`: one that the source has, or both joined; see `fetch_dataset`."""
    config, sources, splits = request.config, request.sources, request.splits
    apart = config.image_archives is not None
    found = sources.folder(
        config.source,
        option="dataset.source",
        sha256=config.sha256,
        parts=MPII.layout.parts(splits, images=not apart),
    )
    annotations = _annotations(config, sources, found, splits)
    folders = layouts.image_sources(request) if apart else {config.source: found}
    images = layouts.find_images(MPII, (folder for folder in folders.values() if folder.is_dir()), "")
    if images is None:
        layouts.refuse_images(MPII, folders, config.evaluation_split)
    if annotations.name == "annot" and annotations.parent == images.parent:
        return images.parent
    return layouts.join({"annot": annotations, "images": images}, sources.cache / "joined")


def _annotations(config: DatasetConfig, sources: Sources, found: Path, splits: tuple[str, ...]) -> Path:
    """The folder with the splits' annotations in the Simple Baselines layout; converted where need be."""
    if found.is_file():
        originals = [found]
    elif annotations := layouts.find_annotations(MPII, found, splits):
        try_matlab_file(annotations / truth_path(Path(), config.evaluation_split).name, sources.cache)
        if config.valid_images is not None:
            raise DatasetError(
                f"dataset.valid_images is set, but {annotations} holds annotations that are split already.",
                hint="Leave dataset.valid_images out, or give MPII's original annotation file as dataset.source.",
            )
        return annotations
    else:
        originals = layouts.originals(MPII, found)
    if len(originals) != 1:
        layouts.refuse_annotations(MPII, found, splits)
    names = None if config.valid_images is None else _image_names(sources.download(config.valid_images).path)
    converted = _converted(originals[0], sources.cache, names)
    annotations = layouts.find_annotations(MPII, converted, splits)
    if annotations is None:
        layouts.refuse_annotations(MPII, converted, splits)
    return annotations


def _image_names(path: Path) -> list[str]:
    """The names that a text file lists, each once; published lists repeat an image for each of its persons."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DatasetError(
            f"dataset.valid_images: {path} is not a text file.", hint="Give one file name on each line."
        ) from None
    return sorted({line.strip() for line in lines} - {""})


def _converted(original: Path, cache: Path, valid_images: list[str] | None) -> Path:
    from hpe_tasks.data.mpii import mat
    from hpe_tasks.data.mpii import original as mpii_original

    digests = DigestCache(cache / "digests" / "archives.json")
    # Annotations that other code converted are others.
    code = [sha256_file(Path(file)) for file in (mpii_original.__file__, mat.__file__)]
    key = digest_of([digests.sha256(original.resolve()), code, valid_images])
    digests.save()
    folder = cache / "converted" / key[:16]

    def convert(working: Path) -> None:
        try_matlab_file(original, cache)
        result = mpii_original.convert_original(original, working, valid_images=valid_images)
        log.info(
            "Converted %s to the splits %s; %s persons of training images lack joints, a scale, a position or a head "
            "box and are left out.",
            original.name,
            " and ".join(f"{split} ({persons:,} persons)" for split, persons in result.persons.items()),
            f"{result.skipped:,}",
        )
        if valid_images is None:
            log.warning(
                "The splits of %s are not those that published figures were measured on: for these, name the images "
                "that validate in dataset.valid_images, or give the annotations of Simple Baselines.",
                original.name,
            )

    make_folder(folder, convert)
    return folder
