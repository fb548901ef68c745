"""Notices on which processors an int8 file was really run: onnxruntime's sessions tell, not the tests.

In the process of the tests `watch` does it. A program on another processor is started by this file,
`python int8_runs.py NOTE -c CODE …` or `… SCRIPT …` or `… -m MODULE …`, and leaves the file NOTE if it ran one.
Needs nothing but the standard library, because it runs with Lambda's Python as well.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Names of ONNX operators as they stand in a file.
_INT8 = (b"QuantizeLinear", b"QLinear", b"MatMulInteger", b"ConvInteger")


def watch(ran: Callable[[], None]) -> None:
    """Call `ran` each time that this process has run a file with int8 arithmetic."""
    import onnxruntime

    session = onnxruntime.InferenceSession
    if hasattr(session, "noticed"):
        return
    create, run = session.__init__, session.run

    def _create(self: Any, path_or_bytes: Any, *arguments: Any, **options: Any) -> None:
        create(self, path_or_bytes, *arguments, **options)
        named = isinstance(path_or_bytes, (str, Path))
        data = Path(path_or_bytes).read_bytes() if named else bytes(path_or_bytes)
        self.noticed = any(name in data for name in _INT8)

    def _run(self: Any, *arguments: Any, **options: Any) -> Any:
        outputs = run(self, *arguments, **options)
        if self.noticed:
            ran()
        return outputs

    session.__init__, session.run, session.noticed = _create, _run, False


def main(note: Path, arguments: list[str]) -> None:
    """Run a program as `python ARGUMENTS` does, but for the first of `sys.path`: the caller's folder is not on it."""
    watch(note.touch)
    first, rest = arguments[0], arguments[1:]
    del sys.path[0]
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
