"""Objectives: losses and measures are those of their definitions, and directions follow the measure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fltk import metrics
from fltk.data import load
from fltk.data.sources import folder
from fltk.data.text import PASSAGE, SHAKESPEARE_FILE, VOCABULARY, WINDOW
from fltk.evaluation.convergence import first_reach
from fltk.evaluation.deploy import Candidate, choose
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.objectives import CLASSIFICATION, MEASURES, NextToken, Regression, headline
from fltk.partition.federation import Split
from fltk.train.backend import Backend
from fltk.train.scoring import ScoreJob

MAE = MEASURES["mae"]
POINTS = Regression(unit="points", centre=150.0, scale=80.0)


def outputs(n: int, width: int) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def test_regression_is_torchs_squared_error_of_the_standardised_target() -> None:
    out, y = outputs(7, 1), torch.arange(7.0) * 40
    z = (y - 150) / 80
    torch.testing.assert_close(POINTS.loss(out, y, "mean"), F.mse_loss(out[:, 0], z))
    torch.testing.assert_close(POINTS.loss(out, y).sum(), POINTS.loss(out, y, "sum"))


def test_errors_are_in_the_unit_of_the_target() -> None:
    out = torch.tensor([[0.0], [1.0]])  # predictions 150 and 230
    scores = POINTS.score(out, torch.tensor([140.0, 250.0]))
    assert scores["mae"].tolist() == pytest.approx([10, 20])
    assert POINTS.measures["rmse"].of(float(scores["rmse"].mean())) == pytest.approx(math.sqrt(250))
    assert POINTS.measures["mae"].unit == "points"


def test_a_uniform_guess_has_the_perplexity_of_the_vocabulary() -> None:
    objective = NextToken()
    losses = objective.score(torch.zeros(5, 76), torch.arange(5))["ppl"]
    assert objective.measures["ppl"].of(float(losses.mean())) == pytest.approx(76, rel=1e-5)


def test_classification_is_torchs_cross_entropy() -> None:
    out, y = outputs(9, 4), torch.arange(9) % 4
    assert torch.equal(CLASSIFICATION.loss(out, y, "mean"), F.cross_entropy(out, y))


def test_the_worst_clients_of_an_error_are_those_with_the_largest() -> None:
    errors = np.arange(20.0)
    assert metrics.acc_worst10(errors, MAE) == 18.5
    assert metrics.acc_worst10(errors) == 0.5
    assert metrics.acc_min(errors, MAE) == 19
    assert metrics.gain_vs_local(errors, errors + 3, MAE) == 3
    assert metrics.harmed(errors + 3, errors, MAE) == 1
    assert metrics.selected_round(np.array([1, 2, 3]), np.array([5.0, 2.0, 4.0]), MAE) == 2


def test_the_federation_deploys_the_candidate_with_the_smaller_error() -> None:
    found = [Candidate("mixed"), Candidate("ft1")]
    values = {"mixed": np.array([10.0, 12.0]), "ft1": np.array([9.0, 11.0])}
    assert choose(found, values, values, "vote", MAE) == ["ft1", "ft1"]
    assert choose(found, values, values, "vote") == ["mixed", "mixed"]


def test_an_error_reaches_its_target_from_above() -> None:
    course = np.arange(1, 11), np.linspace(20.0, 11.0, 10)
    assert first_reach(course, 15.0, MAE) == 8  # rounds 4 to 8 average to 15


def test_the_stored_names_say_which_measure_is_the_headline() -> None:
    assert headline(["personal_test_mae", "personal_test_rmse"]) is MAE
    assert headline(["train_loss"]).key == "acc"


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_networks_initialise_train_and_score(name: str) -> None:
    model = zoo.make(name, (6,), 5, (7,))
    layout = Layout.of(model)
    w = zoo.initial(model, layout, torch.Generator().manual_seed(0))
    backend = Backend(model, layout, objective=NextToken())

    data = Split(torch.randint(5, (8, 6)).float(), torch.arange(8) % 5)
    gradient = backend.gradient(w, data)
    [[before]], [[after]] = (backend.score([ScoreJob(v, [data])]) for v in (w, w - 0.1 * gradient))
    assert torch.isfinite(w).all() and (gradient != 0).float().mean() > 0.5
    assert after.loss < before.loss
    assert before.values["ppl"] == pytest.approx(math.exp(before.loss))


def test_a_perceptron_learns_a_line() -> None:
    data = load("diabetes", None)
    assert data.objective.name == "regression" and data.targets is not None
    model = zoo.make("mlp", data.shape, 1, ())
    layout = Layout.of(model)
    backend = Backend(model, layout, objective=data.objective)
    split = Split(torch.from_numpy(data.x), torch.from_numpy(data.targets))

    w = torch.zeros(layout.size)
    for _ in range(50):
        w = w - 0.1 * backend.gradient(w, split)
    [[score]] = backend.score([ScoreJob(w, [split])])
    assert 40 < score.values["mae"] < 46  # least squares has 43.3 on these data


def test_windows_of_shakespeare_are_followed_by_their_target() -> None:
    if not (folder(None) / SHAKESPEARE_FILE).is_file():
        pytest.skip(f"FLTK_DATA has no {SHAKESPEARE_FILE}")
    data = load("shakespeare", None)
    assert data.session is not None and data.n_classes == len(VOCABULARY) and data.shape == (WINDOW,)
    inside = (PASSAGE - WINDOW) // 10
    assert (np.bincount(data.session) == inside).all()
    same = data.session[1:] == data.session[:-1]  # ten characters on: the target is the tenth character from the end
    assert np.array_equal(data.x[1:][same][:, -10], data.y[:-1][same])
