"""The first hour of a real GPU, in three calls: see __main__.py."""
