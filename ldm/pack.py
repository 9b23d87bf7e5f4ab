"""`python -m ldm.pack`: see ldm/scripts/pack.py."""

from ldm.scripts.pack import entry

if __name__ == "__main__":
    entry()
