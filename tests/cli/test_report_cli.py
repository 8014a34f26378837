"""`fltk report`: one page that needs nothing else, whose numbers are the registry's."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import TINY, done, fltk
from pages import Element, in_browser, read, tables, values
from stored_runs import add_run

from fltk.evaluation.compare import Pairing, compare
from fltk.registry import Store
from fltk.report import markup

NAME = "<b>&\"' </title><script>alert(1)</script>"
METHODS = ("local", "fedavg-ft", "attn")
SMALL = (*TINY[:4], "--newcomers", "2", "--rounds", "3", "--alpha", "0.5")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods under two seeds, evaluated, run1 with a name to be escaped, newcomers in run7 and run8."""
    db = tmp_path_factory.mktemp("report") / "r.db"
    for seed in ("0", "1"):
        done(db, "train", "--method", ",".join(METHODS[:2]), "--seed", seed, *SMALL)
        done(db, "train", "--method", METHODS[2], "--seed", seed, *SMALL, "--set", "lone=0.3")
    for run in range(1, 7):
        done(db, "evaluate", f"run{run}", "--brief", *(["--deploy", "ft1"] if run == 6 else []))
    done(db, "join-new-client", "run3", "--shots", "1,all", "--epochs", "2")
    done(db, "join-new-client", "run6", "--shots", "1,all", "--epochs", "2", "--newcomer", "5")
    done(db, "runs", "note", "run1", "first\n<i>second</i>")
    done(db, "runs", "tag", "paper=<table>", "run1")
    with Store(db) as store:
        store.rename(1, NAME)
        for run in range(1, 7):
            store.set_tag(run, "sweep", "grid")
    return db


@pytest.fixture(scope="module")
def page(lab: Path) -> Element:
    return read(written(lab, "--sweep", "grid"))


def written(db: Path, *args: str) -> str:
    output = db.with_name("page.html")
    assert done(db, "report", *args, "-o", str(output)) == f"{output}\n"
    return output.read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(lab: Path, page: Element) -> None:
    for found in page.all():
        assert found.tag not in ("link", "iframe", "object", "embed", "base", "form", "b", "i"), found
        assert not any(name.startswith("on") for name in found.attributes), found
        assert found.attributes.get("src", "data:image/").startswith("data:image/")
        assert found.attributes.get("href", "#").startswith("#")
    assert "url(" not in page.one("style").text and "@import" not in page.one("style").text
    script = page.one("script")
    assert not script.attributes and "http" not in script.text and "import" not in script.text
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    policies = [m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes]
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    ], "this script alone may run, whatever a run is called"


def test_figures_are_small(page: Element) -> None:
    """A page of 90 runs has less than 2 MB, where it had 5.4 with figures of 60 to 120 kB each."""
    sizes = [len(image.attributes["src"]) for image in page.all("img")]
    assert sum(sizes) / len(sizes) < 17_000, sizes


def test_runs_are_links_to_their_rows(page: Element) -> None:
    rows = [row for row in page.all("tr") if "id" in row.attributes]
    assert [row.attributes["id"] for row in rows] == [f"run{number}" for number in range(1, 9)]
    links = page.one("main").all("a")
    assert len(links) > 20 and all(link.attributes["href"] == f"#{link.text}" for link in links)
    head, *lines = tables(page)["Runs of this report"]
    kind = [cell.text for cell in head].index("Kind")
    assert lines[6][kind].one("a").attributes["href"] == "#run3"
    differing = tables(page)["What differs"][1][0]
    assert [link.text for link in differing.all("a")] == ["run1", "run4"]


def test_templates_escape_what_is_put_into_them() -> None:
    made = markup.table("<c>", markup.words("<h>", "x"), [["<a>", None], [markup.strong("<b>"), True]])
    assert "<c>" not in made and made.count("&lt;") == 5 and "<strong>&lt;b&gt;</strong>" in made
    assert "<td>–</td>" in made and "<td>yes</td>" in made
    assert "&#34;&gt;" in markup.figure("data:", '">', "<i>", (1, 2), True)
    with pytest.raises(ValueError, match="2 heads, but a row of 1"):
        markup.table("c", markup.words("a", "b"), [["x"]])


