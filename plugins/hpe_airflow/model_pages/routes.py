"""The addresses of the pages about models."""

# No `from __future__ import annotations` here: FastAPI must see the annotations as they are.

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Query, Request, UploadFile
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from hpe_airflow.access import TOKEN_FIELD, Reader, require_own_form
from hpe_airflow.model_pages import store, trial_folders, trying, views
from hpe_airflow.model_pages.paired import paired
from hpe_airflow.model_pages.plots import accuracy_plot, speed_plot, trade_off
from hpe_airflow.model_pages.rendering import page
from hpe_airflow.model_pages.run_of_version import run_is_here, validation_of
from hpe_airflow.model_pages.store import PICTURES
from hpe_tasks.catalogue.comparing import compare
from hpe_tasks.catalogue.subjects import subject_of_version
from hpe_tasks.contract.names import SLUG, VERSION
from hpe_tasks.errors import AccessError, BadInputError
from hpe_tasks.gate.accuracy import metric_of
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.named_versions import find_version
from hpe_tasks.report.interval_chart import interval_plot

Name = Annotated[str, Path(pattern=f"^{SLUG}$")]
Version = Annotated[str, Path(pattern=f"^{VERSION}$")]
Role = Annotated[str, Path(pattern=f"^{SLUG}$")]
ModelQuery = Annotated[str | None, Query(pattern=f"^{SLUG}$")]
NamedVersions = Annotated[list[Annotated[str, Query(max_length=100)]], Query(max_length=6)]

_MOST_RECORDS = 50
_REFUSED = ("gate_failed", "refused", "inconclusive", "failed")

router = APIRouter()


@router.get("/models")
def models(request: Request, user: Reader, model: ModelQuery = None) -> HTMLResponse:
    """All channels and versions, and the runs that were refused."""
    found = store.catalogue()
    shown = [row for row in found.versions if model in (None, row.name)]
    channels = [row for row in found.channels if model in (None, row.name)]
    plotted = model or (shown[0].name if shown else None)
    of_model = [row for row in found.versions if row.name == plotted]
    plots = (accuracy_plot(of_model), speed_plot(of_model), trade_off(of_model))
    refused = [run for run in store.runs() if run.verdict in _REFUSED and model in (None, run.model)]
    return page(
        request,
        user,
        "models",
        registry=found.registry,
        models=found.models,
        model=model,
        plotted=plotted,
        channels=channels,
        rows=[views.version_row(row) for row in shown],
        plots=[plot for plot in plots if plot is not None],
        refused=[views.run_row(run) for run in refused],
    )


@router.get("/models/{name}/{version}")
def version(request: Request, user: Reader, name: Name, version: Version) -> HTMLResponse:
    """Everything that is known of a version."""
    registry = store.registry()
    stored = registry.stored(name, version)
    manifest = stored.manifest
    state = registry.log.state(name)
    channels = {channel: registry.show(name, channel).version for channel in registry.channels(name)}
    retired = state.retired.get(version)
    records = registry.log.records(name, version=version, last=_MOST_RECORDS)
    return page(
        request,
        user,
        "version",
        figures_of=manifest.onnx.stats.metric,
        **_version_shown(manifest),
        signature=store.signature_state(stored.data, registry.signature(name, version)),
        channels=channels,
        serving=[channel for channel, served in channels.items() if served == version],
        retired=None if retired is None else registry.log.read(name, retired),
        cannot_try=trying.why_not(),
        no_fp32=trial_folders.why_no_fp32(manifest),
        token_field=TOKEN_FIELD,
        records=records,
        took_over=views.first_promotion(records, version),
        validation=validation_of(manifest.provenance.run),
        run_found=run_is_here(manifest.provenance.run),
        siblings=views.siblings(manifest, store.catalogue().versions),
        state=state,
    )


