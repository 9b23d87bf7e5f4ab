"""A checkpoint as a folder that diffusers loads.

python -m ldm.export --checkpoint checkpoints/digits-latent --output exported/digits
  >>> pipe = DiffusionPipeline.from_pretrained("exported/digits", trust_remote_code=True)
  >>> noise = torch.Generator().manual_seed(0)
  >>> pipe(class_labels=[3, 7], num_inference_steps=25, guidance_scale=1.5, generator=noise).images
"""

from ldm.errors import guard, say
from ldm.scripts.flags import to_folder


def main() -> None:
    args = to_folder("ldm.export", __doc__, "a new folder")
    from ldm.export.folder import export  # slow imports only once the arguments are right

    folder = export(**vars(args))
    say(f"exported to {folder}")


def entry() -> None:
    guard(main)


if __name__ == "__main__":
    entry()