def test_the_page_can_be_read_by_everybody(page: Element) -> None:
    assert page.one("html").attributes["lang"] == "en" and page.one("title").text
    metas = {m.attributes["name"]: m.attributes["content"] for m in page.all("meta") if "name" in m.attributes}
    assert "width=device-width" in metas["viewport"] and metas["color-scheme"] == "light dark"
    assert "prefers-color-scheme: dark" in page.one("style").text
    ids = [found.attributes["id"] for found in page.all() if "id" in found.attributes]
    assert len(ids) == len(set(ids))
    linked = {link.attributes["href"][1:] for link in page.all("a")}
    assert linked <= set(ids)
    assert {section.attributes["id"] for section in page.all("section")} <= linked
    levels = [int(heading.tag[1]) for heading in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(image.attributes["alt"].strip() for image in page.all("img")) and len(page.all("img")) >= 8
    for table in page.all("table"):
        assert table.one("caption").text.strip()
        heads = table.one("thead").all("th")
        assert all(head.attributes["scope"] == "col" for head in heads)
        for row in table.one("tbody").all("tr"):
            assert row.children[0].attributes["scope"] == "row" and len(row.children) == len(heads)
    boxes = [found for found in page.all("div") if found.attributes.get("class") == "box"]
    assert len(boxes) >= len(page.all("table"))
    for box in boxes:
        assert box.attributes["tabindex"] == "0" and box.attributes["aria-label"] and box.attributes["role"] == "region"


def test_the_comparison_has_the_registrys_numbers(lab: Path, page: Element) -> None:
    head, *rows = tables(page)["digits dirichlet 0.5"]
    titles = {
        "Deployed": "deployed",
        "Deployed, worst decile": "deployed.worst10",
        "Personal": "personal_test_acc",
        "Personal, worst decile": "personal_test_acc.worst10",
        "Global model": "global_test_acc",
    }
    assert [cell.text for cell in head] == ["Method", "Seeds", *titles]
    with Store(lab) as store:
        runs = [store.find_run(number) for number in range(1, 7)]
        made = [compare(store, runs, name) for name in titles.values()]
        ties = [Pairing(store, table).ties("digits dirichlet 0.5") for table in made]
    assert [row[0].text for row in rows] == list(METHODS) and [row[1].text for row in rows] == ["2", "2", "2"]
    for row, method in zip(rows, METHODS, strict=True):
        for cell, table, tied in zip(row[2:], made, ties, strict=True):
            known = table.cells[method, "digits dirichlet 0.5"]
            best = method in table.best("digits dirichlet 0.5")
            expected = [known.mean, known.std] if known.scores else []
            assert [float(d.attributes["value"]) for d in cell.all("data")] == expected
            assert [d.text for d in cell.all("data")] == [f"{100 * value:.2f}" for value in expected]
            assert bool(cell.all("strong")) == best and ("≈" in cell.text) == (method in tied)


def test_every_client_is_there(lab: Path, page: Element) -> None:
    head, *rows = tables(page)["digits dirichlet 0.5: every client (%)"]
    assert [cell.text for cell in head] == ["Client", "local (run1)", "fedavg-ft (run2)", "attn (run3)"]
    with Store(lab) as store:
        stored = np.stack([store.evaluations(run)[-1].clients["deployed_test_acc"] for run in (1, 2, 3)], 1)
    assert np.array_equal(np.array([values(row)[1:] for row in rows])[:, :, 0], stored)
    spread = tables(page)["digits dirichlet 0.5: distribution over clients (%)"]
    quantiles = [values(row)[2:] for row in spread[1:]]
    assert np.allclose(np.array(quantiles)[:, :, 0].T, np.quantile(stored, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1], axis=0))


