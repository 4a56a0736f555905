"""What was set in a run, as it is shown: size, loss, who acted, and whatever else changes what is learned."""

from __future__ import annotations

from typing import Any

NO_DIFFERENCE = {"games", "seed", "cache", "threads", "updates", "beta", "beta_end", "beta_steps",
                 "record_to"}  # fmt: skip
"""Options of the data that are shown otherwise, differ between seeds, or do not change what is learned."""
LEARNING = ("max_steps", "max_epochs", "max_time", "accumulate_grad_batches", "gradient_clip_val",
            "gradient_clip_algorithm", "limit_train_batches", "overfit_batches", "precision", "callbacks")  # fmt: skip
"""Options of the Trainer that change what is learned."""
USUAL = {"accumulate_grad_batches": (1,), "overfit_batches": (0,)}
"""Values of them that change nothing."""


CLASSES = ("PolicyDistillation", "TeacherDatasets", "LiveTeacher", "PQN", "ParallelPlay")
"""Whose options say all."""


def described(config: dict[str, Any], sharpened: bool = True) -> dict[str, Any]:
    """Size, loss, who acted, and other settings of a run, as they are shown: fields of a `Student`.

    Args:
        config: of the run.
        sharpened: whether it noted a temperature, as kl does; a class of one's own may have another loss than it says.
    """
    model = config["model"]
    settings = {name: value for name, value in model.get("init_args", {}).items() if value is not None}
    if "weights" in settings:  # those of the data are games' shares
        settings["begins_with"] = settings.pop("weights")
    kind = class_of(model)
    size = str(settings.pop("size", kind))
    loss = str(settings.pop("loss", kind))
    temperature, perplexity = settings.pop("temperature", None), settings.pop("perplexity", None)
    data_class = class_of(config.get("data", {}))  # another class may do anything with the same options
    if data_class not in ("", *CLASSES):
        settings["data_class"] = data_class
    if config.get("optimizer"):  # these are for the usual one
        settings = {name: value for name, value in settings.items() if name not in ("learning_rate", "warmup")}
    if loss == "kl" and temperature is not None:
        loss += f", τ = {temperature}" if temperature != "auto" else ""
        if "auto" in (temperature.values() if isinstance(temperature, dict) else [temperature]):
            loss += f", perplexity {perplexity:g}"
    if kind not in (loss, *CLASSES):
        loss = f"{kind} ({loss})" if sharpened or not loss.startswith("kl") else kind
    settings.pop("games", None)
    data = config.get("data", {}).get("init_args", {})
    acts = acting(data) if "beta" in data else ""
    ignored = NO_DIFFERENCE | (set() if data.get("learn") else {"lessons"})  # of a teacher that learns
    for source, names in ((data, data.keys() - ignored), (config.get("trainer", {}), LEARNING)):
        settings |= {name: source[name] for name in names if is_set(name, source.get(name))}
    for name in {"protocol", "fire"} & settings.keys():  # of live play; a score's are the rollouts'
        settings[f"played_by_{name}"] = settings.pop(name)
    settings |= {name: config[name] for name in ("optimizer", "lr_scheduler") if config.get(name)}
    said = tuple(f"{key} {short(value)}" for key, value in sorted(settings.items()))
    return {"size": size, "loss": loss, "acts": acts, "settings": said}


def is_set(name: str, value: Any) -> bool:
    """Whether an option says anything: what is false does not, unless it is FIRE, which is left out on purpose."""
    if value is False:
        return name == "fire"
    return value not in (None, {}, [], *USUAL.get(name, ()))


def class_of(part: dict[str, Any]) -> str:
    """The name of a class in a configuration."""
    return str(part.get("class_path", "")).rsplit(".", 1)[-1]


def short(value: Any) -> str:
    """A setting as it is shown: of a class its name, and what it was given."""
    if isinstance(value, dict) and "class_path" in value:
        given = ", ".join(
            f"{key} {short(each)}" for key, each in value.get("init_args", {}).items() if each is not None
        )
        name = class_of(value)
        return f"{name} ({given})" if given else name
    if isinstance(value, list):
        return ", ".join(map(short, value))
    return str(value)


def acting(data: dict[str, Any]) -> str:
    """Who acted in live play, by the options of its data."""
    first, last = data["beta"], data["beta"] if data.get("beta_end") is None else data["beta_end"]
    if first == last and first in (0, 1):
        return "the teacher acts" if first else "the student acts"
    begins = f"the teacher acts at {first:.0%} of the steps"
    return begins if first == last else f"{begins}, after {data['beta_steps']:,} at {last:.0%}"
