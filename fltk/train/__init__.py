"""Local training of one client, and the random streams that feed it."""
