"""Old spellings in configs and checkpoints, rewritten to today's."""

from typing import Any

WEIGHTS = {"one": "One", "min_snr": "MinSNR", "edm": "EDM", "likelihood": "MaximumLikelihood"}
SETTINGS = {"MinSNR": "gamma", "EDM": "std"}  # of weights, which stood beside them


def today(raw: dict[str, Any]) -> dict[str, Any]:
    """`loss: {weight: min_snr, gamma: 5}` as `loss: {weight: {name: MinSNR, gamma: 5}}`.

    `loss.std` stays too, being that of predict = edm; `loss.gamma` of another weight meant nothing.
    """
    loss = raw.get("loss")
    if not isinstance(loss, dict):
        return raw
    loss, weight = dict(loss), loss.get("weight", "One")
    weight = {"name": weight} if isinstance(weight, str) else weight
    if isinstance(weight, dict):
        name = weight.get("name", "One")
        name = WEIGHTS.get(name, name) if isinstance(name, str) else name
        key = SETTINGS.get(name, "") if isinstance(name, str) else ""
        beside = {key: loss[key]} if key in loss else {}
        loss["weight"] = beside | weight | {"name": name}
    loss.pop("gamma", None)
    return raw | {"loss": loss}
