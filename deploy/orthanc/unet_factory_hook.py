"""Orthanc's side of the factory: every stable series of the wanted modalities is sent there by STOW-RS, once.

A script for Orthanc's Python plugin. It follows Orthanc's own log of changes, and keeps its place in Orthanc's
database: series that become stable while the factory is away, or while Orthanc restarts, are sent later. What the
factory makes comes back as SEG and SR, which are no wanted modalities, so nothing runs in circles. Settings, in
Orthanc's configuration:

    "UnetFactory": {"Server": "factory", "Modalities": ["MR"]}    # Server: one of DicomWeb.Servers

The API key is read from the file that the environment variable UNET_FACTORY_API_KEY_FILE names, each time that the
changes are looked at. So it can be exchanged while Orthanc runs.
"""

import json
import os
import threading
from pathlib import Path

import orthanc

PLACE = 4711  # the global property that holds the number of the last change that was dealt with
EVERY_S = 1.0
LONGEST_PAUSE_S = 30.0
CHANGES_AT_ONCE = 100
TRIES = 5  # for one series, while the factory answers others

configuration = json.loads(orthanc.GetConfiguration())
settings = {"Server": "factory", "Modalities": ["MR"]}
settings.update(configuration.get("UnetFactory", {}))
stop = threading.Event()


def follow() -> None:
    """Deal with one change after the other until Orthanc stops."""
    place = int(orthanc.GetGlobalProperty(PLACE, "-1"))
    if place < 0:  # the first start: what the archive holds already stays as it is
        place = keep(get("/changes?last")["Last"])
    pause_s, key = 0.0, None
    while not stop.wait(pause_s):
        try:
            key = authorise(key)
            place = catch_up(place)
            pause_s = EVERY_S
        except Exception as error:
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
            orthanc.LogWarning(f"U-Net factory: {type(error).__name__}; tried again in {pause_s:g} s")


def catch_up(place: int) -> int:
    """The place after all changes that there are; each is kept as soon as it is dealt with."""
    while not stop.is_set():
        page = get(f"/changes?since={place}&limit={CHANGES_AT_ONCE}")
        for change in page["Changes"]:
            if change["ChangeType"] == "StableSeries":
                deal_with(change["ID"])
            place = keep(change["Seq"])
        if page["Done"] or not page["Changes"]:
            break
    return place


def deal_with(series: str) -> None:
    """Send a series, unless it is gone or of no wanted modality."""
    try:
        modality = get(f"/series/{series}")["MainDicomTags"].get("Modality")
    except orthanc.OrthancException:
        return
    if modality not in settings["Modalities"]:
        return
    for attempt in range(1, TRIES + 1):
        try:
            post("stow", {"Resources": [series], "Synchronous": True})
            return
        except orthanc.OrthancException:
            post("qido", {"Uri": "/studies", "Arguments": {"limit": "1"}})  # raises when the factory is away
            stop.wait(attempt)
    orthanc.LogError("U-Net factory: a series was refused; its gateway's log says why")


def authorise(known: str | None) -> str | None:
    """Give the server of that name in Orthanc's configuration the key, if it is another than the ``known`` one."""
    file = os.environ.get("UNET_FACTORY_API_KEY_FILE")
    key = Path(file).read_text().strip() if file else None
    if key and key != known:
        server = dict(configuration["DicomWeb"]["Servers"][settings["Server"]])
        server["HttpHeaders"] = {"Authorization": f"Bearer {key}"}
        orthanc.RestApiPutAfterPlugins(f"/dicom-web/servers/{settings['Server']}", json.dumps(server))
    return key


def get(path: str) -> dict:
    return json.loads(orthanc.RestApiGet(path))


def post(what: str, body: dict) -> None:
    orthanc.RestApiPostAfterPlugins(f"/dicom-web/servers/{settings['Server']}/{what}", json.dumps(body))


def keep(place: int) -> int:
    orthanc.SetGlobalProperty(PLACE, str(place))
    return place


def on_change(change: int, _level: int, _resource: str) -> None:
    if change == orthanc.ChangeType.ORTHANC_STARTED:
        threading.Thread(target=follow, name="unet-factory", daemon=True).start()
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        stop.set()


orthanc.RegisterOnChangeCallback(on_change)
