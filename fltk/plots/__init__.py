"""Figures for papers: pure functions from arrays to a figure and the rows it draws."""
