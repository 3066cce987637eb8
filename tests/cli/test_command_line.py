"""What a user may do wrong at the command line, and that asking for help costs nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

import unet_factory
from tests.fixtures.project import HIPPOCAMPUS, PROJECT
from tests.fixtures.tiny_model import TinyEnsemble
from unet_factory.domain.segmentation_parameters import PARAMETERS
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_cli.commands import app

HEAVY = ("torch", "monai", "celery", "fastapi", "numpy", "nibabel", "httpx", "redis", "pydantic")
CONFIG = str(PROJECT / "configs" / "hippocampus-mr.yaml")
SCAN = str(HIPPOCAMPUS / "images" / "hippocampus_004.nii.gz")
NOBODY = "http://127.0.0.1:9"

SEGMENT = ["segment", "{scan}", "-o"]
UNET = ["unet", "-o", "{tmp}/unet.safetensors", "--spacing"]


def test_help_imports_no_role_and_nothing_slow() -> None:
    ask = (
        "import sys; from typer.testing import CliRunner; from unet_factory_cli.commands import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    assert answer.strip() == "[]"


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"unet-factory {unet_factory.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["segment", "{tmp}/none.nii.gz", "-o", "{tmp}/x.nii.gz"], 2, "there is no file {tmp}/none.nii.gz"),
        ([*SEGMENT, "{tmp}/x.png"], 2, "x.png must end with .nii.gz, .nrrd or .dcm"),
        ([*SEGMENT, "{tmp}/x.dcm", "--report", "{tmp}/x.pdf"], 2, "x.pdf must end with .dcm"),
        ([*SEGMENT, "{tmp}/x.dcm", "--report", "{tmp}/none/x.dcm"], 2, "there is no folder {tmp}/none"),
        ([*SEGMENT, "{tmp}/none/x.nrrd"], 2, "there is no folder {tmp}/none"),
        ([*SEGMENT, "{tmp}/x.nrrd", "--spacing", "1,2"], 2, "three numbers in mm (R,A,S), not 2"),
        ([*SEGMENT, "{tmp}/x.nrrd", "--working-spacing", "1,nan,1"], 2, "must be finite"),
        ([*SEGMENT, "{tmp}/x.nrrd", "--outside", "guess"], 2, "'guess', allowed are reject, clamp, extrapolate"),
        ([*SEGMENT, "{tmp}/x.nrrd", "--url", NOBODY], 1, f"no gateway answers at {NOBODY}"),
        ([*SEGMENT, "{tmp}/x.nrrd", "--url", "somewhere"], 1, "no gateway answers at somewhere"),
        ([*SEGMENT, "{tmp}/x.nrrd", "--seg-type", "none"], 2, "'none', allowed are binary, labelmap"),
        ([*SEGMENT, "{tmp}/x.nrrd", "--condition", "warm"], 2, "NAME=NUMBER"),
        ([*SEGMENT, "{tmp}/x.nrrd", "--pacs", "main"], 2, "either a scan or, with --pacs"),
        (["segment", "-o", "{tmp}/x.nrrd"], 2, "either a scan or, with --pacs"),
        (["segment", "-o", "{tmp}/x.nrrd", "--pacs", "main"], 2, "missing: study_uid, series_uid"),
        (["models", "--url", NOBODY], 1, "start one with `unet-factory serve`"),
        ([*UNET, "one,two,three"], 2, "expected three comma-separated numbers"),
        ([*UNET, "0,1,1"], 2, "above 0"),
        (["unet", "--spacing", "1,1,1", "-o", "{tmp}/x.pth"], 2, "must end with .safetensors, .onnx, .pt2, .zip"),
        ([*UNET, "1,1,1", "--dtype", "int4"], 2, "'int4', allowed are float32, float16"),
        ([*UNET, "1,1,1", "--url", NOBODY], 1, f"no gateway answers at {NOBODY}"),
        (["models", "--url", NOBODY], 1, f"no gateway answers at {NOBODY}"),
        (["train", "{tmp}/none.yaml"], 2, "there is no file {tmp}/none.yaml"),
        (["train", "{scan}"], 2, "is not a valid training configuration"),
        (["describe", "{tmp}/none.yaml", "{scan}"], 2, "there is no file {tmp}/none.yaml"),
        (["describe", CONFIG, "{tmp}/none.safetensors"], 2, "there is no file {tmp}/none.safetensors"),
        (["describe", CONFIG, "{scan}", "-o", "{tmp}/none/x"], 2, "there is no folder {tmp}/none"),
        (["describe", CONFIG, "{scan}"], 1, "The checkpoint cannot be used"),
        (["compress", "{tmp}/none.safetensors"], 2, "there is no file {tmp}/none.safetensors"),
        (["compress", "{scan}", "--tolerance", "0"], 2, "is 0; it must be above 0"),
        (["compress", "{scan}", "-o", "{tmp}/none/x.safetensors"], 2, "there is no folder {tmp}/none"),
        (["compress", "{scan}", "-o", "{scan}"], 2, "is the checkpoint itself"),
        (["compress", "{damaged}/x.safetensors"], 1, "The checkpoint cannot be used"),
        (["ensemble", "{scan}", "-o", "{scan}"], 2, "is one of the checkpoints"),
        (["ensemble", "{scan}", "-o", "{tmp}/x.safetensors"], 1, "needs two checkpoints or more"),
        (["average", "{scan}", "-o", "{scan}"], 2, "is one of the checkpoints"),
        (["average", "{scan}", "-o", "{tmp}/x.safetensors"], 1, "needs two checkpoints or more"),
        (["serve", "--models", "{tmp}"], 2, "there is no model (*.safetensors) in {tmp}"),
        (["serve", "--models", "{damaged}"], 1, "The checkpoint cannot be used"),
        (["demo", "--models", "{tmp}/none", "-o", "{tmp}/out"], 1, "there is no model"),
        (
            ["segment", SCAN, "-o", "{tmp}/x.nrrd", "--local", "--models", "{tmp}/none"],
            1,
            "pip install 'unet-factory[models]'",
        ),
    ],
)
def test_a_mistake_is_said_in_a_line(tmp_path: Path, arguments: list[str], exit_code: int, message: str) -> None:
    places = {"tmp": str(tmp_path), "scan": str(tmp_path / "scan.nii"), "damaged": str(tmp_path / "damaged")}
    (tmp_path / "scan.nii").write_text("name: [unfinished")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "x.safetensors").write_bytes(b"damaged")
    filled = [argument.format(**places) for argument in arguments]
    before = sorted(tmp_path.glob("*.n*"))
    result = CliRunner().invoke(app, filled, env={"COLUMNS": "200"})
    assert result.exit_code == exit_code, result.output
    assert message.format(**places) in result.stderr
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    assert sorted(tmp_path.glob("*.n*")) == before


@pytest.mark.parametrize(
    "arguments", [["segment"], ["unet", "-o", "x"], ["serve", "--port", "0"], ["serve", "--workers", "0"], ["dance"]]
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize("role", ["gateway", "worker"])
def test_a_wrong_setting_is_named(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNET_FACTORY_MAX_VOXELS", "many")
    result = CliRunner().invoke(app, [role])
    assert result.exit_code == 2
    assert "UNET_FACTORY_MAX_VOXELS is 'many'" in result.stderr


def test_segment_has_an_option_for_every_parameter() -> None:
    shown = CliRunner().invoke(app, ["segment", "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    otherwise = {"output": "--output", "conditions": "--condition"}
    for name in PARAMETERS:
        assert otherwise.get(name, "--" + name.replace("_", "-")) in shown.output


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("segm", {"segment"}),
        ("segment --statis", {"--statistics"}),
        ("segment --implausible ", {"note", "withhold", "reject"}),
        ("segment x.nii --outside c", {"clamp"}),
        ("unet --dtype ", {"float32", "float16"}),
        ("jobs list --state ", {"queued", "running", "succeeded", "failed", "cancelled"}),
    ],
)
def test_the_shell_completes_commands_options_and_values(typed: str, offered: set[str]) -> None:
    words = f"unet-factory {typed}"
    asked = {"_UNET_FACTORY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = CliRunner().invoke(app, prog_name="unet-factory", env=asked)
    assert set(done.stdout.split()) == offered


LOGS = {"serve", "gateway", "worker", "courier", "dicom-listen", "train", "compare", "cka"}


def test_what_prints_can_print_json_and_every_help_tells_the_exit_codes() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        if name not in LOGS | {"segment"}:
            for each in getattr(command, "commands", {name: command}).values():
                assert "--json" in {flag for option in each.params for flag in option.opts}, (name, each.name)
    for words in ([], ["segment"]):
        shown = CliRunner().invoke(app, [*words, "--help"]).stdout
        assert "Exit codes" in shown
        assert "json" in shown or not words


WITHOUT_UNIX = """
import sys
sys.modules |= dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios"))
from unet_factory_cli.commands import app
app(sys.argv[1:])
"""


@pytest.mark.parametrize("command", [["serve"], ["gateway"], ["worker"], ["keys", "list"]])
def test_a_command_that_needs_unix_says_so_where_there_is_none(command: list[str]) -> None:
    said = without_unix(*command)
    assert said.returncode == 1
    assert "this command needs Linux or macOS" in said.stderr
    assert len(said.stderr.splitlines()) == 1


def test_clients_commands_and_local_segmentation_work_without_unix(tmp_path: Path, tiny_models: Path) -> None:
    assert f"no gateway answers at {NOBODY}" in without_unix("models", "--url", NOBODY).stderr
    done = without_unix("segment", SCAN, "-o", str(tmp_path / "x.nrrd"), "--local", "--models", str(tiny_models))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.nrrd").exists()


def without_unix(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As on Windows, where the name of the user comes from the environment."""
    command = [sys.executable, "-c", WITHOUT_UNIX, *arguments]
    environment = os.environ | {"USERNAME": "somebody"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_an_ensemble_is_one_file_under_a_name_of_its_own(tiny_ensemble: TinyEnsemble, tmp_path: Path) -> None:
    file = tmp_path / "folds.safetensors"
    arguments = ["ensemble", *map(str, tiny_ensemble.members), "-o", str(file), "--name"]
    refused = CliRunner().invoke(app, [*arguments, "No Name"])
    assert (refused.exit_code, file.exists()) == (2, False)
    assert "--name is 'No Name'" in refused.stderr
    told = json.loads(CliRunner().invoke(app, [*arguments, "folds", "--json"]).stdout)
    served = ModelRegistry.scan(tmp_path).get("folds")
    assert (told["digest"], told["members"]) == (served.digest, len(served.manifest.members))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "UNET_FACTORY_ROUTING",
            "rules: [{model: other}]",
            "The routing rules cannot be used: {file}: there is no model",
        ),
        ("UNET_FACTORY_ROUTING", "rules: [", "The routing rules cannot be used: {file}: while parsing"),
        ("UNET_FACTORY_DESTINATIONS", "pacs: {main: {}}", "The destinations cannot be used: {file}: pacs.main"),
        ("UNET_FACTORY_DEFAULT_MODEL", None, "There is no model with that name"),
    ],
)
def test_serve_starts_nothing_with_a_file_that_cannot_be_used(
    tmp_path: Path, tiny_models: Path, name: str, content: str | None, message: str
) -> None:
    file = tmp_path / "file.yml"
    file.write_text(content or "")
    arguments = ["serve", "--models", str(tiny_models), "--data-dir", str(tmp_path / "data")]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", name: str(file) if content else "other"})
    assert (result.exit_code, (tmp_path / "data").exists()) == (1, False)
    assert message.format(file=file) in result.output
