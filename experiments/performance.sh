#!/bin/sh
# The figures of docs/performance.md: tables into the page, growth into plots/growth.png. Half an hour on two cores, on
# which nothing else should run. Needs FLTK_DATA with MNIST; without it the embedded digits stand in, and the page says so.
#
#   sh experiments/performance.sh performance
set -eu
OUT=${1:-performance}
FLTK=${FLTK:-fltk}
PYTHON=${PYTHON:-python}
mkdir -p "$OUT" plots
export FLTK_DB="$OUT/performance.db"

bench() { # shellcheck disable=SC2086
    $FLTK bench --format json --workload "$1" --rounds "$2" >"$OUT/$3.json"
}
bench all 9 all
bench methods-cnn 6 methods-cnn
bench memory 2 memory
bench clients 2 clients
bench parameters 3 parameters
bench w1-mlp,registry 50 rounds
W1="--dataset mnist --subset 15000 --scheme iid --clients 100 --newcomers 0 --lr 0.005 --rounds 20"
for model in mlp cnn; do # shellcheck disable=SC2086
    $FLTK train --profile --json --quiet $W1 --method fedavg,attn --model $model >"$OUT/profile-$model.json"
done
$PYTHON experiments/performance.py "$OUT" docs/performance.md plots/growth.png
