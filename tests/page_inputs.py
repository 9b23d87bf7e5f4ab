"""What the page is asked for, in the order of its fields."""

NUMBERS = "DDIM", 40, 1.5, 5, 4  # solver, steps, guidance, seed, count
EDIT = 2, 0.5, True, 0.5  # factor, noise, add, strength
