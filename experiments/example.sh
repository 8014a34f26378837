#!/bin/sh
# The small registry that ships with fltk: 48 real runs on the embedded digits, three minutes on one core.
# Weights are left out (the folder of artefacts is not shipped); numbers, maps and configurations are all there.
set -eu
export FLTK_DB=${1:-results.db.example}
FLTK=${FLTK:-fltk}
for old in "$FLTK_DB" "$FLTK_DB-wal" "$FLTK_DB-shm"; do rm -f "$old"; done
OPTIONS="--newcomers 0 --lr 0.1 --rounds 30 --keep-checkpoints 1 --format csv --quiet"

train() { # shellcheck disable=SC2086
    $FLTK train $OPTIONS "$@" >/dev/null
}
BASIC=local,fedavg,fedavg-ft,fedper,ditto,attn
train --scheme dirichlet --alpha 0.1 --method $BASIC --seed 0,1,2    # run1 to run18
train --scheme dirichlet --alpha 1.0 --method $BASIC --seed 0,1      # run19 to run30
train --scheme permuted-labels --seed 0 \
    --method local,fedavg,fedavg-ft,fedprox,scaffold,fedper,ditto,fedamp,heurfedamp,ifca,oracle,attn # run31 to run42
train --scheme rotated --seed 0 --method local,fedavg,fedavg-ft,ifca,oracle,attn # run43 to run48
$FLTK runs --by-seed
