"""Many runs from one file: a grid, random draws or a search over settings, methods and seeds.

A sweep has no state of its own: a cell is a configuration, and the registry knows by its hash whether it is done. So
playing the file again plays what is missing.
"""
