"""Rows of arrays as a Parquet file: what was written is read back to the last bit, a part at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.errors import StorageError

Columns = Mapping[str, NDArray[Any]]
"""By name, arrays of as many rows."""

_SHAPES = b"hpe_shapes"
_ROWS_AT_A_TIME = 1024


def write_columns(file: Path, parts: Iterable[Columns]) -> int:
    """Write rows as they come, without holding more than a thousand or so; returns how many there were.

    Args:
        file: The file; without any part it holds no column.
        parts: Rows; the columns of all have one type, and one shape of a row.
    """
    from pyarrow import parquet

    writer: parquet.ParquetWriter | None = None
    total = 0
    try:
        for columns in _gathered(parts):
            table = _table(columns)
            if writer is None:
                writer = parquet.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
            total += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        import pyarrow

        parquet.write_table(pyarrow.table({}), file)
    return total


def read_columns(file: Path) -> Iterator[dict[str, NDArray[Any]]]:
    """Read what `write_columns` has written, some rows at a time; raises StorageError for another file."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            shapes = json.loads((opened.schema_arrow.metadata or {}).get(_SHAPES, b"{}"))
            for group in range(opened.num_row_groups):
                table = opened.read_row_group(group)
                if not shapes:
                    return  # there was no part
                yield {name: _array(table.column(name), shapes[name]) for name in table.column_names}
    except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
        raise StorageError(
            f"{file} holds no rows that can be read: {str(error).partition(chr(10))[0]}",
            hint="Run the step that made it again.",
        ) from error


def _gathered(parts: Iterable[Columns]) -> Iterator[Columns]:
    """Small parts joined: a file of many small ones is larger, and slower to read."""
    waiting: list[Columns] = []
    rows = 0
    for part in parts:
        count = len(next(iter(part.values())))
        if not count:
            continue
        waiting.append(part)
        rows += count
        if rows >= _ROWS_AT_A_TIME:
            yield _joined(waiting)
            waiting, rows = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _table(columns: Columns) -> Any:
    import pyarrow

    arrays = {name: _arrow(array) for name, array in columns.items()}
    shapes = {name: array.shape[1:] for name, array in columns.items()}
    return pyarrow.table(arrays).replace_schema_metadata({_SHAPES: json.dumps(shapes).encode()})


def _arrow(array: NDArray[Any]) -> Any:
    """A column of numbers; of rows with a shape of their own a column of lists of one length."""
    import pyarrow

    values = pyarrow.array(np.ascontiguousarray(array).reshape(-1))
    if array.ndim == 1:
        return values
    return pyarrow.FixedSizeListArray.from_arrays(values, int(np.prod(array.shape[1:])))


def _array(column: Any, shape: list[int]) -> NDArray[Any]:
    whole = column.combine_chunks()
    values = whole.flatten() if shape else whole
    found: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return found.reshape(len(column), *shape)
