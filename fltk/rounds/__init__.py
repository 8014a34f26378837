"""A round: who takes part, what attackers and defences make of the uploads, and what is told of it."""
