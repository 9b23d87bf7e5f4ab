"""A page in the browser for a checkpoint: `python -m ldm.demo --checkpoint PATH`.

limits: what a visitor may ask for. live: work and its pictures on the way. samples, edits, jets:
what the page does, without Gradio. page, editor, server: the page, its canvas, how it is served.
"""
