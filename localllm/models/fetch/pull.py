"""One whole pull: ask the source, see what is there already, fetch, check, and put the model into its place."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from localllm.contract.errors import InvalidRequestError, LocalLLMError
from localllm.contract.fetch import (
    ModelSource,
    PullError,
    PullResult,
    PullStatus,
    Resolution,
    SourceFactory,
    StorageFullError,
)
from localllm.models.fetch.addresses import AddressRules
from localllm.models.fetch.connection import Dialer
from localllm.models.fetch.download import Tools, download
from localllm.models.fetch.job import PullJob
from localllm.models.fetch.local import take_local
from localllm.models.fetch.meter import Meter, Report
from localllm.models.fetch.names import check_model_id
from localllm.models.fetch.part import PartFile
from localllm.models.fetch.placing import (
    Plan,
    PlannedFile,
    StagedFile,
    find_existing,
    make_plan,
    place,
)
from localllm.models.fetch.store import Store


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True)
class World:
    """What tests replace: the disk's free bytes, the clock (monotonic, in seconds), pauses, and how to connect."""

    free_bytes: Callable[[Path], int] = _free_bytes
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    dialer: Callable[[AddressRules, float], Dialer] = Dialer


def run_pull(
    job: PullJob, report: Report, *, source: ModelSource | None = None, world: World | None = None
) -> PullResult:
    """Do one pull from its beginning to its end; ``report`` is called along the way, from this thread.

    ``source`` is made by the job's factory where it isn't given. Raises ``LocalLLMError`` and nothing else: what could
    be mended by trying again has left its bytes for that.
    """
    world = world or World()
    store = Store(Path(job.directory))
    meter = Meter(report, world.clock)
    try:
        if job.model_id is not None:
            check_model_id(job.model_id)
        store.directory.mkdir(parents=True, exist_ok=True)
        with store.staging(job.source) as staging:
            with contextlib.suppress(OSError):
                store.remove_stale()
            try:
                result = _pull(job, source, store, staging, meter, world)
            except BaseException:
                if not any(part.stat().st_size for part in staging.glob("*.part")):
                    shutil.rmtree(staging, ignore_errors=True)  # nothing to go on from
                raise
            shutil.rmtree(staging, ignore_errors=True)
        return result
    except OSError as error:
        message = f"{error.filename or store.directory}: the models' folder can't be used: {error.strerror or error}."
        raise PullError(message) from None


def _pull(
    job: PullJob, source: ModelSource | None, store: Store, staging: Path, meter: Meter, world: World
) -> PullResult:
    meter.show(PullStatus.RESOLVING, model_id=job.model_id)
    resolution = _resolve(job, source)
    plan = make_plan(job, resolution)
    meter.show(PullStatus.RESOLVING, model_id=plan.model_id, total_bytes=plan.size_bytes or None)
    existing = find_existing(job, resolution, plan, store)
    if existing is not None:
        return replace(existing, fresh=False)
    tools = _tools(job, resolution, staging, world)
    _require_room_for_all(plan, staging, tools)
    staged = [_fetch(file, staging, tools, meter) for file in plan.files]
    meter.show(PullStatus.VERIFYING)
    return place(job, resolution, plan, staged, store)


def _resolve(job: PullJob, source: ModelSource | None) -> Resolution:
    """Ask the source. What a plugin's code raises beside typed errors becomes one that names it."""
    try:
        if source is None:
            module, _, name = job.factory.partition(":")
            factory = cast(SourceFactory, getattr(importlib.import_module(module), name))
            source = factory(job.settings)
        resolution = source.resolve(job.reference)
    except LocalLLMError:
        raise
    except Exception as error:
        message = (
            f"{job.factory.partition(':')[0]} could not resolve {job.source[:200]}: {type(error).__name__}: {error}"
        )
        raise PullError(message) from error
    for file in resolution.files:
        if (file.url is None) == (file.path is None):
            message = f"{job.factory.partition(':')[0]} must give either a URL or a path for {file.name[:100]!r}."
            raise InvalidRequestError(message)
    return resolution


def _tools(job: PullJob, resolution: Resolution, staging: Path, world: World) -> Tools:
    policy = job.policy
    rules = AddressRules(policy.private_hosts, policy.http_hosts, resolution.trusted_origins)

    def require_room(n_bytes: int) -> None:
        free = world.free_bytes(staging)
        if free - n_bytes < policy.reserve_bytes:
            message = (
                f"{n_bytes} bytes are to be fetched, and {policy.reserve_bytes} stay free "
                f"(models.pull_reserve_megabytes), but the disk of {job.directory} has room for {free} only."
            )
            raise StorageFullError(message)

    return Tools(world.dialer(rules, policy.stall_seconds), policy, world.clock, world.sleep, require_room)


def _require_room_for_all(plan: Plan, staging: Path, tools: Tools) -> None:
    """Find out at the start, and not after an hour, that the disk is too small."""
    missing = 0
    for file in plan.files:
        if file.remote.url is not None:
            part = staging / f"{file.name}.part"
            missing += max(0, (file.remote.size_bytes or 0) - (part.stat().st_size if part.exists() else 0))
    if missing:
        tools.require_room(missing)


def _fetch(file: PlannedFile, staging: Path, tools: Tools, meter: Meter) -> StagedFile:
    """Bring one file into the staging folder, whole and hashed."""
    remote = replace(file.remote, name=file.name)
    whole = staging / file.name
    if remote.path is not None:
        return StagedFile(file, whole, take_local(remote, whole, tools, meter))
    with PartFile(whole) as part:
        download(remote, part, tools, meter)
        part.sync()
        sha256 = part.sha256
    return StagedFile(file, part.path, sha256)
