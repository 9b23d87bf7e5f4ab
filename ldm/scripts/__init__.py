"""What a user types: train.py, sample.py and evaluate.py of a checkout; ldm-train, ldm-sample,
ldm-evaluate where installed."""
