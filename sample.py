"""Sample from a checkpoint: ldm/scripts/sample.py, of which this is the name in a checkout."""

from ldm.scripts.sample import entry

if __name__ == "__main__":
    entry()
