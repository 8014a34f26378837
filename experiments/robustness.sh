#!/bin/sh
# Attackers among the clients: seven attacks on seven methods, and on FedAvg behind two defences, 3 seeds, under label
# skew and on rotated groups; and what the defences cost when nobody attacks. Needs FLTK_DATA. 438 runs of 10 to 15
# seconds on one core; what the registry has is not trained again, and what was stopped goes on. The first seed of
# everything comes first, so that a table exists after a third of the time.
#
#   sh experiments/robustness.sh robustness.db
#   python experiments/robustness_table.py robustness.db
set -eu
export FLTK_DB=${1:-robustness.db}
FLTK=${FLTK:-fltk}
OPTIONS="--dataset mnist --subset 10000 --newcomers 0 --model mlp --lr 0.1 --rounds 30 --eval-every 10"
METHODS=local,fedavg,fedper,ditto,fedamp,ifca
ATTN="--method attn --set token=model --own-step none" # the map of displacements
DEFENCES=trimmed-mean,multi-krum

grid() { # shellcheck disable=SC2086
    $FLTK attack --grid --quiet --seed "$seed" $OPTIONS --scheme $scheme "$@" >/dev/null
}
for seed in 0 1 2; do
    for kinds in random-model,sign-flip badnets,alie min-max,ipm,label-flip; do
        for scheme in "dirichlet --alpha 0.1" rotated; do
            grid --kind $kinds --malicious 0.2 --method $METHODS
            # shellcheck disable=SC2086
            grid --kind $kinds --malicious 0.2 $ATTN
            grid --kind $kinds --malicious 0.2 --method fedavg --defence $DEFENCES
        done
    done
    for scheme in "dirichlet --alpha 0.1" rotated; do
        grid --kind none --method fedavg --defence $DEFENCES
        # shellcheck disable=SC2086
        grid --kind random-model --malicious 0 $ATTN # nobody, but attn is on its guard
    done
done
