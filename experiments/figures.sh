#!/bin/sh
# The committed figures. Those of the README are drawn from results.db.example (run numbers are those of
# experiments/example.sh). With a folder that holds attention.db, clusters.db and newcomers.db, made by the commands of
# docs/attention.md and docs/displacements.md, those of these pages are drawn too.
#
#   sh experiments/figures.sh [FOLDER]
set -eu
FLTK=${FLTK:-fltk --db results.db.example}
mkdir -p plots
$FLTK plot attention-maps run42 -o plots/attention-maps.png
$FLTK plot partition run1 -o plots/partition.png
$FLTK plot curves run31 run32 run37 run40 run41 run42 -o plots/curves.png
$FLTK plot clients run31 run33 run36 run42 -o plots/clients.png
[ $# -gt 0 ] || exit 0

runs() { # REGISTRY METHOD DATASET CONDITION: the numbers of its training runs, the first seed first
    $FLTK --db "$1" runs --kind train --method "$2" --dataset "$3" --where "$4" --status done --format csv |
        grep '^run[0-9]' | cut -d, -f1
}
map() { # DATASET CONDITION NAME
    $FLTK --db "$folder/attention.db" plot attention-maps \
        "$(runs "$folder/attention.db" attn "$1" "$2" | head -n 1)" --rounds 1,40 -o "plots/map-$3.png"
}
folder=$1
map mnist scheme=rotated rotated
map mnist alpha=0.1 dirichlet
map femnist scheme=natural femnist
$FLTK --db "$folder/clusters.db" plot clusters \
    "$(runs "$folder/clusters.db" cfl mnist scheme=rotated | head -n 1)" -o plots/clusters.png
# shellcheck disable=SC2046
$FLTK --db "$folder/newcomers.db" plot join -o plots/join.png $(
    for run in $(runs "$folder/newcomers.db" attn femnist join_fit=10) \
        $(runs "$folder/newcomers.db" fedavg-ft femnist scheme=natural); do
        echo "$run-5"
    done
)
