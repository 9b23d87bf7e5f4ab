"""A page to play with: samples as they come about, tasks with a drawn mask, jets. `python -m
ldm.demo --checkpoint PATH`

limits: what a visitor may ask for. live: work and its pictures on the way. samples, edits, jets:
what the page does, without Gradio. page, editor, server: the page, its canvas, and how it is
served.
"""
