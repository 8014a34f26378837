"""The map figure: order, scale, and rows that are the drawn cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from fltk.errors import FltkError
from fltk.metrics import label_similarity
from fltk.plots import map_evolution
from fltk.plots.attention_maps import attention_maps, compare_maps, panel_title
from fltk.plots.map_data import Clients, MapPanel, MapSet, colour_limit, order_clients, spread_rounds
from fltk.plots.save import save_figure

Array = npt.NDArray[Any]


def some_maps(n: int = 12, rounds: tuple[int, ...] = (1, 5), seed: int = 0) -> list[MapPanel]:
    generator = np.random.default_rng(seed)
    panels = []
    for number in rounds:
        weights = generator.random((n, n))
        np.fill_diagonal(weights, 20.0)
        panels.append(MapPanel(number, weights / weights.sum(axis=1, keepdims=True), 0.5, 0.01))
    return panels


def some_similarity(n: int = 12, seed: int = 0) -> Array:
    return label_similarity(np.random.default_rng(seed).integers(0, 9, (n, 5)) + np.eye(n, 5, dtype=int))


def drawn(ax: Axes) -> Array:
    image = ax.get_images()[0].get_array()
    assert image is not None
    return np.asarray(np.ma.asarray(image).filled(np.nan))


def test_spread_rounds_hold_the_first_and_the_last() -> None:
    assert spread_rounds(range(1, 31)) == (1, 11, 20, 30)
    assert spread_rounds([9, 3, 3]) == (3, 9)
    assert spread_rounds([4]) == (4,)
    assert spread_rounds([]) == ()


def test_groups_are_put_together_and_sorted_by_id_inside() -> None:
    groups = np.array([2, 0, 1, 0, 2, 1])
    assert order_clients(Clients(some_similarity(6), groups), 6).tolist() == [1, 3, 2, 5, 0, 4]


def test_without_groups_similar_clients_become_neighbours() -> None:
    hidden = np.random.default_rng(0).permutation(np.arange(16) % 4)
    counts = 30 * np.eye(4, dtype=int)[hidden] + np.random.default_rng(1).integers(0, 3, (16, 4))
    order = order_clients(Clients(label_similarity(counts)), 16)
    assert sorted(order) == list(range(16))
    assert np.count_nonzero(np.diff(hidden[order])) == 3


def test_clients_without_samples_come_last() -> None:
    counts = np.random.default_rng(0).integers(1, 9, (6, 3))
    counts[2] = 0
    assert order_clients(Clients(label_similarity(counts)), 6)[-1] == 2
    assert order_clients(Clients(label_similarity(counts[:3])), 3).tolist() == [0, 1, 2]
    assert order_clients(Clients(), 3).tolist() == [0, 1, 2]


def test_scale_ends_at_the_largest_off_diagonal_weight_of_all_panels() -> None:
    panels = some_maps()
    largest = max(p.weights[i, j] for p in panels for i in range(12) for j in range(12) if i != j)
    assert colour_limit(panels) == largest
    figure, _ = attention_maps(panels)
    assert {ax.get_images()[0].get_clim() for ax in figure.axes[:2]} == {(0.0, largest)}
    assert colour_limit([MapPanel(1, np.eye(3))]) == 1.0


@pytest.mark.parametrize("grouped", [True, False])
def test_rows_are_the_drawn_cells(grouped: bool) -> None:
    panels, similarity = some_maps(), some_similarity()
    groups = np.arange(12) % 3 if grouped else None
    ids, malicious = np.arange(12) + 100, np.arange(12) == 4
    figure, rows = attention_maps(panels, Clients(similarity, groups, malicious, ids))
    assert len(rows) == 3 * 144
    for k, ax in enumerate(figure.axes[:3]):
        part = rows[144 * k : 144 * (k + 1)]
        assert drawn(ax).ravel().tolist() == [row["value"] for row in part]
        source = panels[k].weights if k < 2 else similarity
        for row in part:
            assert row["value"] == source[row["receiver"] - 100, row["contributor"] - 100]
            assert row["receiver_malicious"] == (row["receiver"] == 104)
            assert row.get("contributor_group") == ((row["contributor"] - 100) % 3 if grouped else None)
    assert {(row["panel"], row["round"]) for row in rows} == {
        ("weight", 1),
        ("weight", 5),
        ("label-similarity", None),
    }
    assert rows[0]["alignment"] == 0.5 and rows[0]["p_value"] == 0.01


def test_titles_name_the_round_and_the_alignment() -> None:
    panels = [MapPanel(10, np.eye(4), -0.25, 0.5), MapPanel(20, np.eye(4))]
    figure, _ = attention_maps(panels)
    assert figure.axes[0].get_title() == "round 10\n$\\rho$ = \u22120.25, $p$ = 0.500"
    assert figure.axes[1].get_title() == "round 20"


@pytest.mark.parametrize("n", [1, 2, 4, 41, 100])
@pytest.mark.parametrize("width", [3.35, 7.0])
def test_any_number_of_clients_can_be_drawn(tmp_path: Path, n: int, width: float) -> None:
    clients = Clients(some_similarity(n), np.arange(n) % 4, np.arange(n) % 5 == 0)
    figure, _ = attention_maps(some_maps(n, (1, 2, 3)), clients, width=width)
    save_figure(figure, tmp_path / "maps.png")
    assert (tmp_path / "maps.png").stat().st_size > 5000


def test_nothing_reaches_over_the_edge_or_into_a_neighbour() -> None:
    panels = some_maps(20, (1, 10, 20, 30))
    for width in (3.35, 7.0):
        clients = Clients(some_similarity(20), np.arange(20) % 4, np.arange(20) < 3)
        figure, _ = attention_maps(panels, clients, width=width)
        box = figure.get_tightbbox()
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= width and box.y1 <= figure.get_size_inches()[1]
        boxes = [ax.get_tightbbox() for ax in figure.axes]
        for i, left in enumerate(boxes):
            for right in boxes[i + 1 :]:
                assert left is not None and right is not None
                assert not left.overlaps(right)


def test_unknown_rows_are_drawn_as_empty() -> None:
    weights = np.full((3, 3), 1 / 3)
    weights[1] = np.nan
    figure, _ = attention_maps([MapPanel(1, weights)])
    assert np.isnan(drawn(figure.axes[0])[1]).all()
    save = attention_maps([MapPanel(1, np.full((3, 3), np.nan))])[0]
    save.canvas.draw()


def test_without_maps_the_reason_is_told() -> None:
    with pytest.raises(FltkError, match="no collaboration map"):
        attention_maps([])


def test_a_layer_that_is_a_number_is_called_a_layer() -> None:
    titles = [panel_title(MapPanel(3, np.eye(2), part=part)) for part in ("", "head", "1")]
    assert titles == ["round 3", "round 3, head", "round 3, layer 1"]


def test_a_frame_keeps_its_title_off_the_marks_of_attackers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(map_evolution, "_pixels", lambda figure: seen.append(_title_gap(figure)) or np.zeros((1, 1, 3)))
    panels = [MapPanel(k, np.full((3, 3), 1 / 3)) for k in (1, 2)]
    map_evolution.map_evolution(panels, Clients(malicious=np.array([True, False, False])))
    figure, _ = attention_maps(panels[:1], Clients(malicious=np.array([True, False, False])), width=3.35)
    assert seen == pytest.approx([_title_gap(figure)] * 2)


def _title_gap(figure: Figure) -> float:
    """Pixels between the panel and its title."""
    figure.canvas.draw()
    ax = figure.axes[0]
    return float(ax.title.get_window_extent().y0 - ax.get_window_extent().y1)


def caption(figure: Figure) -> str:
    """The words below the panels, without their line breaks."""
    return " ".join(max((text.get_text() for text in figure.texts), key=len).split())


BLOCKS = np.kron(np.eye(2), np.ones((3, 3)))  # the map of who learns from the own group alone
GROUPS = np.array([0, 0, 0, 1, 1, 1])


def test_titles_say_how_much_stays_in_known_groups_beside_a_uniform_map() -> None:
    clients = Clients(np.ones((6, 6)), GROUPS)
    panels = [MapPanel(1, np.ones((6, 6)), 0.3, 0.5), MapPanel(9, BLOCKS, -0.1, 0.5), MapPanel(10, np.eye(6))]
    figure, rows = attention_maps(panels, clients, seed=4)
    assert [ax.get_title() for ax in figure.axes[:3]] == [
        "round 1\nin groups 40 % (40 %)",
        "round 9\nin groups 100 % (40 %)",
        "round 10\nno weight on others",
    ]
    found = {row["round"]: (row["inside"], row["inside_uniform"]) for row in rows if row["panel"] == "weight"}
    assert found[1] == pytest.approx((0.4, 0.4)) and found[9] == pytest.approx((1.0, 0.4))
    assert caption(figure).startswith(
        "In groups: share of the weight on other clients that stays inside the true groups"
    )
    assert caption(figure).endswith("Seed 4.") and "\u03c1" not in caption(figure)


def test_without_groups_the_order_of_ticks_is_explained() -> None:
    figure, rows = attention_maps(some_maps(), Clients(some_similarity()))
    assert "Ticks: client ids; neighbours have similar labels." in caption(figure)
    assert "\u03c1: Spearman correlation with label similarity" in caption(figure)
    assert "contributing client, by label similarity" in [text.get_text() for text in figure.texts]
    assert not any("inside" in row for row in rows)
    grouped, _ = attention_maps(some_maps(), Clients(some_similarity(), np.arange(12) % 3))
    assert "Ticks" not in caption(grouped)


def test_weights_above_the_scale_have_its_top_colour_which_is_said() -> None:
    figure, _ = attention_maps(some_maps())
    colours = figure.axes[0].get_images()[0].cmap
    assert tuple(colours.get_over()) == colours(1.0) != (1.0, 1.0, 1.0, 1.0)
    assert "Weights above the scale" in caption(figure)
    figure, _ = attention_maps([MapPanel(1, np.full((3, 3), 1 / 3), 0.1, 0.1)])
    assert "above the scale" not in caption(figure)


def test_malicious_clients_are_explained() -> None:
    figure, _ = attention_maps(some_maps(), Clients(malicious=np.arange(12) == 3))
    assert "Triangles: malicious clients." in caption(figure)


@pytest.mark.parametrize("width", [3.3, 7.0])
def test_maps_of_two_runs_share_their_scale_and_the_similarity_of_their_clients(width: float) -> None:
    clients = Clients(np.ones((6, 6)), GROUPS)
    sets = [
        MapSet([MapPanel(9, BLOCKS / 3)], clients, "oracle", 0),
        MapSet([MapPanel(9, np.full((6, 6), 1 / 6))], clients, "attn", 1),
    ]
    figure, rows = compare_maps(sets, width=width)
    assert [ax.get_title() for ax in figure.axes[:3]] == [
        "oracle\nround 9\nin groups 100 % (40 %)",
        "attn\nround 9\nin groups 40 % (40 %)",
        "label similarity",
    ]
    for ax in figure.axes[:2]:
        assert ax.get_images()[0].get_clim() == pytest.approx((0.0, 1 / 3))
    assert {row["run"] for row in rows} == {"oracle", "attn"} and "Seeds 0, 1." in caption(figure)
    tops = [ax.get_position().y1 for ax in figure.axes[:3]]
    assert tops[0] == tops[1] and (tops[2] == tops[0]) == (width == 7.0)


@pytest.mark.parametrize("width", [3.3, 7.0])
def test_runs_with_other_clients_begin_a_line_with_their_own_order_and_similarity(width: float) -> None:
    grouped = Clients(some_similarity(12), np.arange(12) % 3)
    sets = [
        MapSet(some_maps(12, (1, 5)), grouped, "attn digits permuted-labels"),
        MapSet(some_maps(20, (1, 5)), Clients(some_similarity(20)), "attn digits dirichlet 0.1"),
    ]
    figure, rows = compare_maps(sets, width=width)
    titles = [ax.get_title().replace("\n", " ") for ax in figure.axes[:6]]
    assert [title.startswith("attn digits permuted") for title in titles] == [True, True, *[False] * 4]
    assert titles[2] == titles[5] == "label similarity"
    places = [ax.get_position() for ax in figure.axes[:6]]
    assert places[3].x0 == pytest.approx(places[0].x0) and places[3].y1 < places[0].y0
    assert len(rows) == 3 * 144 + 3 * 400
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= figure.get_size_inches()[1]
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])


def test_maps_have_type_that_can_be_read() -> None:
    clients = Clients(some_similarity(20), malicious=np.arange(20) < 3)
    figure, _ = attention_maps(some_maps(20, (1, 10, 20, 30)), clients, width=3.3)
    figure.canvas.draw()
    written = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in written) >= 6.5
