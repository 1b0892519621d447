"""The figure of the embeddings, built with Bokeh: how it looks and what it answers to; points come in the browser."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import matplotlib as mpl
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, HoverTool, Range1d
from bokeh.plotting import figure
from bokeh.resources import Resources

from nvae_bio.plot.style import MISSING, OKABE_ITO

MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "hex", "star")
N_SHADES = 64
IDS = re.compile(r'"(p\d+)"')


@cache
def bokeh_script() -> str:
    """BokehJS, the part of it that draws; nothing in it asks a network."""
    return "".join(Resources(mode="inline", components=["bokeh"], minified=True, log_level="error").js_raw)


def viewer_item() -> dict[str, Any]:
    """The figure without points, for `Bokeh.embed.embed_item`; the same each time that it is made."""
    source = ColumnDataSource(
        {name: [] for name in ("x", "y", "color", "marker", "name", "label", "value")}, name="points"
    )
    plot = figure(
        name="plot", sizing_mode="stretch_width", height=520, tools="pan,wheel_zoom,box_zoom,reset,save",
        x_range=Range1d(start=0, end=1), y_range=Range1d(start=0, end=1),
        toolbar_location="above", output_backend="canvas",
        background_fill_color="#ffffff", outline_line_color="#b0b6bd",
    )  # fmt: skip
    plot.scatter("x", "y", source=source, marker="marker", size=6, fill_color="color", line_color=None, name="dots")
    plot.add_tools(HoverTool(tooltips=[("sample", "@name"), ("class", "@label"), ("colour", "@value")]))
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_label, axis.axis_label_text_font_style = " ", "normal"
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = "#6b7280"
    plot.grid.grid_line_color = "#eef0f2"
    plot.toolbar.logo, plot.toolbar.autohide = None, True
    return numbered(json_item(plot))  # type: ignore[arg-type]


def numbered(item: dict[str, Any]) -> dict[str, Any]:
    """The same with identities counted from 1 on, whatever was drawn before in this process."""
    text, known = json.dumps(item), dict[str, str]()
    for name in IDS.findall(text):
        known.setdefault(name, f"b{len(known) + 1}")
    found: dict[str, Any] = json.loads(IDS.sub(lambda match: f'"{known[match[1]]}"', text))
    return found


def palettes() -> dict[str, Any]:
    """Colours and shapes: of levels, of numbers, of signed ones, and of samples without a value."""
    shades = {
        name: [mpl.colors.to_hex(mpl.colormaps[cmap](i / (N_SHADES - 1))) for i in range(N_SHADES)]
        for name, cmap in (("number", "cividis"), ("signed", "coolwarm"))
    }
    return {"levels": list(OKABE_ITO), "markers": list(MARKERS), "missing": MISSING, **shades}
