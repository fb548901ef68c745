"""`python -m hpe_tasks` is the `hpe` command."""

from hpe_tasks.cli.app import main

main()
