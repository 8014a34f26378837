#!/bin/sh
# Clients that arrive late: four on hidden groups of MNIST, eight of FEMNIST's writers, 3 seeds, with 1, 5 and all
# samples per class. Needs FLTK_DATA. About 40 minutes on one core; what the registry has is not done again.
#
#   sh experiments/newcomers.sh newcomers.db
#   for metric in acc_new acc_new_tuned acc_new_scratch; do
#       fltk --db newcomers.db compare --kind join --metric $metric
#   done
set -eu
export FLTK_DB=${1:-newcomers.db}
FLTK=${FLTK:-fltk}
$FLTK sweep "$(dirname "$0")/newcomers.toml"
for run in $($FLTK runs --kind train --tag sweep=newcomers --format csv | cut -d, -f1 | grep '^run[0-9]'); do
    for shots in 1 5 all; do
        $FLTK runs "$run-$shots" >/dev/null 2>&1 ||
            $FLTK join-new-client "$run" --finetune-head --shots $shots --name "$run-$shots" --quiet
    done
done
