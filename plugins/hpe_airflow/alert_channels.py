"""Where alerts go: a webhook such as Slack's, and e-mail, each where Airflow knows a connection for it."""

from __future__ import annotations

import html
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpe_tasks.errors import ConfigError, shortened

if TYPE_CHECKING:
    from airflow.sdk import Connection

WEBHOOK_CONNECTION = "hpe_alerts_webhook"
EMAIL_CONNECTION = "hpe_alerts_email"

TIMEOUT_S = 5.0
"""For each answer of a server."""

LONGEST_S = 12.0
"""For all that the channels take: a task that is done waits no longer for somebody to hear of it."""

_LONGEST_SUBJECT = 120

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlertChannel:
    """One way to tell people something.

    Attributes:
        connection: Airflow's, with address and credentials.
        send: Given the connection, a sentence and a link.
    """

    connection: Connection
    send: Callable[[Connection, str, str], None]


def channels() -> tuple[AlertChannel, ...]:
    """Those that Airflow has a connection for: none, unless somebody has made one."""
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    found = []
    for name, send in ((WEBHOOK_CONNECTION, send_to_webhook), (EMAIL_CONNECTION, send_mail)):
        try:
            found.append(AlertChannel(Connection.get(name), send))
        except AirflowNotFoundException:
            continue
    return tuple(found)


def tell(found: Sequence[AlertChannel], text: str, link: str, *, longest_s: float | None = None) -> tuple[str, ...]:
    """Send a sentence to all channels at once.

    What keeps it from arriving is a warning in the log, without the connections' secrets.

    Args:
        found: Where to.
        text: The sentence.
        link: Behind it.
        longest_s: For all of them together, in seconds; None is LONGEST_S.

    Returns:
        The connections through which it may not have got.
    """
    patience_s = LONGEST_S if longest_s is None else longest_s
    # A server may answer byte by byte, each in time. The thread ends with the task's process.
    sendings = [_Sending(channel, text, link) for channel in found]
    until = time.monotonic() + patience_s
    return tuple(name for sending in sendings if (name := sending.lost(until, patience_s)))


class _Sending:
    """A sentence on its way through one channel."""

    def __init__(self, channel: AlertChannel, text: str, link: str) -> None:
        self._channel, self._text, self._link = channel, text, link
        self._failures: list[Exception] = []
        self._thread = threading.Thread(target=self._send, name="hpe-alert", daemon=True)
        self._thread.start()

    def _send(self) -> None:
        try:
            self._channel.send(self._channel.connection, self._text, self._link)
        except Exception as error:  # noqa: BLE001 - whatever a server or a library says, who tells is not concerned
            self._failures.append(error)

    def lost(self, until: float, patience_s: float) -> str:
        """The connection's name where the sentence has not arrived by then; empty where it has."""
        connection = self._channel.connection
        name = str(connection.conn_id)
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            log.warning("The alert may not have got through %s: its server took more than %g s.", name, patience_s)
        elif self._failures:
            log.warning("The alert did not get through %s: %s", name, _without_secrets(self._failures[0], connection))
        else:
            log.info("Told through %s: %s", name, self._text)
            return ""
        return name


def _without_secrets(error: Exception, connection: Connection) -> str:
    """An error on one line; libraries quote addresses, of which a part may be secret."""
    reason = f"{type(error).__name__}: {error}"
    for secret in filter(None, (connection.password, connection.login)):
        reason = reason.replace(secret, "…")
    return " ".join(shortened(reason).split())


def send_to_webhook(connection: Connection, text: str, link: str) -> None:
    """POST `{"text": …}`, as Slack's incoming webhooks take it, and Mattermost's, Rocket.Chat's and Google Chat's.

    Args:
        connection: Of type `http`: the address as host, and what of it is secret as the password, unless there is a
            login, which makes it the password of that. Its extra holds further headers.
        text: The sentence.
        link: Behind it.

    Raises:
        Exception: What Airflow's hook raises where the server does not answer, or not with success.
    """
    from airflow.providers.http.hooks.http import HttpHook

    # A sentence that quotes a file's name must not become a mention of everybody.
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    HttpHook(method="POST", http_conn_id=connection.conn_id).run(
        endpoint=None if connection.login else connection.password,
        json={"text": f"{escaped} {link}"},
        extra_options={"timeout": TIMEOUT_S},
    )


def send_mail(connection: Connection, text: str, link: str) -> None:
    """Send an e-mail by SMTP.

    Args:
        connection: Of type `smtp`, as Airflow's provider takes it; its extra holds `to`, addresses with commas
            between, and `from_email`.
        text: The sentence; its beginning is the subject.
        link: Below it.

    Raises:
        ConfigError: The connection names nobody to write to.
        Exception: What Airflow's hook raises where the server does not take it.
    """
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    to = connection.extra_dejson.get("to")
    if not to:
        raise ConfigError(
            f"The Airflow connection {connection.conn_id!r} does not say who is to be written to.",
            hint='Put the addresses into its extra: {"to": "team@example.com", "from_email": "airflow@example.com"}.',
        )

    class Hook(SmtpHook):
        """With times that a task can wait."""

        timeout: Any = TIMEOUT_S
        smtp_retry_limit: Any = 0

    shown = html.escape(link)
    with Hook(smtp_conn_id=connection.conn_id) as hook:
        hook.send_email_smtp(
            to=to,
            subject=shortened(text, longest=_LONGEST_SUBJECT),
            html_content=f'<p>{html.escape(text)}</p><p><a href="{shown}">{shown}</a></p>',
        )
