"""Scoring stored runs: what personal and global models are worth on every client."""
