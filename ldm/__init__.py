"""Diffusion models of a lecture, in pixel and latent space."""
