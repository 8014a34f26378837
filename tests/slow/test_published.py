"""Published FedAvg accuracies in the set-up of NIID-Bench (Q. Li et al., ICDE 2022, arXiv:2102.02079), reproduced.

MNIST, ten clients, LeNet-5, ten local epochs, batch 64, rate 0.01, momentum 0.9, weight decay 1e-5, fifty rounds, the
official test set, the global model of the last round. Published: Dirichlet 0.5 98.89 +- 0.07, two labels per client
96.86 +- 0.30. One seed here, so the tolerance is four published standard deviations, and at least 0.3 points.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import RunCli

pytestmark = pytest.mark.slow

DATA = "train --method fedavg --dataset mnist --test-split global --val-share 0 --clients 10 --newcomers 0"
LOCAL = "--model lenet5 --epochs 10 --batch-size 64 --lr 0.01 --momentum 0.9 --weight-decay 1e-5"
WORK = "--rounds 50 --eval-every 10 --engine process:2 --json"

CELLS = {
    "dirichlet": (("--scheme", "dirichlet", "--alpha", "0.5"), 0.9889, 0.003),
    "two-labels": (("--scheme", "pathological", "--classes-per-client", "2"), 0.9686, 0.012),
}


@pytest.mark.parametrize("cell", CELLS)
def test_fedavg_reaches_the_published_accuracy(run_cli: RunCli, data_dir: Path, cell: str) -> None:
    partition, published, tolerance = CELLS[cell]
    command = f"{DATA} {LOCAL} {WORK}".split()
    done = run_cli(*command, *partition, env={"FLTK_DATA": str(data_dir)}, timeout=7200)
    assert done.returncode == 0, done.stderr
    accuracy = json.loads(done.stdout)["rows"][0]["global_test_acc"]
    assert abs(accuracy - published) <= tolerance, f"{accuracy:.4f} against {published:.4f} published"
