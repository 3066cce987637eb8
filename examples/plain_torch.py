"""From a scan to its label map with a fetched network; nothing of U-Net factory but one file of code.

    curl http://127.0.0.1:8000/unet/plain_unet.py -o plain_unet.py
    curl 'http://127.0.0.1:8000/unet?model=hippocampus-mr&spacing=1,1,1' -o unet.safetensors
    python plain_torch.py unet.safetensors scan.nii.gz labels.nii.gz

The network needs torch and safetensors; nibabel only reads the scan and writes the label map.
"""

import sys

import nibabel
import torch
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from plain_unet import StandaloneUNet, load_plain_unet
from torch import Tensor
from torch.nn.functional import pad


def label_map(unet: StandaloneUNet, scan: Tensor) -> Tensor:
    """Class indices for a scan (r, a, s), in RAS+ orientation and at the network's spacing."""
    if any(extent > window for extent, window in zip(scan.shape, unet.manifest["window"], strict=True)):
        sys.exit("this example takes a scan in one piece; for a larger one see monai.inferers.sliding_window_inference")
    normalised = (scan - scan.mean()) / scan.std(correction=0)
    r, a, s = (-extent % divisor for extent, divisor in zip(scan.shape, unet.divisors, strict=True))
    padded = pad(normalised, [0, s, 0, a, 0, r])  # zeros, behind the far end of each axis
    with torch.inference_mode():
        classes = unet(padded[None, None])[0].argmax(dim=0)
    return classes[: scan.shape[0], : scan.shape[1], : scan.shape[2]]


def main(network: str, scan_file: str, label_file: str) -> None:
    unet = load_plain_unet(network)
    scan = nibabel.Nifti1Image.from_filename(scan_file)
    ras = nibabel.as_closest_canonical(scan)
    made_for = [um / 1000 for um in unet.manifest["snapped_um"]]
    print(f"{unet.manifest['model']}, made for {made_for} mm; the scan has {ras.header.get_zooms()[:3]} mm")
    labels = label_map(unet, torch.from_numpy(ras.get_fdata(dtype="float32")))
    back = ornt_transform(io_orientation(ras.affine), io_orientation(scan.affine))
    stored = apply_orientation(labels.to(torch.uint8).numpy(), back)
    nibabel.save(nibabel.Nifti1Image(stored, scan.affine), label_file)
    for label in unet.manifest["labels"]:
        print(label["name"], int((labels == label["value"]).sum()), "voxels")


if __name__ == "__main__":
    main(*sys.argv[1:])
