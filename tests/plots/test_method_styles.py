"""One colour and one marker per method, in every figure and every process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb

from fltk.names import METHODS
from fltk.plots.method_styles import TABLE, LineStyle, line_styles, method_style

OFTEN = ("local", "fedavg", "fedavg-ft", "fedper", "ditto", "fedamp", "ifca", "oracle", "attn")


def look(style: LineStyle) -> tuple[str, str, str, bool]:
    return style.color, style.marker, str(style.dash), style.hollow


def test_every_built_in_method_has_a_pair_of_its_own() -> None:
    assert set(TABLE) == set(METHODS)
    assert len({(method_style(name).color, method_style(name).marker) for name in METHODS}) == len(METHODS)


def test_methods_that_are_often_compared_differ_in_markers_alone() -> None:
    styles = [method_style(name) for name in OFTEN]
    assert len({style.marker for style in styles}) == len(styles)
    assert len({style.color for style in styles}) == len(styles) - 1, "both bounds, local and oracle, are black"


@pytest.mark.parametrize("name", [*METHODS, "my-method"])
def test_a_method_looks_the_same_whatever_is_drawn_with_it(name: str) -> None:
    alone = line_styles([(name, name)])[name]
    others = [(other, other) for other in reversed(METHODS) if other != name]
    assert line_styles([*others, (name, name)])[name] == alone == method_style(name)
    assert line_styles([(name, name), *others])[name] == alone


def test_a_method_of_ones_own_looks_the_same_in_every_process() -> None:
    code = "from fltk.plots.method_styles import method_style; print(method_style('my-method'))"
    told = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        told.add(subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True).stdout)
    assert told == {f"{method_style('my-method')}\n".encode()}


def test_methods_of_ones_own_have_no_pair_of_a_built_in_method_and_differ() -> None:
    names = [f"method{k}" for k in range(25)]
    styles = line_styles((name, name) for name in [*names, *METHODS])
    assert len({(style.color, style.marker) for style in styles.values()}) == 25 + len(METHODS)
    kept = [name for name in names if styles[name] == method_style(name)]
    assert len(kept) > 15, "only names that hash to the same pair give way"


def test_variants_of_a_method_keep_marker_and_hue() -> None:
    labels = [f"ditto lam={k}" for k in range(30)]
    styles = line_styles((label, "ditto") for label in labels)
    first = method_style("ditto")
    assert styles[labels[0]] == first
    assert {style.marker for style in styles.values()} == {first.marker}
    hue = rgb_to_hsv(to_rgb(first.color))[0]
    assert all(abs(rgb_to_hsv(to_rgb(style.color))[0] - hue) < 0.01 for style in styles.values())
    assert len({look(style) for style in styles.values()}) == 30


def test_the_first_variant_of_every_method_has_the_methods_style() -> None:
    styles = line_styles([("attn a=1", "attn"), ("fedavg lr=1", "fedavg"), ("attn a=2", "attn")])
    assert styles["attn a=1"] == method_style("attn") and styles["fedavg lr=1"] == method_style("fedavg")
    assert styles["attn a=2"].color != method_style("attn").color


def _seen(color: str) -> tuple[float, float, float]:
    """The colour as a reader without green cones sees it (Machado, Oliveira and Fernandes, 2009), linear."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    rows = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881))
    r, g, b = (sum(weight * part for weight, part in zip(row, linear, strict=True)) for row in rows)
    return r, g, b


def test_colours_differ_for_readers_without_colour_vision_or_have_other_markers() -> None:
    """Where two colours of methods look alike with deuteranopia, marker and dash both tell the methods apart."""
    for one in OFTEN:
        for other in OFTEN:
            a, b = method_style(one), method_style(other)
            near = max(abs(x - y) for x, y in zip(_seen(a.color), _seen(b.color), strict=True)) < 0.05
            if one < other and near:
                assert a.marker != b.marker and a.dash != b.dash, (one, other)
