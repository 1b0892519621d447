"""What `uns["nvae"]` of a file may hold: where the file comes from."""

from __future__ import annotations

from nvae_bio import schema
from nvae_bio.schema.slot import ANY, Kind, Slot

_KEYS: dict[str, tuple[str, str]] = {  # name: shape, meaning
    "version": ("", "version of nvae-bio"),
    "variant": ("", "variant of the model"),
    "kind": ("", "counts, images or features"),
    "likelihood": ("", "likelihood of the model"),
    "settings": ("", "settings of model and training (JSON)"),
    "covariates": ("", "covariates that the model is told, with their levels and scales (JSON)"),
    "classes": ("C", "names of the classes, in the order of columns, blocks and numbers of classes"),
    "n_shared": ("", "S"),
    "n_private": ("", "K"),
    "seed": ("", "seed of the model"),
    "embedding_seed": ("", "seed of draws and layout"),
    "generation_seed": ("", "seed of the draws"),
    "fingerprint": ("", "sha256 of the data that the model was trained on"),
    "effect_unit": ("", "unit of the effects"),
    "calibrated": ("", "whether the class probabilities are calibrated"),
    "image_shape": ("3", "channels, rows and columns of a picture"),
    "report": ("", "settings of the report (JSON)"),
    "seeds": (ANY, "seeds of the models"),
    "n_refits": ("", "refits of each kind of null (JSON)"),
    "notes": (ANY, "what the report cannot tell, and why, in sentences"),
    schema.FACTOR_NAMES: ("F", "names of the factors, in the order of columns of scores"),
    schema.UNDER_POWERED: (ANY, "classes in which no private factor could be told from none"),
    schema.POWER_SETTINGS: ("", "what was planted, and how often is enough (JSON)"),
}
OF_MODEL = (
    "version", "settings", "covariates", "variant", "classes", "seed", "embedding_seed", "fingerprint", "kind",
    "likelihood", "effect_unit", "n_shared", "n_private", "calibrated",
)  # fmt: skip


def provenance(*names: str, when: dict[str, str] | None = None) -> tuple[Slot, ...]:
    """The entries of these names; `when` tells where those are there that are not always."""
    return tuple(
        Slot("uns", f"{schema.MODEL}/{name}", _KEYS[name][0], _KEYS[name][1], when=(when or {}).get(name, ""))
        for name in names
    )


def is_provenance(slot: Slot) -> bool:
    """Whether a key is one of these entries."""
    return slot.where == "uns" and slot.key.removeprefix(f"{schema.MODEL}/") in _KEYS


PROVENANCE = Kind("provenance", "samples or factors", "features", provenance(*_KEYS))
