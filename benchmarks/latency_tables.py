"""Tables, targets and the picture of `model_latency.py`, for one processor or for several side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

LABELS = {
    "fp32": "FP32",
    "dynamic_u8": "dynamic, unsigned",
    "dynamic_s8": "dynamic, signed",
    "static_ort": "onnxruntime static, reduce_range",
    "static": "static QDQ",
    "ours": "ours",
}

KINDS = {"vnni": "VNNI", "avx2": "AVX2, no VNNI", "arm": "ARM", "x86": "x86 without AVX2"}

Measured = dict[str, Any]
"""What `model_latency.py --json` writes."""


def kind_of(features: Sequence[str]) -> str:
    """Which int8 kernels onnxruntime chooses on a processor with these features."""
    if any("vnni" in feature or feature == "amx_int8" for feature in features):
        return "vnni"
    if "avx2" in features:
        return "avx2"
    return "x86" if features[:1] == ["x86_64"] else "arm"


def title(measured: Measured) -> str:
    """What was measured: the processor's own kernels, or those of an older one at this one's speed."""
    name, kind = measured["processor"], KINDS[kind_of(measured["cpu_features"])]
    if measured["as_processor"]:
        return f"{measured['as_processor'].upper()} kernels on {name}, whose VNNI is hidden"
    return f"{name}, {kind}"


def targets(measured: Measured) -> Iterator[tuple[str, float, str, float]]:
    """(what, measured, comparison, wanted) of pose_resnet_50 on a kind of processor."""
    kind, result = kind_of(measured["cpu_features"]), measured["models"]["pose_resnet_50"]
    yield "size, MB", result["size_mb"]["ours"], "≤", 36.0
    for threads, figures in result["threads"].items():
        with_threads = _threads(threads)
        times = {name: own["times_fp32"] for name, own in figures.items()}
        one = threads == "1"
        if kind == "vnni":
            yield f"times as fast as FP32, {with_threads}", times["ours"], "≥", 3.5 if one else 2.5
            faster = times["ours"] / times["dynamic_u8"]
            yield f"times as fast as dynamic, unsigned, {with_threads}", faster, "≥", 3.0 if one else 2.5
            if one:
                faster = times["ours"] / times["dynamic_s8"]
                yield f"times as fast as dynamic, signed, {with_threads}", faster, "≥", 10.0
        if kind == "avx2" and one:
            yield f"times as fast as FP32, {with_threads}", times["ours"], "≥", 1.85
            faster = times["ours"] / times["static_ort"]
            yield f"times as fast as onnxruntime's static QDQ with reduce_range, {with_threads}", faster, "≥", 1.4
        if not measured["as_processor"]:
            yield f"peak RSS, MB, {with_threads}", figures["ours"]["peak_rss_mb"], "≤", 170.0


def table(measured: Measured) -> Iterator[str]:
    """Every file of every network, in Markdown."""
    counts = list(next(iter(measured["models"].values()))["threads"])
    timed = " | ".join(f"{_threads(count)}: median / p95, ms | times FP32 (rounds)" for count in counts)
    yield f"| network | file | MB | load, ms | {timed} | peak RSS, MB | SQNR, dB |"
    yield f"|---|---|---|---|{'---|' * 2 * len(counts)}---|---|"
    for model, result in measured["models"].items():
        for name, sqnr in result["sqnr_db"].items():
            one = result["threads"][counts[0]][name]
            cells = [model, LABELS[name], f"{result['size_mb'][name]:.2f}", f"{one['load_ms']:.0f}"]
            for count in counts:
                own = result["threads"][count][name]
                spread = f" ({own['times_low']:.2f}–{own['times_high']:.2f})" if name != "fp32" else ""
                cells += [f"{own['median_ms']:.1f} / {own['p95_ms']:.1f}", f"{own['times_fp32']:.2f}×{spread}"]
            # The tool that hides instructions keeps changed copies of every library in memory.
            cells.append("–" if measured["as_processor"] else f"{one['peak_rss_mb']:.0f}")
            cells.append("–" if sqnr is None else f"{sqnr:.1f}")
            yield f"| {' | '.join(cells)} |"


def _threads(count: str) -> str:
    return f"{count} thread{'' if count == '1' else 's'}"


def verdicts(all_measured: Iterable[Measured]) -> Iterator[str]:
    """What the figures of pose_resnet_50 are compared with, in Markdown."""
    yield "| processor | target for pose_resnet_50 | measured | wanted | |"
    yield "|---|---|---|---|---|"
    for measured in all_measured:
        kind = kind_of(measured["cpu_features"])
        for what, value, comparison, wanted in targets(measured):
            met = value <= wanted if comparison == "≤" else value >= wanted
            shown = f"{value:.2f} | {comparison} {wanted:g} | {'met' if met else '**missed**'}"
            yield f"| {KINDS[kind]} | {what} | {shown} |"


def text(all_measured: Sequence[Measured]) -> str:
    """All tables, in Markdown."""
    lines: list[str] = []
    for measured in all_measured:
        features, runtime = ", ".join(measured["cpu_features"]), measured["onnxruntime"]
        lines += [f"**{title(measured)}** ({features}; onnxruntime {runtime}):", "", *table(measured), ""]
    if all("pose_resnet_50" in measured["models"] for measured in all_measured):
        lines += ["What the command compares its figures with:", "", *verdicts(all_measured), ""]
    return "\n".join(lines)


def draw(all_measured: Sequence[Measured], picture: Path) -> None:
    """Latency on each processor, memory and size of every file, one row for each network."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    models, columns = list(all_measured[0]["models"]), len(all_measured) + 2
    widths = [1.5] * len(all_measured) + [1, 1]
    size = (2.6 * sum(widths) + 2, 2.7 * len(models) + 0.8)
    figure, rows = plt.subplots(len(models), columns, figsize=size, squeeze=False, width_ratios=widths)
    names = list(LABELS)
    places = range(len(names))
    for axes, model in zip(rows, models, strict=True):
        for axis, measured in zip(axes, all_measured, strict=False):
            _draw_latency(axis, measured["models"][model], names)
            axis.set_title(f"{model}\n{title(measured)}", fontsize=9, loc="left")
        first = all_measured[0]["models"][model]
        threads = next(iter(first["threads"]))
        peaks = [first["threads"][threads][name]["peak_rss_mb"] for name in names]
        sizes = [first["size_mb"][name] for name in names]
        memory = "peak memory, MB" + (f"\n{title(all_measured[0])}" if len(all_measured) > 1 else "")
        for axis, values, form, what in ((axes[-2], peaks, "{:.0f}", memory), (axes[-1], sizes, "{:.1f}", "file, MB")):
            bars = axis.barh(places, values, 0.6, color=["#7a8899"] * (len(names) - 1) + ["#1b7f5c"])
            axis.bar_label(bars, [form.format(value) for value in values], padding=2, fontsize=8)
            axis.set_title(what, fontsize=9, loc="left")
        for axis in axes:
            axis.set_yticks(places, [LABELS[name] for name in names] if axis is axes[0] else [], fontsize=9)
            axis.invert_yaxis()
            axis.margins(x=0.35)
            axis.tick_params(axis="x", labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)


def _draw_latency(axis: Any, result: Measured, names: Sequence[str]) -> None:
    from matplotlib import pyplot as plt

    threads = list(result["threads"])
    height = 0.8 / len(threads)
    shades = plt.get_cmap("Blues")([0.75 - 0.3 * number for number in range(len(threads))])
    for number, count in enumerate(threads):
        own = [result["threads"][count][name] for name in names]
        offsets = [place + (number - (len(threads) - 1) / 2) * height for place in range(len(names))]
        medians = [one["median_ms"] for one in own]
        bars = axis.barh(offsets, medians, height, color=shades[number], label=_threads(count))
        labels = [f"{one['median_ms']:.1f} ms, {one['times_fp32']:.1f}×" for one in own]
        axis.bar_label(bars, labels, padding=2, fontsize=8)
    axis.legend(fontsize=8, frameon=False, loc="lower right")
