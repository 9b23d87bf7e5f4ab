"""The figures of the lecture: `python -m ldm.lecture` lists them, and draws one or all."""
