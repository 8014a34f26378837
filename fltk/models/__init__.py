"""Networks and the flat layout of their weights."""
