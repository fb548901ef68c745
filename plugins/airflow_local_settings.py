"""Airflow imports this in each of its processes, before it opens its database."""

import sys

from hpe_airflow.own_database import take_own_database

# Airflow takes over what a module of this name defines: nothing.
__all__: list[str] = []

take_own_database(sys.argv)
