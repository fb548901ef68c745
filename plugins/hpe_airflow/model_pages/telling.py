"""Tells, as the pipeline does of its own, that a person has moved a channel."""

from __future__ import annotations

import logging

from hpe_airflow.alert_channels import channels
from hpe_airflow.alerts import Alert, send_alert, served_text
from hpe_airflow.task_links import model_version_path

PATIENCE_S = 5.0
"""For all channels together: a person waits for the page meanwhile."""

log = logging.getLogger(__name__)


def tell_move(name: str, channel: str, version: str, previous: str | None, *, how: str, note: str) -> tuple[str, ...]:
    """Tell it to every channel that Airflow has a connection for, as `hpe_airflow.alerts` does.

    Args:
        name: The model.
        channel: What was moved.
        version: What it serves now.
        previous: What it served before; None for nothing.
        how: What was done, and by whom, such as "promoted by ada".
        note: Why, in the words of who has done it; may be empty.

    Returns:
        The connections through which it may not have got; the log says why. The channel has moved all the same.
    """
    why = f": {note.strip().rstrip('.')}" if note.strip() else ""
    text = f"{served_text(name, channel, version, previous)}, {how}{why}."
    try:
        return send_alert(Alert(text, model_version_path(name, version)), channels(), longest_s=PATIENCE_S)
    except Exception:
        log.exception("Nobody was alerted that %s %s serves %s.", name, channel, version)
        return ("Airflow's connections",)
