#!/bin/sh
# New clients on all nine kinds of difference: four newcomers with five samples per class, 3 seeds. Needs FLTK_DATA.
# About 15 minutes on one core after experiments/attention.toml, which is trained first where the registry lacks it; what
# the registry has is not done again.
#
#   sh experiments/arrivals.sh attention.db
#   for metric in acc_new acc_new_scratch acc_new_fedavg_ft; do
#       fltk --db attention.db compare --kind join --metric $metric
#   done
set -eu
export FLTK_DB=${1:-attention.db}
FLTK=${FLTK:-fltk}
here=$(dirname "$0")
$FLTK sweep "$here/attention.toml"
for run in $($FLTK runs --kind train --method attn --status done --format csv | cut -d, -f1 | grep '^run[0-9]'); do
    $FLTK runs "$run-arrival" >/dev/null 2>&1 ||
        $FLTK join-new-client "$run" --finetune-head --shots 5 --name "$run-arrival" --quiet
done
