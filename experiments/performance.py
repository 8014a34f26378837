"""Tables and the figure of docs/performance.md from what `fltk bench` and `fltk train --profile` printed as JSON.

    python experiments/performance.py FOLDER docs/performance.md plots/growth.png

FOLDER is what experiments/performance.sh has filled. In the page, everything between `<!-- NAME -->` and
`<!-- /NAME -->` is replaced; the rest is left alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from fltk.plots.method_styles import line_styles
from fltk.plots.save import save_figure
from fltk.plots.style import DOUBLE, legend_above, new_figure, paper

Row = dict[str, Any]


def report(folder: Path, name: str) -> dict[str, Any]:
    """What a command printed."""
    return dict(json.loads((folder / f"{name}.json").read_text()))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, digits: int = 3) -> str:
    """Seconds and the like with so many digits that count; what nobody measured is a dash."""
    return "–" if value is None else f"{value:.{digits}g}" if value < 100 else f"{value:,.0f}"


def speed(rows: Sequence[Row]) -> str:
    """Workloads against the plain loop."""
    heads = ("workload", "fltk, s", "plain loop, s", "speed-up", "share of peak")
    return table(
        heads,
        (
            (r["about"], number(r["seconds_min"]), number(r["against_min"]), f"{r['faster']:.1f}", f"{r['share']:.0%}")
            for r in rows
            if r.get("faster")
        ),
    )


def price(rows: Sequence[Row]) -> str:
    """What methods and evaluation cost more than the run that they are compared with."""
    heads = ("workload", "s", "baseline", "baseline, s", "slowdown")
    return table(
        heads,
        (
            (r["about"], number(r["seconds_min"]), r["against"], number(r["against_min"]), f"{r['slower']:.2f}")
            for r in rows
            if r.get("slower")
        ),
    )


def server(rows: Sequence[Row]) -> str:
    """Attention and registry."""
    heads = ("what", "parameters", "s", "of it the map", "of it mixing", "driver, MiB")
    keys = ("seconds_min", "seconds_map", "seconds_mix")
    return table(
        heads,
        (
            (
                r["about"],
                f"{r['parameters']:,}" if "parameters" in r else "–",
                *(number(r.get(key)) for key in keys),
                number(r.get("driver_mib"), 4),
            )
            for r in rows
            if "against" not in r
        ),
    )


def memory(rows: Sequence[Row]) -> str:
    """Peak memory, the data in memory, and what the driver had before the first round."""
    heads = ("workload", "method", "data, MiB", "driver before, MiB", "driver at most, MiB", "each worker at most, MiB")
    keys = ("data_mib", "before_mib", "driver_mib", "worker_mib")
    return table(heads, ((r["about"], r["method"], *(number(r.get(key), 4) for key in keys)) for r in rows))


def profile(folder: Path) -> str:
    """Shares of the time of a round, one column a run."""
    runs = [(model, row) for model in ("mlp", "cnn") for row in report(folder, f"profile-{model}")["rows"]]
    heads = ("part", *(f"{model}, {row['method']}" for model, row in runs))
    shares = [{p["part"]: p["share"] for p in row["profile"]["parts"]} for _, row in runs]
    lines = [[part, *(f"{own[part]:.1%}" for own in shares)] for part in shares[0]]
    rounds = [number(row["profile"]["seconds"] / row["profile"]["rounds"]) for _, row in runs]
    return table(heads, [*lines, ["a round, s", *rounds]])


def machine(found: dict[str, Any]) -> str:
    """One paragraph: where the figures come from."""
    on = found["machine"]
    counts = sorted(len(row["seconds"]) for row in found["rows"] if "flops" in row)
    text = (
        f"{on['cpu']}, {on['usable_cores']} cores; torch {on['torch']}; one core multiplies "
        f"{on['gemm_flops'] / 1e9:.0f} GFLOP/s in float32. Engine: {found['rows'][0]['engine']}, "
        f"workers: {found['rows'][0]['workers']}. Fastest of {counts[0]} to {counts[-1]} rounds."
    )
    notes = [note for note in found["notes"] if "digits" in note]
    return " ".join([text, *notes])


def growth(folder: Path, path: Path) -> None:
    """Seconds of a round over clients and parameters, and of all rounds over their number."""
    labels = ["fltk", "plain loop", "fltk's registry, 1,000 clients"]
    styles = list(line_styles((label, label) for label in labels).values())
    with paper():
        figure = new_figure(DOUBLE, 2.1)
        axes = figure.subplots(1, 3)
        for ax, name, key in ((axes[0], "clients", "clients"), (axes[1], "parameters", "parameters")):
            rows = report(folder, name)["rows"]
            for index, what in enumerate(("seconds_min", "against_min")):
                style = styles[index]
                x, y = [r[key] for r in rows], [r[what] for r in rows]
                ax.plot(x, y, color=style.color, marker=style.marker, linestyle=style.dash)
            ax.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds of a round")
            ax.grid(axis="y")
        found = {r["workload"]: r for r in report(folder, "rounds")["rows"]}
        lines = [found["w1-mlp"]["seconds"], found["w1-mlp"]["against_seconds"]]
        lines.append(found["registry-write"]["seconds_of_rounds"])
        handles = []
        for index, seconds in enumerate(lines):
            style = styles[index]
            rounds = range(1, 1 + len(seconds))
            handles += axes[2].plot(rounds, list(accumulate(seconds)), color=style.color, linestyle=style.dash)
        axes[2].set(xscale="log", yscale="log", xlabel="rounds", ylabel="seconds so far")
        axes[2].grid(axis="y")
        legend_above(figure, handles, labels)
    save_figure(figure, path)


def put(page: str, name: str, text: str) -> str:
    """The page with `text` between the marks of this name."""
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = page.partition(first)
    _, found, after = rest.partition(last)
    if not found:
        raise SystemExit(f"the page has no place marked {first} ... {last}")
    return f"{before}{first}\n{text}\n{last}{after}"


def main(folder: Path, page: Path, figure: Path) -> None:
    found = report(folder, "all")
    rows, large = found["rows"], report(folder, "memory")["rows"] + report(folder, "clients")["rows"]
    texts = {
        "machine": machine(found),
        "speed": speed(rows),
        "price": price(rows + report(folder, "methods-cnn")["rows"]),
        "server": server(rows),
        "memory": memory([r for r in rows if r.get("faster")] + large),
        "profile": profile(folder),
    }
    text = page.read_text(encoding="utf-8")
    for name, content in texts.items():
        text = put(text, name, content)
    growth(folder, figure)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Tables and the figure of docs/performance.md from measurements.")
    parser.add_argument("folder", type=Path, help="what experiments/performance.sh has filled")
    parser.add_argument("page", type=Path, help="docs/performance.md, whose marked tables are replaced")
    parser.add_argument("figure", type=Path, help="figure to write, such as plots/growth.png")
    asked = parser.parse_args()
    if not (asked.folder / "all.json").is_file():
        parser.error(f"{asked.folder} has no all.json: fill the folder with experiments/performance.sh")
    main(asked.folder, asked.page, asked.figure)
