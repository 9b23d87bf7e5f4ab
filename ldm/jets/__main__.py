"""`python -m ldm.jets`: see ldm/scripts/vectors.py."""

from ldm.scripts.vectors import entry

if __name__ == "__main__":
    entry()
