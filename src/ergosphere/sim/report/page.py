"""One HTML page that holds everything: tables, plots as pictures inside it, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import Final

from matplotlib.figure import Figure
from rich.console import Console, Group

from ergosphere.sim.bound import Bound
from ergosphere.sim.engine import Run
from ergosphere.sim.figures import Figures
from ergosphere.sim.report import plots
from ergosphere.sim.report.terminal import several, told

DPI: Final = 110
WIDTH: Final = 60  # characters of a table: as many again for each run

View = Callable[[Sequence[Figures], Bound | None], Group]

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #1a1a1a; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 1rem; }
img { width: 100%; border: 1px solid #ddd; border-radius: 4px; }
pre { overflow-x: auto; font-size: 12px; line-height: 1.25; background: #fafafa; padding: 1rem; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd; } pre { background: #1e1e1e; } }
"""


def page(runs: Sequence[Run], every: Sequence[Figures], best: Bound | None) -> str:
    """The whole report as HTML. The first run is the one that single plots are about; of runs over several seeds the
    plots show the first seed, and a table the spread of all."""
    seed = runs[0].scenario.seed
    title = html.escape(f"{every[0].trace} on {every[0].fleet}")
    drawn = [run for run in runs if run.scenario.seed == seed]
    pictures = "\n".join(
        f'<img alt="{html.escape(name)}" src="data:image/png;base64,{picture(plots.figure(draw, drawn, name))}">'
        for name, draw in plots.EVERY
    )
    spread = ""
    if len(drawn) < len(runs):
        spread = f"<h2>All seeds</h2>\n<pre>{html.escape(text(every, best, several))}</pre>\n<h2>Seed {seed}</h2>\n"
    tables = html.escape(text([one for one in every if one.seed == seed], best))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        f"{spread}<main>\n{pictures}\n</main>\n<h2>Figures</h2>\n<pre>{tables}</pre>\n</body></html>\n"
    )


def picture(figure: Figure, dpi: int = DPI) -> str:
    """A plot as PNG in base64."""
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=dpi)
    return base64.b64encode(made.getvalue()).decode()


def text(every: Sequence[Figures], best: Bound | None, view: View = told) -> str:
    """The tables without colours."""
    console = Console(width=WIDTH + 24 * len(every), file=io.StringIO(), record=True)
    console.print(view(every, best))
    return console.export_text()
