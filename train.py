"""Train a config: ldm/scripts/train.py, of which this is the name in a checkout."""

from ldm.scripts.train import entry

if __name__ == "__main__":
    entry()
