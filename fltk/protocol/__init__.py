"""What methods, rounds, defences and engines say to each other.

Nothing here knows who plays a round, or where. A method imports what it needs from the module that holds it.
"""
