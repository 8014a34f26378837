"""The file of a sweep and the cells it comes to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fltk import experiment
from fltk.config import PartitionConfig, RunConfig, TrainConfig, canonical_json
from fltk.errors import UsageError
from fltk.experiment import Place
from fltk.registry import RunRow, Store
from fltk.sweep.cells import Cell, cells, varied
from fltk.sweep.grid import Draw, Plan, read
from fltk.sweep.state import CellState, best

Read = Callable[[str], Plan]


@pytest.fixture
def plan(tmp_path: Path) -> Read:
    def make(text: str) -> Plan:
        path = tmp_path / "grid.toml"
        path.write_text(text, encoding="utf-8")
        return read(path)

    return make


def of(plan: Plan) -> list[Cell]:
    return cells(plan, Place())


def test_lists_multiply_and_every_combination_is_there_once(plan: Read) -> None:
    found = of(plan('method = ["local", "fedavg"]\nseed = [3, 4, 5]\n[train]\nlr = [0.1, 0.2]\nepochs = [1, 2, 3, 4]'))
    expected = itertools.product(("local", "fedavg"), (3, 4, 5), (0.1, 0.2), (1.0, 2.0, 3.0, 4.0))
    assert {(c.config.method, c.config.seed, c.config.train.lr, c.config.train.epochs) for c in found} == set(expected)
    assert len(found) == len({c.digest for c in found}) == 2 * 3 * 2 * 4
    assert varied(found) == ["train.epochs", "train.lr"]


def test_what_is_not_named_is_the_default_and_one_value_is_a_list_of_one(plan: Read) -> None:
    (cell,) = of(plan('method = "ditto"'))
    bare = experiment.foresee(RunConfig(method="ditto"), Place())
    assert cell.config == bare and cell.digest == bare.digest()
    assert cell.config.train.model == "mlp" and "lam" in cell.config.params
    assert of(plan('method = ["ditto"]\nseed = 0\n[train]\nlr = 0.05')) == [replace(cell, given=of_given("train.lr"))]
    assert set(cell.origin().values()) == {"default", "file"} and cell.origin()["method"] == "file"


def of_given(*keys: str) -> frozenset[str]:
    return frozenset({"method", "seed", *keys})


def test_the_partition_follows_the_seed_unless_it_is_named(plan: Read) -> None:
    def seeds(text: str) -> set[tuple[int, int]]:
        return {(c.config.seed, c.config.partition.partition_seed) for c in of(plan(text))}

    assert seeds('method = "local"\nseed = [1, 2]') == {(1, 1), (2, 2)}
    assert seeds('method = "local"\nseed = [1, 2]\n[partition]\npartition_seed = 7') == {(1, 7), (2, 7)}


def test_also_wins_over_for_and_that_over_the_rest(plan: Read) -> None:
    found = of(
        plan("""
            method = ["fedavg", "ditto"]
            [train]
            lr = [0.1, 0.2]
            [for.ditto]
            train.lr = [0.3]
            params.lam = [1, 2]
            [[also]]
            method = "ditto"
            params.lam = 3
            [[also]]
            method = ["local", "ditto"]
            train.lr = 0.4
            partition.alpha = 9
        """)
    )
    told = sorted(
        (c.config.method, c.config.partition.alpha, c.config.train.lr, c.config.params.get("lam", 0)) for c in found
    )
    assert told == [
        *(("ditto", 0.1, 0.3, lam) for lam in (1.0, 2.0, 3.0)),
        *(("ditto", 9.0, 0.4, lam) for lam in (1.0, 2.0)),
        ("fedavg", 0.1, 0.1, 0),
        ("fedavg", 0.1, 0.2, 0),
        ("local", 9.0, 0.4, 0),
    ]
    assert varied(found) == ["partition.alpha", "train.lr", "params.lam"]


def test_equal_cells_are_one_and_cells_on_the_same_data_come_together(plan: Read) -> None:
    text = 'method = ["local", "fedavg"]\nseed = [0, 1]\n[partition]\nalpha = [0.1, 0.5]\n'
    found = of(plan(text + '[[also]]\nmethod = "fedavg"'))
    assert [c.digest for c in found] == [c.digest for c in of(plan(text))]
    partitions = [c.config.partition for c in found]
    assert len(list(itertools.groupby(partitions))) == len(set(partitions)) == 4


def test_the_foreseen_configuration_is_the_one_that_is_stored(plan: Read, tmp_path: Path) -> None:
    """For every kind of cell, or finished cells would be played again."""
    text = 'method = ["attn", "ifca"]\n[partition]\nsubset = 200\nclients = 3\nscheme = ["rotated", "iid"]\ngroups = 2'
    with Store(tmp_path / "r.db", create=True) as store:
        for cell in of(plan(text)):
            asked = replace(cell.config, train=replace(cell.config.train, model=""), params={})
            prepared = experiment.prepare(asked.partition, Place(), store)
            assert experiment.resolve(asked, prepared).digest() == cell.digest


DRAWS = """
    method = ["local", "ditto"]
    seed = [0, 1]
    [train]
    lr = { log_uniform = [0.001, 1.0] }
    momentum = { uniform = [0.1, 0.9] }
    batch_size = { integers = [5, 7] }
    [for.ditto]
    params.lam = { choice = [0.5, 2.0] }
    [random]
    samples = 40
