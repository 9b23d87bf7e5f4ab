"""Measure a checkpoint: ldm/scripts/evaluate.py, of which this is the name in a checkout."""

from ldm.scripts.evaluate import entry

if __name__ == "__main__":
    entry()
