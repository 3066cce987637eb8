"""What the user of a network must know besides its tensors, in short names that need no documentation."""

import json

from unet_factory.domain.manifest import StandaloneManifest, divisors_of

IDENTITY_KEY = "unet_factory_network"
MANIFEST_KEY = "unet_factory_manifest"


def facts_of(manifest: StandaloneManifest, identity: str) -> dict[str, str]:
    """For the metadata of a file: the main facts as text, then the whole manifest as JSON."""
    strides = manifest.strides or manifest.architecture.strides(manifest.spacing)
    return {
        "model": manifest.model,
        "spacing_mm": ",".join(f"{mm:g}" for mm in manifest.spacing.mm),
        "spacing_axes": "R,A,S",
        "orientation": manifest.preprocessing.orientation,
        "normalisation": f"{manifest.preprocessing.normalisation.method} over all voxels of the volume",
        "labels": json.dumps({str(label.value): label.name for label in manifest.labels}),
        "divisors": ",".join(str(divisor) for divisor in divisors_of(strides)),
        "window": ",".join(str(extent) for extent in manifest.window),
        "checkpoint_digest": f"sha256:{manifest.checkpoint_digest}",
        "licence": manifest.licence,
        "citation": manifest.citation,
        IDENTITY_KEY: identity,
        MANIFEST_KEY: manifest.model_dump_json(),
    }
