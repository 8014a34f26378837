#!/bin/sh
# The README's figures, drawn from results.db.example (run numbers are those of experiments/example.sh).
set -eu
FLTK=${FLTK:-fltk --db results.db.example}
mkdir -p plots
$FLTK plot attention-maps run42 -o plots/attention-maps.png
$FLTK plot partition run1 -o plots/partition.png
$FLTK plot curves run31 run32 run37 run40 run41 run42 -o plots/curves.png
$FLTK plot clients run31 run33 run36 run42 -o plots/clients.png
