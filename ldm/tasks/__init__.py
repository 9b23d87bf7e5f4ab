"""What diffusion is for, from any checkpoint: in-painting, super-resolution, de-noising, editing, interpolation; the first two
also from a checkpoint that was trained for them.

inputs, cases: files to pictures, refused where they do not fit. solve: pictures to pictures. output: folders and panels. run: the
command.
"""
