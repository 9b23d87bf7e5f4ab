"""A checkpoint as a small folder to give away: weights in half precision, and a model card.

python -m ldm.pack --checkpoint checkpoints/fashion-latent-cpu --output checkpoints/fashion-latent
python sample.py --checkpoint checkpoints/fashion-latent
"""

from ldm.errors import guard, say
from ldm.scripts.flags import to_folder


def main() -> None:
    args = to_folder("ldm.pack", __doc__, "where model.safetensors and README.md go")
    from ldm.export.pack import pack  # slow imports only once the arguments are right

    file = pack(**vars(args))
    size, readme = file.stat().st_size / 1e6, file.with_name("README.md")
    say(f"packed to {file} ({size:.1f} MB); its card is {readme}")


def entry() -> None:
    guard(main)


if __name__ == "__main__":
    entry()
