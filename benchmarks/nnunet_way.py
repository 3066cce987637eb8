"""nnU-Net's own predictor and export with a network of ours; run by the interpreter of its environment.

``nnunet_way.py JSON`` prepares, and then answers each line ``run`` or ``peak`` with ``answer N``: done, or how many
bytes segmenting added to this process.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch


def main(told: dict[str, Any]) -> None:
    predictor = _predictor(told)
    for line in sys.stdin:
        if line.strip() == "peak":
            before = _status("VmRSS", reset=True)
            _segment(predictor, told)
            _answer(_status("VmHWM") - before)
        else:
            _segment(predictor, told)
            _answer(0)


def _answer(number: int) -> None:
    sys.stdout.write(f"answer {number}\n")
    sys.stdout.flush()


def _segment(predictor: Any, told: dict[str, Any]) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    image, properties = SimpleITKIO().read_images([told["scan"]])
    predictor.predict_single_npy_array(image, properties, None, told["result"], False)


def _predictor(told: dict[str, Any]) -> Any:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    module = importlib.util.spec_from_file_location("plain_unet", told["plain_unet"])
    assert module is not None
    assert module.loader is not None
    plain_unet = importlib.util.module_from_spec(module)
    module.loader.exec_module(plain_unet)
    network = plain_unet.load_plain_unet(told["network"])
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    plans = PlansManager(_plans(told))
    dataset = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, **{f"label {value}": value for value in range(1, told["classes"])}},
        "file_ending": ".nii.gz",
    }
    predictor.manual_initialization(
        network, plans, plans.get_configuration("3d_fullres"), [network.state_dict()], dataset, "nnUNetTrainer", None
    )
    return predictor


def _plans(told: dict[str, Any]) -> dict[str, Any]:
    """As its planner writes them; axes are turned from its (S, A, R) to the network's (R, A, S)."""
    linear = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": told["window"],
        "spacing": told["spacing_mm"],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": linear | {"order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": linear | {"is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": linear,
        "architecture": {},  # the network is given
    }
    return {
        "dataset_name": "Dataset001_Scans",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [2, 1, 0],
        "transpose_backward": [2, 1, 0],
        "configurations": {"3d_fullres": configuration},
        "foreground_intensity_properties_per_channel": {"0": {}},
    }


def _status(field: str, *, reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
