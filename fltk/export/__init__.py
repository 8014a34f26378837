"""Results as files for other programs: CSV, JSON, LaTeX, Parquet and npz."""
