"""The documentation as a site (`make docs`): where its pages lie, and what is generated from the code.

The folder of sources is the whole repository, so that a link from one page or file to another leads to the same place
in the repository and on the site.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

import unet_factory

PROJECT = Path(__file__).parents[1]
GENERATED = PROJECT / "build" / "docs"
PAGE = PROJECT / "service" / "unet_factory_service" / "page" / "static"

project = "U-Net factory"
version = release = unet_factory.__version__

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "examples/**.md", "examples/**.ipynb"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = project
html_favicon = str(PAGE / "icon.svg")
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_static_path = [str(PAGE / "vendor" / "redoc" / "redoc.standalone.js"), str(GENERATED / "openapi.js")]
templates_path = ["_site"]
html_additional_pages = {"index": "to_home.html", "docs/reference/api": "api.html"}

myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebooks keep what they showed; a test runs them

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("config-inited", generate)


def generate(_app: Sphinx, _config: Config) -> None:
    """Write down, in ``build/docs``, what the code says of the HTTP interface and of the commands."""
    from unet_factory_service.app import create_app
    from unet_factory_service.settings import GatewaySettings

    GENERATED.mkdir(parents=True, exist_ok=True)
    api = create_app(GatewaySettings(models_dir=PROJECT / "models")).openapi()
    (GENERATED / "openapi.js").write_text(f"const api = {json.dumps(api)};\n")
    (GENERATED / "calls.md").write_text("\n".join(table_of_calls(api)))
    typer = [sys.executable, "-m", "typer", "unet_factory_cli.commands", "utils", "docs", "--name", "unet-factory"]
    typer += ["--title", "Command line"]
    subprocess.run([*typer, "--output", GENERATED / "commands.md"], check=True, stdout=subprocess.DEVNULL)


def table_of_calls(api: dict[str, Any]) -> list[str]:
    """A row for each call, with a link to its description in ``api.html``."""
    rows = ["| call | does |", "|---|---|"]
    for path, methods in api["paths"].items():
        for method, call in methods.items():
            link = f"api.html#tag/{call['tags'][0]}/operation/{call['operationId']}"
            rows.append(f'| <a href="{link}"><code>{method.upper()} {path}</code></a> | {call["summary"]} |')
    return rows
