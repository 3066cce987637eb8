"""Ways to train that are known by a name, each as values of a training configuration.

A recipe stands for its values where it is named. In a file, the file's own values change it; with ``--set``, and in the
arms of a comparison, it changes the file, and the other values that are set beside it change it in turn.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from unet_factory_training.overrides import Overrides

Recipe = Literal["nnunet"]

RECIPES: Mapping[str, Overrides] = MappingProxyType(
    {
        "nnunet": {  # Isensee et al., Nature Methods 18:203 (2021), supplement, and the defaults of nnU-Net v2
            "optimisation.optimiser": "sgd",
            "optimisation.learning_rate": 0.01,
            "optimisation.momentum": 0.99,
            "optimisation.weight_decay": 3e-5,
            "optimisation.schedule": "polynomial",
            "optimisation.warmup": 0,
            "optimisation.ema_decay": 0,
            "optimisation.clip_norm": 12,
            "optimisation.deep_supervision": True,
            "batch.foreground": 1 / 3,
            "batch.foreground_crops": "counted",
            "augmentation": {
                "rotation_deg": (30.0, 30.0, 30.0),
                "rotation_probability": 0.2,
                "scale": 0.26,  # 0.7 to 1.4, a third of it for each axis alone
                "scale_probability": 0.2,
                "translation_mm": 0,
                "flip_axes": (0, 1, 2),
                "elastic_mm": 0,
                "intensity": "nnunet",
            },
        }
    }
)


def recipe_values(layer: Mapping[str, Any]) -> Overrides:
    """What the recipe stands for that a layer of values names; nothing where it names none, or an unknown one, of which
    the validation complains.
    """
    return RECIPES.get(str(layer.get("recipe")), {})


def expanded(overrides: Overrides) -> Overrides:
    """The same with the values of the recipe that they name, where they do not say otherwise."""
    return {**recipe_values(overrides), **overrides}
