"""Tells, as the pipeline does of its own, that a person has moved a channel on these pages."""

from __future__ import annotations

import logging

from hpe_airflow.alert_channels import channels
from hpe_airflow.alerts import moved_alert, send_alert
from hpe_airflow.model_pages import store
from hpe_tasks.errors import HpeError
from hpe_tasks.registry.log import Action

PATIENCE_S = 5.0
"""For all channels together: a person waits for the page meanwhile."""

log = logging.getLogger(__name__)


def tell_move(
    name: str, channel: str, version: str, previous: str | None, *, action: Action, how: str, note: str
) -> tuple[str, ...]:
    """Tell it to every channel that Airflow has a connection for; arguments are as of `alerts.moved_alert`.

    Where it got through, `hpe_watch` will not tell it again.

    Returns:
        The connections through which it may not have got; the log says why. The channel has moved all the same.
    """
    try:
        alert = moved_alert(name, channel, version, previous, how=how, note=note)
        untold = send_alert(alert, channels(), longest_s=PATIENCE_S)
    except Exception:
        log.exception("Nobody was alerted that %s %s serves %s.", name, channel, version)
        return ("Airflow's connections",)
    if not untold:
        try:
            store.mark_told(name, channel, version, action)
        except HpeError as error:
            log.warning("hpe_watch may tell once more that %s %s serves %s: %s", name, channel, version, error)
    return untold
