"""The Python API: what `hpe_tasks` exports.

It stands on the top floor beside the command line, and does what that does by the same steps: a result that one has
made is found by the other, and by Airflow.
"""
