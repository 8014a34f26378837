#!/bin/sh
# Clients that arrive late: on hidden groups of MNIST and on FEMNIST's writers, 3 seeds, with 1, 5, 20 and all samples per class.
# Needs FLTK_DATA. About 30 minutes on one core; runs that the registry has are not trained again.
#
#   sh experiments/newcomers.sh newcomers.db
#   fltk --db newcomers.db runs --kind join
set -eu
export FLTK_DB=${1:-newcomers.db}
FLTK=${FLTK:-fltk}
HERE=$(dirname "$0")
$FLTK sweep "$HERE/newcomers.toml"
runs=$($FLTK runs --kind train --status done --format csv | cut -d, -f1 | grep '^run[0-9]')
for run in $runs; do
    $FLTK join-new-client "$run" --finetune-head --shots 1,5,20,all --format csv
done
