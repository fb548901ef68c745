"""What the project itself holds to try things with."""

from __future__ import annotations

from pathlib import Path


def sample_onnx(out: str | Path) -> Path:
    """Write the network of the preset `sample` as an FP32 ONNX file, such as you would bring.

    It takes crops of one person, float32 of batch×3×192×128 (height 192), and gives heatmaps of 17 COCO joints.

    Args:
        out: The file to write.

    Returns:
        The file.

    Raises:
        StorageError: The file cannot be written.
    """
    from hpe_tasks.config.loading import load_config
    from hpe_tasks.models.checkpoint import sample_checkpoint
    from hpe_tasks.models.fp32_onnx import export_fp32
    from hpe_tasks.storage.files import storage_errors

    model, file = load_config("sample").model, Path(out)
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        return export_fp32(model, sample_checkpoint(model.architecture), file)
