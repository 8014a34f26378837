#!/bin/sh
# Does attention find hidden groups? MNIST, 20 clients of about 120 training images, mlp, 40 rounds, 3 seeds, on four
# partitions; two learning rates, of which the better on validation data counts (the same choice for every method).
# Needs FLTK_DATA (or --download). About 15 minutes on two cores; run it again to go on where it stopped.
#
#   FLTK_DATA=~/data sh experiments/groups.sh groups.db
set -eu
export FLTK_DB=${1:-groups.db}
FLTK=${FLTK:-fltk}
SEEDS=${SEEDS:-0,1,2}
SIZE="--dataset mnist --subset 4000 --newcomers 0 --model mlp --batch-size 10 --rounds 40 --eval-every 5"

for lr in 0.05 0.1; do
    for scheme in rotated permuted-labels iid dirichlet; do
        methods=local,fedavg,fedavg-ft,ditto,ifca,attn
        case $scheme in rotated | permuted-labels) methods=$methods,oracle ;; esac
        # shellcheck disable=SC2086
        $FLTK train --skip-done --method $methods --seed "$SEEDS" --scheme $scheme --alpha 0.1 --lr $lr $SIZE
    done
done