def _version_shown(manifest: ModelManifest) -> dict[str, Any]:
    metric, protocol = metric_of(manifest.onnx.stats), manifest.onnx.fingerprint
    return {
        "m": manifest,
        "r": manifest,
        "metric": metric,
        "card": tuple(views.card(manifest)),
        "checks": views.gate_rows(manifest.gate),
        "intervals": interval_plot(manifest.gate.comparison, metric),
        "by_group": views.group_plot(manifest),
        "by_joint": views.joint_plot(manifest),
        "joint_rows": views.joint_rows(manifest),
        "sample": f"{protocol.num_persons:,} persons in {protocol.num_images:,} images",
        "pictures": views.pictures(manifest),
        "fingerprints": tuple(views.fingerprints(manifest)),
        "settings": views.settings(manifest),
        "proof": views.proof_text(manifest),
    }


@router.get("/models/{name}/{version}/manifest")
def manifest(_: Reader, name: Name, version: Version) -> Response:
    """The manifest as it is stored."""
    return _download(store.registry().stored(name, version).data, f"{name}-{version}.json", "application/json")


@router.get("/models/{name}/{version}/files/{role}")
def file(_: Reader, name: Name, version: Version, role: Role) -> Response:
    """A file of the version, for download."""
    found = _file(name, version, role)
    suffix = ".onnx" if role == "model" else ""
    headers = {"Content-Disposition": f'attachment; filename="{name}-{version}-{role}{suffix}"'}
    headers["Content-Length"] = str(found.size_bytes)
    return StreamingResponse(store.streamed(found), media_type="application/octet-stream", headers=headers)


@router.get("/models/{name}/{version}/pictures/{role}")
def picture(_: Reader, name: Name, version: Version, role: Role) -> Response:
    """A golden image of the version."""
    manifest = store.registry().stored(name, version).manifest
    if role not in {golden.file for golden in manifest.golden}:
        raise AccessError(f"Version {version} of {name!r} has no golden image {role!r}.", hint="See its files.")
    data = store.picture(manifest.file(role))
    kind = next((kind for start, kind in PICTURES.items() if data.startswith(start)), None)
    if kind is None:
        return _download(data, role, "application/octet-stream")
    return Response(data, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})


@router.post("/models/{name}/{version}/try")
def tried(
    request: Request,
    user: Reader,
    name: Name,
    version: Version,
    picture: UploadFile,
    form_token: Annotated[str, Form(max_length=200)] = "",
) -> HTMLResponse:
    """What the version finds in a picture before and after quantization, beside what is served now."""
    require_own_form(request, user, form_token)
    registry = store.registry()
    manifest = registry.stored(name, version).manifest
    data = picture.file.read(trying.LARGEST_BYTES + 1)
    served = {channel: registry.show(name, channel) for channel in registry.channels(name)}
    others = {pointer.version: channel for channel, pointer in served.items() if pointer.version != version}
    beside = [registry.served(name, channel) for channel in list(others.values())[:2]]
    kind = next((kind for start, kind in PICTURES.items() if data.startswith(start)), None)
    if kind is None:
        raise BadInputError("This is no picture that can be shown.", hint="Take a JPEG, PNG or WebP.")
    return page(
        request,
        user,
        "tried",
        m=manifest,
        shown=trying.try_picture(data, manifest, tuple(beside)),
        channels=others,
        address=f"data:{kind};base64,{base64.b64encode(data).decode()}",
    )


@router.get("/compare")
def compared(request: Request, user: Reader, version: NamedVersions, everything: bool = False) -> Response:
    """Two or more versions beside each other."""
    registry = store.registry()
    found = [find_version(registry, named, channel="staging").manifest for named in dict.fromkeys(version)]
    comparison = compare([subject_of_version(one) for one in found], everything=everything)
    intervals, not_paired = paired(found)
    return page(
        request,
        user,
        "compare",
        comparison=comparison,
        intervals=intervals,
        not_paired=not_paired,
        manifests=found,
        everything=everything,
        pictures=views.shared_pictures(found),
        without_pictures=[one.version for one in found if not one.golden],
        address="&".join(f"version={one.name}@{one.version}" for one in found),
    )


def _file(name: str, version: str, role: str) -> Any:
    manifest = store.registry().stored(name, version).manifest
    found = next((one for one in manifest.files if one.role == role), None)
    if found is None:
        known = ", ".join(one.role for one in manifest.files)
        raise AccessError(f"Version {version} of {name!r} has no file {role!r}.", hint=f"Its files are: {known}.")
    return found


def _download(data: bytes, name: str, kind: str) -> Response:
    return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
