"""The paper's experiments, one a file: a grid of cells that ranks compute, and what it shows.

``grid.py`` computes cells and keeps them, ``fits.py`` fits laws to what they found, and
``published.py`` holds the paper's numbers. Nothing here draws or writes pages.
"""
