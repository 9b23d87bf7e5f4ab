"""`trainer.options`: what goes to Lightning's Trainer as it is."""

from typing import Any

from ldm.errors import Refusal, nearest

# arguments of Lightning's Trainer that a config may set besides its own keys, and their types
OPTIONS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(
        (
            "max_epochs",
            "min_epochs",
            "min_steps",
            "num_sanity_val_steps",
            "check_val_every_n_epoch",
        ),
        (int,),
    ),
    "reload_dataloaders_every_n_epochs": (int,),
    **dict.fromkeys(
        ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
        (int, float),
    ),
    "overfit_batches": (int, float),
    "max_time": (str, dict),
    "deterministic": (bool, str),
    **dict.fromkeys(
        ("enable_progress_bar", "enable_model_summary", "benchmark", "inference_mode"), (bool,)
    ),
    **dict.fromkeys(("detect_anomaly", "sync_batchnorm"), (bool,)),
    "profiler": (str,),
}


OURS = {
    "gradient_clip_val": "optim.clip",
    "gradient_clip_algorithm": "optim.clip",
    "default_root_dir": "output",
}


OURS |= {"accumulate_grad_batches": "trainer.accumulate", "val_check_interval": "trainer.validate"}


OURS |= {
    "log_every_n_steps": "trainer.log",
    "logger": "logger.kind",
    "enable_checkpointing": "trainer.save",
}


OURS |= {
    key: f"trainer.{key}"
    for key in ("max_steps", "accelerator", "devices", "num_nodes", "strategy", "precision")
}


def check_options(options: dict[str, Any], where: str) -> None:
    """Refusal unless `trainer.options` are Trainer arguments that the config has not itself."""
    for key, value in options.items():
        if key in OURS:
            raise Refusal(f"{where}: trainer.options.{key}: set {OURS[key]} instead")
        if key not in OPTIONS:
            raise Refusal(
                f"{where}: no key 'trainer.options.{key}'{nearest(key, OPTIONS)} (keys here: "
                f"{', '.join(OPTIONS)})"
            )
        if not isinstance(value, OPTIONS[key]) or (
            isinstance(value, bool) and bool not in OPTIONS[key]
        ):
            wanted = " or ".join(kind.__name__ for kind in OPTIONS[key])
            raise Refusal(f"{where}: trainer.options.{key}: {value!r} is not {wanted}")
