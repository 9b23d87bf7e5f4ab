"""What the page is asked for, in the order of its fields."""

NUMBERS = "DDIM", 40, 1.5, 5, 4, False  # solver, steps, guidance, seed, count, new seed
EDIT = "", 2, 0.5, True, 0.5  # prompt, factor, noise, add, strength
