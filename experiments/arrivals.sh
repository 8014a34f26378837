#!/bin/sh
# Clients that arrive late on all nine kinds of difference: four newcomers with five samples per class, 3 seeds, before
# any fine-tuning. Needs FLTK_DATA. About 20 minutes on one core after experiments/attention.toml, which is played first
# where the registry lacks it; what the registry has is not done again.
#
#   sh experiments/arrivals.sh attention.db
#   fltk --db attention.db compare --kind join --metric acc_new
#   fltk --db attention.db compare --kind join --metric acc_new_scratch --method attn
set -eu
export FLTK_DB=${1:-attention.db}
FLTK=${FLTK:-fltk}
here=$(dirname "$0")
$FLTK sweep "$here/attention.toml"
$FLTK sweep "$here/arrivals.toml"
for method in fedavg attn; do
    for run in $($FLTK runs --kind train --method $method --status done --format csv | cut -d, -f1 | grep '^run[0-9]'); do
        $FLTK runs "$run-arrival" >/dev/null 2>&1 ||
            $FLTK join-new-client "$run" --shots 5 --finetune none --name "$run-arrival" --quiet
    done
done
