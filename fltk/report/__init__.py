"""Reports: what the registry knows of some runs as one HTML page that needs no network."""
