"""`python -m ldm.lecture`: see ldm/scripts/lecture.py."""

from ldm.scripts.lecture import entry

if __name__ == "__main__":
    entry()
