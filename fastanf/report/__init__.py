"""Reports of runs from their records alone: one self-contained page, figures and CSV tables."""
