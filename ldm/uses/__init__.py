"""What diffusion is for, from any checkpoint: in-painting, super-resolution, de-noising, editing, interpolation.

inputs, cases: files to pictures, refused where they do not fit. solve: pictures to pictures. output: folders and panels. run: the
command.
"""
