#!/bin/sh
# The small registry that ships with fltk: real runs on the embedded digits, a few minutes on one core.
# Weights are left out (the folder of artefacts is not shipped); numbers, maps and configurations are all there, and
# commands that need weights train the run again.
set -eu
here=$(dirname "$0")
export FLTK_DB=${1:-results.db.example}
FLTK=${FLTK:-fltk}
for old in "$FLTK_DB" "$FLTK_DB-wal" "$FLTK_DB-shm"; do rm -f "$old"; done
COMMON="--lr 0.1 --keep-checkpoints 1 --format csv --quiet"

train() { # shellcheck disable=SC2086
    $FLTK train $COMMON "$@" >/dev/null
}
BASIC=local,fedavg,fedavg-ft,fedper,ditto,attn
LONG="--newcomers 0 --rounds 30"
# shellcheck disable=SC2086
{
    train $LONG --scheme dirichlet --alpha 0.1 --method $BASIC --seed 0,1,2    # run1 to run18
    train $LONG --scheme dirichlet --alpha 1.0 --method $BASIC --seed 0,1      # run19 to run30
    train $LONG --scheme permuted-labels --seed 0 \
        --method local,fedavg,fedavg-ft,fedprox,scaffold,fedper,ditto,fedamp,heurfedamp,ifca,oracle,attn # run31 to run42
    train $LONG --scheme rotated --seed 0 --method local,fedavg,fedavg-ft,ifca,oracle,attn # run43 to run48
}

# Evaluations: what clients deploy, chosen on validation data.
for run in 1 2 3 4 5 6 31 32 33 42; do
    $FLTK evaluate "run$run" --brief --format csv --quiet >/dev/null
done

# A grid of attacks on rotated digits: the unattacked baselines are run44 and run48.
$FLTK attack --run run44 --grid --kind random-model,sign-flip --method fedavg,attn --defence none,median \
    --keep-checkpoints 1 --format csv --quiet >/dev/null # run49 to run56

# Newcomers: four clients that were held out join, with few samples and with all.
train --newcomers 4 --rounds 10 --scheme permuted-labels --seed 0 --method fedavg-ft,attn # run57 and run58
for run in 57 58; do
    $FLTK join-new-client "run$run" --finetune-head --shots 1,5,all --format csv --quiet >/dev/null # run59 and run60
done

# A small sweep, evaluated afterwards: run57 and run58 are two of its cells, run61 and run62 the others.
$FLTK sweep "$here/example-sweep.toml" --keep-checkpoints 1 --format csv --quiet >/dev/null

$FLTK runs --by-seed
