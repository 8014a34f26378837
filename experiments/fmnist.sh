#!/bin/sh
# All methods on a skewed part of Fashion-MNIST: 14,000 images, Dirichlet 0.1, 20 clients, cnn, 40 rounds, 3 seeds.
# Needs FLTK_DATA (or --download). About an hour on two cores; run it again to go on where it stopped.
#
#   FLTK_DATA=~/data sh experiments/fmnist.sh fmnist.db
set -eu
export FLTK_DB=${1:-fmnist.db}
FLTK=${FLTK:-fltk}
METHODS=local,fedavg,fedavg-ft,fedprox,scaffold,fedper,ditto,fedamp,heurfedamp,ifca,attn
SEEDS=${SEEDS:-0,1,2}

$FLTK train --skip-done --method "$METHODS" --seed "$SEEDS" --dataset fmnist --subset 14000 --alpha 0.1 --newcomers 0 \
    --model cnn --batch-size 10 --epochs 1 --lr 0.005 --rounds 40 --eval-every 5
$FLTK runs --by-seed --status done
