"""Draw panels of bars (JSON on standard input) to a PNG; run in the environment that has matplotlib."""

import json
import math
import statistics
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, THEIRS = "#2563eb", "#9ca3af"
COLUMNS = 2


def draw(axes, panel):
    bars = [(label, values) for label, values in panel["bars"].items() if values][::-1]
    middles = [statistics.median(values) for _, values in bars]
    below = [middle - min(values) for middle, (_, values) in zip(middles, bars, strict=True)]
    above = [max(values) - middle for middle, (_, values) in zip(middles, bars, strict=True)]
    # In a panel of ours alone nothing needs telling apart.
    colours = [OURS if label.startswith("bbio") else THEIRS for label, _ in bars]
    drawn = axes.barh(range(len(bars)), middles, xerr=[below, above], color=colours, ecolor="#374151", capsize=2)
    axes.bar_label(drawn, [f" {middle:,.3g}" if middle < 1000 else f" {middle:,.0f}" for middle in middles], fontsize=8)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=8)
    axes.set_title(panel["title"], fontsize=10, loc="left")
    axes.set_xlabel(panel["unit"], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def main(picture):
    panels = [panel for panel in json.load(sys.stdin) if any(panel["bars"].values())]
    rows = max(1, math.ceil(len(panels) / COLUMNS))
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(12, 2.6 * rows), squeeze=False, layout="constrained")
    for axes, panel in zip(grid.flat, panels, strict=False):
        draw(axes, panel)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    figure.savefig(picture, dpi=120)


main(sys.argv[1])
