"""What a benchmark writes into a document, between two marks that name the benchmark."""

from __future__ import annotations

from pathlib import Path


def marks(program: str) -> tuple[str, str]:
    """The lines before and after what a program writes."""
    return f"<!-- Written by {program} --docs. -->\n", f"<!-- End of what {program} --docs wrote. -->\n"


def write_docs(docs: Path, program: str, text: str) -> None:
    """Put a text between the two marks of a Markdown file, in place of what stood there.

    Raises:
        SystemExit: The file lacks a mark.
    """
    begin, end = marks(program)
    before, begun, rest = docs.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise SystemExit(f"{docs} lacks the lines {begin.strip()!r} and {end.strip()!r}.")
    docs.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
