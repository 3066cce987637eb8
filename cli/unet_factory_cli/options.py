"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8000"
DTYPES = ("float32", "float16")
POLICIES = ("clamp", "reject", "extrapolate")

ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="UNET_FACTORY_API_KEY",
        show_default=False,
        help="Your API key; or name a file that holds it in UNET_FACTORY_API_KEY_FILE.",
    ),
]
Url = Annotated[str, typer.Option(envvar="UNET_FACTORY_URL", help="Where the gateway answers.")]
DataDir = Annotated[Path | None, typer.Option(help="The data folder of serve; default: your user data folder.")]
ModelName = Annotated[str | None, typer.Option(help="Name of the model; default: the gateway's default model.")]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        "--condition",
        help="NAME=NUMBER, such as inversion_time_ms=900; repeat for more. See the command models for their names.",
    ),
]
Outside = Annotated[
    str | None,
    typer.Option(
        help="What to do outside the trained range: clamp, reject or extrapolate.", autocompletion=lambda: POLICIES
    ),
]
Local = Annotated[bool, typer.Option("--local", help="Compute in this process, without any server.")]
Models = Annotated[
    Path, typer.Option(envvar="UNET_FACTORY_MODELS_DIR", help="Folder of models, besides those that are installed.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda[:N]; default: a GPU if there is one.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)]
