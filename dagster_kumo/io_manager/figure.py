"""Figures for metadata: small, and readable in both themes of the Dagster UI. They need the extra `plots`."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from dagster_kumo.api.errors import KumoDataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# It is stored in the event log, and loaded with every page that shows it.
MAX_PICTURE_BYTES = 40_000
# The Dagster UI has a light theme and a dark one. These colours have a contrast of 3 or more with both.
BARS, WORDS, MARK = "#7468f0", "#808791", "#d97706"


def new_figure(
    width: float, height: float, area: tuple[float, float, float, float]
) -> tuple[Figure, Axes]:
    """A transparent figure, and axes on it without a frame, readable in both themes.

    An inch has 100 pixels. The `area` of the axes is left, bottom, width and height as shares: computing it would draw
    twice.
    """
    # The object-oriented interface: pyplot keeps global state and may look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_axes(area)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(WORDS)
    axes.tick_params(labelsize=9, colors=WORDS)
    return figure, axes


def as_markdown(figure: Figure, title: str) -> str:
    """A figure with a title, as a picture in Markdown.

    Raises:
        KumoDataError: the picture is too large for an event log.
    """
    height = figure.get_size_inches()[1]
    figure.text(0.03, 1 - 0.24 / height, title, fontsize=10, color=WORDS, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    png = buffer.getvalue()
    if len(png) > MAX_PICTURE_BYTES:
        raise KumoDataError(
            f"The picture has {len(png)} bytes, which is too much for an event log."
        )
    return f"![{as_label(title, 200)}](data:image/png;base64,{base64.b64encode(png).decode()})"


def as_label(name: str, at_most: int) -> str:
    """A class in a few characters on one line, without Markdown's special characters."""
    text = " ".join(name.replace("`", "'").replace("[", "(").replace("]", ")").split())
    return text if len(text) <= at_most else f"{text[: at_most - 1]}…"
