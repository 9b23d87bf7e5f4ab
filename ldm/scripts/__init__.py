"""The commands: train.py, sample.py, evaluate.py, or ldm-train, ldm-sample, ldm-evaluate."""