def test_runs_partitions_and_newcomers(lab: Path, page: Element) -> None:
    head, *rows = tables(page)["Runs of this report"]
    names = [cell.text for cell in head]
    assert [row[0].text for row in rows] == [f"run1 ({NAME})", *(f"run{number}" for number in range(2, 9))]
    with Store(lab) as store:
        stored = [store.find_run(number) for number in range(1, 9)]
        accuracy, joined = ([run.last.get(key) for run in stored] for key in ("personal_test_acc", "acc_new"))
        part = store.find_partition(1)
        summaries = [row for run in (7, 8) for row in store.evaluations(run)[-1].summary["rows"]]
    for title, expected in (("Personal accuracy, last round (%)", accuracy), ("Newcomers (%)", joined)):
        column = [values(row)[names.index(title)] for row in rows]
        assert column == [[] if value is None else [value] for value in expected]
    assert rows[6][names.index("Kind")].text == "join of run3"
    first = tables(page)["Partitions"][1]
    assert [cell.text for cell in first[:6]] == ["part1", "digits", "dirichlet 0.5", "0", "4", "2"]
    assert first[6].text == str(sum(part.summary["sizes"]["train"])) and first[-1].text == part.fingerprint[:12]
    # The newcomers are not the same ones, so that these are two settings of one run each.
    steps = [row for caption, found in tables(page).items() if "joining" in caption for row in found[1:]]
    found = sorted(value for row in steps for cell in values(row) for value in cell)
    assert found == sorted(row["acc_mean"] for row in summaries if np.isfinite(row["acc_mean"]))


def test_what_people_wrote_is_shown_as_they_wrote_it(page: Element) -> None:
    text = page.one("main").text
    assert f"run1 ({NAME})" in text and "paper=<table>" in text
    assert [note.text for note in page.all("p") if note.attributes.get("class") == "note"] == ["first\n<i>second</i>"]


def test_settings_and_environment(lab: Path, page: Element) -> None:
    differing = [[cell.text for cell in row] for row in tables(page)["What differs"]]
    assert differing[0][:2] == ["Runs", "Method"] and differing[0][-2:] == ["Chosen", "Seeds"]
    assert differing[1][:2] == ["run1, run4", "local"] and differing[1][-1] == "0, 1"
    assert differing[3][-2] == "lone=0.3"
    shared = {row[0].text: row[1].text for row in tables(page)["All other settings"][1:]}
    assert shared["partition.alpha"] == "0.5" and shared["train.rounds"] == "3"
    around = {row[0].text: row[1].text for row in tables(page)["Environment and code"][1:]}
    with Store(lab) as store:
        environment, git = store.environment(1), store.find_run(1).git
    assert around["torch"] == environment["torch"]["version"] and around["python"] == environment["python"]
    assert around["fltk package"] == git["fltk_sha256"][:12]
    packages = {row[0].text: row[1].text for row in tables(page)["Installed packages"][1:]}
    assert packages["click"] == environment["packages"]["click"]


def test_the_commands_make_the_same_runs(lab: Path, page: Element, tmp_path: Path) -> None:
    again, anew = (block.text.splitlines() for block in page.all("pre"))
    assert again == [f"fltk reproduce run{number}" for number in range(1, 7)]
    commands = [shlex.split(line)[1:] for line in anew if not line.startswith("#")]
    order = [words for words in commands if words[0] == "train"] + [words for words in commands if words[0] != "train"]
    for words in order:
        done(tmp_path / "r.db", *words)
    with Store(lab) as store, Store(tmp_path / "r.db") as other:
        assert len(other.runs()) == 8
        for run in store.runs():
            twin = other.find_run(run.id)
            assert (twin.config_hash, twin.kind, twin.parent) == (run.config_hash, run.kind, run.parent)
            assert other.digests(run.id) == store.digests(run.id)
            stored, made = store.evaluations(run.id), other.evaluations(run.id)
            assert [e.summary.get("deploy") for e in stored] == [e.summary.get("deploy") for e in made]


