"""Figures with many lines: panels in place of a long legend, and captions that name seeds and lines that coincide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from fltk.plots.attention_stats import MapStats, attention_stats
from fltk.plots.captions import seeds_told
from fltk.plots.clients import ClientScores, client_accuracy, client_gains
from fltk.plots.curves import Curve, accuracy_bytes, accuracy_curves
from fltk.plots.facets import MOST, layout
from fltk.plots.method_styles import method_style

METHODS = ("local", "fedavg", "fedper", "ditto", "attn")
SETTINGS = ("digits iid", "digits rotated", "mnist dirichlet 0.1")
ROUNDS = np.arange(1, 6)


def tag(method: str, setting: str, seed: int = 0) -> dict[str, object]:
    return {"method": method, "setting": setting, "row": method, "seed": seed}


def grid(methods: Sequence[str] = METHODS, settings: Sequence[str] = SETTINGS) -> list[Curve]:
    """A curve for each method in each setting."""
    curves = []
    for s, setting in enumerate(settings):
        for m, method in enumerate(methods):
            label = f"{method} {setting}".strip()
            values = (m + 1) / (s + len(methods) + 1) * ROUNDS / 6
            curves.append(Curve(label, ROUNDS, values, 1e6 * ROUNDS, **tag(method, setting)))
    return curves


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def caption(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_few_lines_share_a_panel_and_many_settings_do_not() -> None:
    few = layout(grid(METHODS[:2]))
    assert [panel.title for panel in few.panels] == [""] and list(few.legend) == list(few.styles)
    many = layout(grid())
    assert [panel.title for panel in many.panels] == list(SETTINGS)
    assert list(many.legend) == list(METHODS) and not many.one_each
    assert len({label for panel in many.panels for label in panel.labels}) == 15


def test_a_method_has_one_style_in_all_panels() -> None:
    figure, rows = accuracy_curves(grid())
    assert [ax.get_title() for ax in figure.axes] == [*SETTINGS[:2], "mnist dirichlet 0.1"]
    for ax in figure.axes:
        styles = [(line.get_color(), line.get_marker()) for line in ax.get_lines()]
        assert styles == [(method_style(name).color, method_style(name).marker) for name in METHODS]
    assert legend(figure) == list(METHODS)
    assert len({row["label"] for row in rows}) == 15, "data name the setting too"


def test_many_lines_of_one_setting_have_a_panel_each_before_the_others_in_grey() -> None:
    names = [f"method{k}" for k in range(MOST + 1)]
    figure, _ = accuracy_curves(grid(names, ("",)))
    assert [ax.get_title() for ax in figure.axes] == names and not figure.legends
    for ax in figure.axes:
        grey = [line for line in ax.get_lines() if to_hex(line.get_color()) == "#d0d0d0"]
        assert (len(grey), len(ax.get_lines())) == (len(names), len(names) + 1)
    assert len(accuracy_curves(grid(names[:MOST], ("",)))[0].axes) == 1


def test_settings_with_a_line_each_are_told_apart_in_panels_as_well() -> None:
    figure, _ = accuracy_curves(grid(("fedavg",), [f"lr={k}" for k in range(MOST + 1)]))
    assert len(figure.axes) == MOST + 1 and figure.axes[3].get_title() == "fedavg lr=3"


FIGURES = {
    "curves": lambda width: accuracy_curves(grid(), width=width),
    "bytes": lambda width: accuracy_bytes(grid(), width=width),
    "each": lambda width: accuracy_curves(grid([f"method{k}" for k in range(14)], ("",)), width=width),
    "clients": lambda width: client_accuracy(scores(), width=width),
    "gains": lambda width: client_gains(scores(), width=width),
    "stats": lambda width: attention_stats(stats(), width=width),
    "one": lambda width: accuracy_curves(grid(METHODS, ("",)), width=width),
}


def scores() -> list[ClientScores]:
    draw = np.random.default_rng(0).random
    found = []
    for curve in grid():
        more = tag(curve.method, curve.setting)
        found.append(ClientScores(curve.label, draw(20) - 0.3, **more))  # type: ignore[arg-type]
    return found


def stats() -> list[MapStats]:
    found = []
    for curve in grid():
        more = tag(curve.method, curve.setting)
        found.append(MapStats(curve.label, ROUNDS, curve.values, curve.values, **more))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("width", [3.3, 7.0])
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_can_be_read_and_stays_on_the_page(name: str, width: float) -> None:
    figure, _ = FIGURES[name](width)
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01 and box.x1 <= width + 0.01
    assert box.y0 >= -0.01 and box.y1 <= figure.get_size_inches()[1] + 0.01
    written = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in written) >= 6.5
    for ax in figure.axes:
        assert ax.get_position().height * figure.get_size_inches()[1] > 0.5
    titles = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
    assert not any(one.overlaps(other) for k, one in enumerate(titles) for other in titles[:k])


def test_statistics_of_maps_have_two_panels_for_each_setting() -> None:
    figure, rows = attention_stats(stats(), width=7.0)
    assert len(figure.axes) == 6 and [ax.get_title() for ax in figure.axes[:3]] == list(SETTINGS)
    assert legend(figure) == list(METHODS) and {row["measure"] for row in rows} == {"self_weight", "entropy"}


# Captions


def test_captions_name_seeds_and_whose_they_are() -> None:
    alike = [Curve("a", ROUNDS, ROUNDS / 9, seed=seed) for seed in (2, 0, 1)]
    assert caption(accuracy_curves(alike)[0]) == "Mean over seeds 0, 1, 2. Band: one standard deviation over seeds."
    assert caption(accuracy_curves(alike[:1])[0]) == "Seed 2."
    other = Curve("b", ROUNDS, ROUNDS / 6, seed=7)
    third = Curve("c", ROUNDS, ROUNDS / 8, seed=7)
    told = caption(accuracy_curves([*alike, other, third])[0])
    assert told == "Seed 7: b, c; seeds 0, 1, 2: a. Band: one standard deviation over seeds."
    assert caption(accuracy_curves([Curve("a", ROUNDS, ROUNDS / 9)])[0]) == "", "no seed is known"


def test_captions_name_settings_where_all_of_their_lines_share_seeds() -> None:
    more = [Curve(c.label, c.rounds, c.values, **tag(c.method, c.setting, 1)) for c in grid()[:5]]
    told = caption(accuracy_curves([*grid(), *more])[0])
    assert told.startswith("Seed 0: digits rotated, mnist dirichlet 0.1; seeds 0, 1: digits iid.")


def test_seeds_in_a_row_are_a_span() -> None:
    assert [seeds_told(seeds) for seeds in ((3,), (2, 1), (0, 1, 2, 3), (0, 1, 2, 9))] == [
        "seed 3",
        "seeds 1, 2",
        "seeds 0 to 3",
        "seeds 0, 1, 2, 9",
    ]


def test_lines_that_cover_each_other_are_named_with_their_distance() -> None:
    values = np.linspace(0.2, 0.8, 5)
    curves = [Curve(name, ROUNDS, values + by) for name, by in (("oracle", 0), ("attn", 0.004), ("local", -0.15))]
    told = caption(accuracy_curves(curves)[0])
    assert told == "Lines that cover each other: oracle and attn (at most 0.4 points apart)."
    crossing = [curves[0], Curve("crossing", ROUNDS, values[::-1])]
    assert caption(accuracy_curves(crossing)[0]) == "", "they meet once"
    losses = [Curve(name, ROUNDS, 3 - values + by) for name, by in (("a", 0), ("b", 0.01))]
    assert "a and b (at most 0.01 apart)" in caption(accuracy_curves(losses, percent=False, share=False)[0])


def test_a_dashed_line_is_drawn_over_a_solid_one() -> None:
    pair = [Curve(name, ROUNDS, ROUNDS / 9, method=name) for name in ("oracle", "attn")]
    over = {line.get_color(): line.get_zorder() for line in accuracy_curves(pair)[0].axes[0].get_lines()}
    assert over[method_style("oracle").color] > over[method_style("attn").color]


def test_panels_have_ticks_below_the_lowest_of_each_column_and_names_in_the_last_row() -> None:
    figure, _ = accuracy_curves(grid([f"method{k}" for k in range(20)], ("",)), width=3.3)
    columns = 3
    assert [ax.get_xlabel() != "" for ax in figure.axes] == [False] * 18 + [True] * 2
    for place, ax in enumerate(figure.axes):
        assert ax.xaxis.get_tick_params()["labelbottom"] is (place + columns >= 20)


def test_markers_of_lines_that_coincide_stand_apart() -> None:
    rounds = np.arange(1, 31)
    pair = [Curve(name, rounds, rounds / 31, method=name) for name in ("a", "b", "c", "oracle", "attn")]
    places = [line.get_markevery() for line in accuracy_curves(pair)[0].axes[0].get_lines()]
    assert places == [(0, 3), (1, 3), (2, 3), (0, 3), (1, 3)]
