"""The page around Great Expectations' result tables: one HTML file without scripts that needs no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SuiteTable:
    """The rendered results of one suite.

    Attributes:
        name: What was looked at.
        rows: Records that were looked at.
        met: Expectations that are met.
        checks: All expectations.
        table: HTML as Great Expectations renders it, values escaped.
    """

    name: str
    rows: int
    met: int
    checks: int
    table: str


# Great Expectations' templates use classes of Bootstrap and Font Awesome, which its own site loads from the internet.
_STYLE = """
:root { color-scheme: light; }
body { margin: 0; padding: 1.5rem; background: #fff; color: #1f2933; font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .25rem; }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; text-transform: capitalize; }
h2 small { font-weight: 400; color: #52606d; text-transform: none; margin-left: .5rem; }
p { margin: .2rem 0; color: #52606d; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #e4e7eb; }
th { color: #52606d; font-weight: 600; font-size: .85rem; }
.table > thead > tr > th:first-child { width: 4rem; }
.table > thead > tr > th:last-child { width: 11rem; }
.table-bordered { margin-top: .5rem; width: auto; font-size: .9rem; }
.table-bordered td, .table-bordered th { border: 1px solid #e4e7eb; overflow-wrap: anywhere; }
.text-danger { color: #ab091e; font-weight: 600; }
.text-danger br { display: none; }
.text-danger::before { content: " "; }
i.text-success::before { content: "\\2713"; color: #0b7a3b; font-style: normal; font-weight: 700; }
i.text-danger::before { content: "\\2717"; font-style: normal; font-weight: 700; }
.badge { background: #e4e7eb; border-radius: .3rem; padding: 0 .35rem; }
.verdict { font-weight: 600; }
.passed { color: #0b7a3b; }
.failed { color: #ab091e; }
"""


def one_page(tables: Sequence[SuiteTable], *, broken: int, warnings: int, digest: str, version: str) -> str:
    """The Data Docs of one validation as a complete HTML document.

    Args:
        tables: Results of every suite.
        broken: Expectations that stop a run.
        warnings: Expectations that found records at fault with which a run goes on.
        digest: Of the data set.
        version: Of Great Expectations.
    """
    checks = sum(t.checks for t in tables)
    kind = "failed" if broken else "passed"
    if broken:
        said = f"{broken} of {checks} expectations are not met."
    elif warnings:
        said = f"Fit for a run, with warnings from {warnings} of {checks} expectations."
    else:
        said = f"All {checks} expectations are met."
    body = "\n".join(
        f"<section><h2>{html.escape(t.name)}<small>{t.rows:,} records, {t.met} of {t.checks} expectations met"
        f"</small></h2>\n{t.table}</section>"
        for t in tables
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Data validation</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Data validation</h1>
<p class="verdict {kind}">{said}</p>
<p>Data Docs of Great Expectations {html.escape(version)}. Data set {html.escape(digest)}.</p>
{body}
</body>
</html>
"""