"""


def test_draws_are_paired_reproducible_and_in_range(plan: Read) -> None:
    found = of(plan(DRAWS))
    assert [c.digest for c in found] == [c.digest for c in of(plan(DRAWS))]
    drawn = {(c.config.method, c.config.seed): [] for c in found}  # (method, seed) -> what was drawn for it, in order
    for c in found:
        drawn[c.config.method, c.config.seed].append(
            (c.config.train.lr, c.config.train.momentum, c.config.train.batch_size)
        )
    assert len({tuple(values) for values in drawn.values()}) == 1 and all(len(v) == 40 for v in drawn.values())
    lr, momentum, batch = np.array(drawn["local", 0]).T
    for values, low, high in ((lr, 0.001, 1), (momentum, 0.1, 0.9)):
        assert low <= values.min() < values.max() <= high
    assert set(batch) == {5, 6, 7} and {c.config.params.get("lam") for c in found} == {None, 0.5, 2.0}
    assert 10 <= (lr < math.sqrt(0.001)).sum() <= 30, "half of a log-uniform draw lies below the geometric mean"
    assert {c.digest for c in found} != {c.digest for c in of(plan(DRAWS + "seed = 1"))}


def test_more_samples_keep_the_first_ones(plan: Read) -> None:
    few = {c.digest for c in of(plan(DRAWS.replace("40", "3")))}
    assert few < {c.digest for c in of(plan(DRAWS))} and len(few) == 3 * 4


@pytest.mark.parametrize("kind", ["uniform", "log_uniform"])
def test_a_drawn_number_can_be_typed_again(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        value = Draw(kind, (0.001, 10.0)).sample(rng)
        assert isinstance(value, float) and float(f"{value:.4g}") == value


MANY = list(range(400))
WRONG = [
    ("", "name a method"),
    ('method = "fedavgg"', "did you mean fedavg"),
    ("method = 3", "method must be text"),
    ("methods = 3", "did you mean method"),
    ('method = "local"\nlr = 1', "lr belongs to a table: write train.lr"),
    ('method = "local"\n[train]\nlrr = 1', "[train]: unknown setting 'lrr'; did you mean lr?"),
    ('method = "local"\n[train]\nlr = []', "empty list"),
    ('method = []', "empty list"),
    ('method = "local"\n[train]\nlr = "x"', "must be a number"),
    ('method = "local"\n[train]\nrounds = [1, 2.5]', "must be a whole number"),
    ('method = "local"\n[train]\nlr = [[1]]', "must be a number"),
    ('method = "local"\n[train]\nlr = -1', "--lr must be a positive number"),
    ('method = "local"\n[train]\nbatch-size = 1\nbatch_size = 2', "given twice"),
    ('method = "local"\nseed = -1', "seed"),
    ('method = "local"\n[params]\nmu = 1', "local has no hyper-parameters"),
    ('method = "fedprox"\n[params]\nmuu = 1', "did you mean mu"),
    ('method = "fedprox"\n[params]\nmu = -1', "takes a value from 0"),
    ('method = "local"\n[for.ditto]\nparams.lam = 1', "the sweep has no ditto"),
    ('method = "local"\n[for.dito]\nparams.lam = 1', "did you mean ditto"),
    ('method = "local"\n[for.local]\npartition.alpha = 1', "unknown setting 'partition'"),
    ('method = "local"\nfor = 1', "must be a table"),
    ('method = "local"\nalso = 1', "[[also]]"),
    ('method = "local"\n[[also]]\nmetod = "local"', "did you mean method"),
    ('method = "local"\n[train]\nlr = { uniform = [0, 1] }', "[random]"),
    ('method = "local"\n[random]\nsamples = 3', "needs a distribution"),
    ('method = "local"\n[search]\ntrials = 3', "needs a distribution"),
    ('method = "local"\n[train]\nlr = { uniform = [0, 1] }\n[random]\nsamples = 0', "samples must be a whole number"),
    ('method = "local"\n[train]\nlr = { uniform = [0, 1] }\n[random]\nsample = 1', "did you mean samples"),
    ('method = "local"\n[train]\nlr = { uniform = [0, 1] }\n[random]\nsamples = 1\n[search]\ntrials = 1', "exclude"),
    ('method = "local"\n[train]\nlr = { unifrom = [0, 1] }', "did you mean uniform"),
    ('method = "local"\n[train]\nlr = { uniform = [1, 0] }', "a smallest and a largest"),
    ('method = "local"\n[train]\nlr = { uniform = [0, inf] }', "a smallest and a largest"),
    ('method = "local"\n[train]\nlr = { log_uniform = [0, 1] }', "above 0"),
    ('method = "local"\n[train]\nlr = { uniform = 1 }', "takes a list"),
    ('method = "local"\n[train]\nlr = {}', "one key"),
    ('method = "local"\n[train]\nrounds = { uniform = [1, 9] }', "use integers"),
    ('method = "local"\nseed = { integers = [1, 9] }', "seeds are numbers"),
    ('method = { choice = ["local"] }', "method takes names"),
    (f'method = "local"\nseed = {MANY}\n[partition]\npartition_seed = {MANY}', "160000 cells are too many"),
    ('method = "local"\n[evaluate]\nmode = 1', "[evaluate]: unknown setting 'mode'"),
    ("method = [", "not valid TOML"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "part"), WRONG, ids=[str(k) for k in range(len(WRONG))])
def test_what_a_file_may_not_hold(plan: Read, text: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        of(plan(text))
    assert part in str(caught.value) and "grid.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    for name in ("none.toml", "bytes.toml", "."):
        with pytest.raises(UsageError, match=r"none\.toml|bytes\.toml|directory"):
            read(tmp_path / name)


def finished(cell: Cell, number: int, val: float, test: float, status: str = "done") -> CellState:
    """A cell with a run of these accuracies."""
    row = RunRow(
        number, str(number), None, "train", None, status, None, cell.config.method, "digits",
        canonical_json(cell.config.to_dict()), cell.config.to_dict(), cell.digest,
        {}, None, "", 1, {}, cell.config.seed, "", 0.0, 0.0, 30,
        {"personal_val_acc": val, "personal_test_acc": test},
    )  # fmt: skip
    return CellState(cell, row)


def grid_of(lrs: tuple[float, ...], seeds: tuple[int, ...], alphas: tuple[float, ...] = (0.1,)) -> list[Cell]:
    made = []
    for alpha, lr, seed in itertools.product(alphas, lrs, seeds):
        partition = PartitionConfig(alpha=alpha, partition_seed=seed)
        config = RunConfig(partition, TrainConfig(lr=lr), "local", {}, seed)
        made.append(Cell(config, config.digest(), frozenset()))
    return made


def test_the_best_setting_has_the_highest_mean_on_validation_whatever_the_test_says() -> None:
    grid = grid_of((0.1, 0.2), (0, 1))
    found = [
        finished(cell, k, val, test)
        for k, (cell, val, test) in enumerate(zip(grid, (0.9, 0.5, 0.8, 0.7), (0.9, 0.9, 0.1, 0.3), strict=True))
    ]
    (chosen,) = best(found)
    assert {state.cell.config.train.lr for state in chosen.cells} == {0.2}
    assert (chosen.val, chosen.test) == (pytest.approx(0.75), pytest.approx(0.2))
    assert chosen.val_std == pytest.approx(0.1 / math.sqrt(2)) and chosen.test_std == pytest.approx(0.2 / math.sqrt(2))


def test_an_unfinished_setting_takes_no_part_and_federations_have_each_their_best() -> None:
    grid = grid_of((0.1, 0.2), (0, 1), alphas=(0.1, 1.0))
    val = [0.5, 0.5, 0.9, 0.9, 0.6, 0.6, math.nan, 0.9]
    found = [finished(cell, k, v, 0.5) for k, (cell, v) in enumerate(zip(grid, val, strict=True))]
    found[3] = finished(grid[3], 3, 0.9, 0.5, status="interrupted")
    chosen = best(found)
    assert [(s.cells[0].cell.config.partition.alpha, s.cells[0].cell.config.train.lr) for s in chosen] == [
        (0.1, 0.1),
        (1.0, 0.1),
    ]
    assert best([CellState(cell, None) for cell in grid]) == []
