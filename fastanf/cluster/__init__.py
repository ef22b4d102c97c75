"""The blocks of a study trained on many machines at once.

What a node offers and what a block asks for (resources.py), how long blocks take beside each other
(cost.py, schedule.py), how they are cut so that all devices have work (placement.py), and all of it
to be read (placement_text.py). None of these starts anything.
"""
