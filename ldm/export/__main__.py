"""`python -m ldm.export`: see ldm/scripts/export.py."""

from ldm.scripts.export import entry

if __name__ == "__main__":
    entry()
