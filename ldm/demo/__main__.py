"""`python -m ldm.demo`: see ldm/scripts/demo.py."""

from ldm.scripts.demo import entry

if __name__ == "__main__":
    entry()
