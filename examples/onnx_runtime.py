"""From a scan to its label map with a fetched network in ONNX Runtime; neither torch nor U-Net factory is needed.

    curl 'http://127.0.0.1:8000/unet?model=hippocampus-mr&spacing=1,1,1&format=onnx' -o unet.onnx
    python onnx_runtime.py unet.onnx scan.nii.gz labels.nii.gz

What a program must know lies in the file's metadata: spacing, orientation, normalisation, divisors, window, labels.
"""

import json
import sys

import nibabel
import numpy as np
import onnxruntime
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from numpy.typing import NDArray


def label_map(network: onnxruntime.InferenceSession, scan: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Class indices for a scan (r, a, s), in RAS+ orientation and at the network's spacing."""
    facts = network.get_modelmeta().custom_metadata_map
    divisors, window = (np.array(facts[name].split(","), dtype=int) for name in ("divisors", "window"))
    if (scan.shape > window).any():
        sys.exit(f"this example takes a scan of at most {window} voxels in one piece; cut a larger one into windows")
    normalised = (scan - scan.mean()) / scan.std()
    missing = -np.array(scan.shape) % divisors
    padded = np.pad(normalised, [(0, extent) for extent in missing])  # zeros, behind the far end of each axis
    (logits,) = network.run(["logits"], {"volume": padded[None, None].astype(np.float32)})
    r, a, s = scan.shape
    labels: NDArray[np.uint8] = logits[0].argmax(axis=0)[:r, :a, :s].astype(np.uint8)
    return labels


def main(network_file: str, scan_file: str, label_file: str) -> None:
    network = onnxruntime.InferenceSession(network_file, providers=["CPUExecutionProvider"])
    facts = network.get_modelmeta().custom_metadata_map
    scan = nibabel.Nifti1Image.from_filename(scan_file)
    ras = nibabel.as_closest_canonical(scan)
    print(f"{facts['model']}, made for {facts['spacing_mm']} mm; the scan has {ras.header.get_zooms()[:3]} mm")
    labels = label_map(network, ras.get_fdata(dtype=np.float32))
    back = ornt_transform(io_orientation(ras.affine), io_orientation(scan.affine))
    nibabel.save(nibabel.Nifti1Image(apply_orientation(labels, back), scan.affine), label_file)
    for value, name in json.loads(facts["labels"]).items():
        print(name, int((labels == int(value)).sum()), "voxels")


if __name__ == "__main__":
    main(*sys.argv[1:])
