"""The names of figures in words, for the axes of plots and the captions of pictures."""

import re

WORDS = {
    "fid": "FID",
    "kid": "KID",
    "fd": "Fréchet distance",
    "kd": "kernel distance",
    "rfid": "FID of reconstructions",
    "rfd": "Fréchet distance of reconstructions",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "class_share": "share of samples of the class asked for",
    "copies_auc": "how often a sample is closer to a training picture than a held-out one",
    "copies_share": "share of samples closer to a training picture than 1 in 100 held-out ones",
    "psnr": "PSNR in dB",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "w1m": "Wasserstein distance of jet mass",
    "w1p": "Wasserstein distance of particle features",
    "w1efp": "Wasserstein distance of energy-flow polynomials",
    "w1tau21": "Wasserstein distance of tau21",
    "w1tau32": "Wasserstein distance of tau32",
    "w1d2": "Wasserstein distance of D2",
    "auc": "AUC of a classifier, real against generated",
    "fpd": "Fréchet physics distance",
    "kpd": "kernel physics distance",
    "fpnd": "Fréchet ParticleNet distance",
    "cov": "coverage",
    "mmd": "minimum matching distance",
}
PARTS = {
    "eta": r"$\eta^{rel}$",
    "phi": r"$\phi^{rel}$",
    "pt": r"$p_T^{rel}$",
    "fashion": "Fashion features",
    "digits": "digits' features",
    "pixels": "pixels",
    "dinov2": "DINOv2 features",
}


def in_words(name: str) -> str:
    """ "fd_fashion_1k" -> "Fréchet distance (Fashion features, 1,000 samples)".

    A name that is not known keeps its own words.
    """
    metric = max((key for key in WORDS if re.match(rf"{key}(_|$)", name)), key=len, default="")
    if not metric:
        return name.replace("_", " ")
    details = [_detail(part) for part in name.removeprefix(metric).split("_") if part != "of"]
    details = [detail for detail in details if detail]
    return WORDS[metric] + (f" ({', '.join(details)})" if details else "")


def for_axis(name: str) -> str:
    """The same on two lines, for the length of an axis."""
    return in_words(name).replace(" (", "\n(", 1)


def _detail(part: str) -> str:
    """ "1k" -> "1,000 samples"; "fashion" -> "Fashion features"."""
    if number := re.fullmatch(r"(\d+)(k?)", part):
        count = int(number[1]) * (1000 if number[2] else 1)
        return f"{count:,} samples"
    return PARTS.get(part, part)
