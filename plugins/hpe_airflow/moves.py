"""The watch's third task: tells people of channels that were moved where nobody could tell them, as by a command."""

from __future__ import annotations

import logging

from airflow.sdk.exceptions import AirflowSkipException

from hpe_airflow.connections import s3_client
from hpe_airflow.params_form import config_from_params
from hpe_airflow.task_log import quiet_others, reason_first
from hpe_tasks.config.environment import Settings

_MOST = 10
"""Moves that are told one by one; who comes back after a long time hears of the last ones."""

log = logging.getLogger(__name__)


def tell_moves() -> int:
    """Tell of the moves by hand since the last look, and return how many there were; skipped where there are none.

    Raises:
        HpeError: Registry or workspace are denied or out of reach, or the registry's log is damaged.
    """
    quiet_others()
    return reason_first("tell_moves", _tell)


def _tell() -> int:
    from airflow.sdk import get_current_context

    from hpe_airflow.alert_channels import channels
    from hpe_airflow.alerts import moved_alert, send_alert
    from hpe_tasks.registry.log import RegistryLog
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.storage.opening import open_workspace
    from hpe_tasks.storage.s3 import S3Location
    from hpe_tasks.watching.moves import MOVED_BY_HAND, remember_moves, untold_moves

    destination = config_from_params(get_current_context()["params"]).destination
    places = Settings.from_environment()
    workspace = open_workspace(places.workspace, s3=s3_client, cache=places.cache)
    registry_log: RegistryLog = ModelRegistry(s3_client(), S3Location.parse(destination.registry)).log
    found = channels()
    if not found:
        raise AirflowSkipException("Airflow knows no connection to tell anybody through.")
    moves = untold_moves(registry_log, destination.registry, destination.name, workspace)
    if not moves:
        raise AirflowSkipException(f"No channel of {destination.name} was moved by hand that nobody was told of.")
    lost = []
    for move in moves[-_MOST:]:
        how = f"{MOVED_BY_HAND[move.action]} by {move.by or 'somebody'}"
        alert = moved_alert(move.name, move.channel or "", move.version, move.previous_version, how=how, note=move.note)
        if len(send_alert(alert, found)) == len(found):
            lost.append(move.entry)
    told = [move.entry for move in moves if move.entry not in lost]
    remember_moves(workspace, destination.registry, destination.name, told)
    log.info("%d moves by hand were told; of %d the next look tells.", len(told), len(lost))
    return len(told)