def test_the_commands_of_attacks(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--method", "attn", *TINY)
    flip = ("--kind", "sign-flip", "--malicious", "0.3", "--attack-start", "2")
    done(db, "attack", "--run", "run1", *flip)
    done(db, "attack", "--run", "run1", "--kind", "random-model", "--attackers", "0,2", "--set", "trust=off")
    page = read(written(db, "run1", "run2", "run3"))
    assert "attack of run1" in page.text
    heads, *rows = ([cell.text for cell in row] for row in tables(page)["Runs under attack"])
    assert [(row[2], row[5]) for row in rows] == [("sign-flip", "1 of 4"), ("random-model", "2 of 4")]
    for row in rows:
        told = {head: float(text.replace("−", "-")) for head, text in zip(heads[6:11], row[6:11], strict=True)}
        assert told["Unattacked baseline (%)"] - told["Accuracy (%)"] == pytest.approx(told["Drop (points)"], abs=0.02)
        assert told["Attacker weight"] >= 0 and row[11] == "–"
    assert "Runs under attack" not in tables(read(written(db, "run1")))
    again, anew = (block.text.splitlines() for block in page.all("pre"))
    assert again == [f"fltk reproduce run{number}" for number in (1, 2, 3)]
    for line in anew:
        if not line.startswith("#"):
            done(tmp_path / "b.db", *shlex.split(line)[1:])
    with Store(db) as store, Store(tmp_path / "b.db") as other:
        assert [run.config_hash for run in other.runs()] == [run.config_hash for run in store.runs()]
        assert [other.digests(run) for run in (1, 2, 3)] == [store.digests(run) for run in (1, 2, 3)]


def test_a_single_run(lab: Path) -> None:
    """With the newcomers that joined it."""
    page = read(written(lab, "run5"))
    assert page.one("h1").text == "run5" and "Scores" in [h.text for h in page.all("h2")]
    heads, values = ([cell.text for cell in row] for row in tables(page)["Configuration"])
    assert dict(zip(heads, values, strict=True)).items() >= {"alpha": "0.5", "rounds": "3", "Seeds": "1"}.items()
    assert read(written(lab, "run6")).one("h1").text == "run6, run8"
    joined = read(written(lab, "run7"))
    assert joined.all("h2")[0].text == "Newcomers" and "distribution" not in " ".join(tables(joined))


def test_equal_registries_give_equal_pages(lab: Path) -> None:
    assert written(lab, "run1", "run2", "run3") == written(lab, "run3", "run2", "run1", "run1")


def test_several_settings_are_ranked(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    with Store(db, create=True) as store:
        for alpha in (0.1, 1.0, 10.0):
            for method, mean in (("local", 0.4), ("fedavg-ft", 0.6), ("attn", 0.7)):
                for seed in (0, 1):
                    add_run(store, method, seed, mean + alpha / 100 + seed / 50, alpha=alpha)
        ranks = compare(store, store.runs()).ranks()
    assert ranks is not None
    page = read(written(db, *(f"run{number}" for number in range(1, 19))))
    caption = next(name for name in tables(page) if name.startswith("Average ranks"))
    head, row, _ = tables(page)[caption]
    assert [cell.text for cell in head][4:] == list(ranks.methods)
    tested = [ranks.friedman_p, ranks.critical_difference, *ranks.average]
    assert [value for cell in values(row) for value in cell] == tested and row[1].text == "3"
    assert [m.tag for m in page.all("details")].count("details") >= 4 and "Paired differences to fedavg-ft" in page.text


def test_runs_that_did_not_end(tmp_path: Path) -> None:
    """What they have is shown; no round is no error."""
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--method", "fedavg")
    with Store(db) as store:
        facts: dict[str, Any] = {"data_fingerprint": "d", "environment": {}, "git": {}, "seed": 3}
        config = store.find_run(1).config
        store.finish(store.begin_run(config, "h", **facts), "failed", "client 3: the <loss>")
        other = store.begin_run({**config, "method": "a-method-of-tomorrow"}, "i", **facts)
        store.record_round(
            other, 1, {"personal_test_acc": math.nan}, {"personal_test_acc": np.full(4, np.nan)}, None, "x"
        )
        store.finish(other, "interrupted")
    page = read(written(db, "run2"))
    assert "failed: client 3: the <loss>" in page.text and "fltk reproduce" not in page.text
    page = read(written(db, "run1", "run2", "run3"))
    assert "interrupted" in page.text and "fltk train --method a-method-of-tomorrow" not in page.text
    assert "Not finished, and all there is: run3 interrupted, round 1 of 2." in page.text and "run2" in page.text


def test_means_leave_out_what_is_not_finished(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    with Store(db, create=True) as store:
        add_run(store, "fedavg", 0, 0.8)
        add_run(store, "fedavg", 1, 0.2, status="interrupted")
        add_run(store, "local", 0, 0.5)
    page = read(written(db, "run1", "run2", "run3"))
    rows = tables(page)["digits dirichlet 0.1"]
    assert [values(row)[2] for row in rows[1:]] == [[pytest.approx(0.5)], [pytest.approx(0.8)]]
    assert "Not finished and left out of the means: run2 interrupted, round 2 of 2." in page.text
    assert "Runs that are not finished have lines of their own." in page.text
    assert "3 runs, 2 methods, 1 setting, 2 seeds." in page.text


def test_attackers_are_nowhere_counted_as_clients(tmp_path: Path) -> None:
    """The comparison, the clients and the attacks of a page say the same of a run."""
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--method", "fedavg")
    done(db, "attack", "--run", "run1", "--kind", "label-flip", "--attackers", "2")
    page = read(written(db, "run2"))
    with Store(db) as store:
        benign = np.delete(store.client_values(2, "personal_test_acc")[1][-1], 2)
    compared, attacked = tables(page)["digits dirichlet 0.1"][1], tables(page)["Runs under attack"][1]
    mean = pytest.approx(float(benign.astype(np.float64).mean()))
    assert values(compared)[2] == [mean] and values(attacked)[6] == [mean]
    assert "Malicious clients are left out." in page.text
    assert "1 seed." in page.text


def test_what_a_report_refuses(lab: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "page.html")
    for args, part in (
        (("-o", output), "name runs or a sweep"),
        (("run1", "--sweep", "grid", "-o", output), "not both"),
        (("run99", "-o", output), "no run 'run99'"),
        (("--sweep", "grind", "-o", output), "did you mean grid?"),
        (("run1",), "'--output'"),
        (("run1", "-o", str(tmp_path / "page.pdf")), "must end in .html"),
        (("run1", "-o", str(tmp_path / "none" / "page.html")), "does not exist"),
    ):
        assert part in fltk(lab, "report", *args).line
    assert "no registry" in fltk(tmp_path / "none.db", "report", "run1", "-o", output).line
    with Store(tmp_path / "empty.db", create=True):
        pass
    assert "has no sweep" in fltk(tmp_path / "empty.db", "report", "--sweep", "x", "-o", output).line
    assert [path.name for path in tmp_path.iterdir()] == ["empty.db"]


@pytest.mark.parametrize("width", [390, 1400])
def test_in_a_browser(lab: Path, tmp_path: Path, width: int) -> None:
    """No page is wider than its window: tables and broad figures scroll by themselves. Every figure is drawn."""
    path = tmp_path / "page.html"
    path.write_text(written(lab, "--sweep", "grid"), encoding="utf-8")
    found = in_browser(path, width)
    assert found["width"] == width >= found["needed"] and found["outside"] == 0, found
    assert found["images"] == found["drawn"] == len(read(path.read_text()).all("img")), found
    assert found["loaded"] == 0 and found["type"] >= 12, found
    assert (found["boxes"] > 0) or width > 390, found
    assert found["hints"] == found["boxes"], "what scrolls says so"
    assert found["sorted"] == found["sortable"] > 0, found
    assert found["filled"] > 0.9, "the page is as wide as its window"


def test_the_numbers_keep_their_digits(page: Element) -> None:
    """What is shown is what stands behind it, rounded."""
    for found in page.all("data"):
        text, _, unit = found.text.replace("−", "-").partition(" ")
        value = float(found.attributes["value"]) / {"": 1, "s": 1, "min": 60, "h": 3600}[unit]
        assert re.fullmatch(r"\+?-?[\d.]+(e[+-]?\d+)?", text), text
        shown = float(text)
        decimals = len(text.partition(".")[2])
        assert min(abs(shown - value), abs(shown - 100 * value)) <= 0.5 * 10**-decimals + 1e-9 or "e" in text
