"""Pages of the documentation that are made from the code: a hook of mkdocs.

`reference/settings.md` comes from the schema of a run's configuration, `reference/commands.md` from the command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to those of docs/."""
    for name, lines in {"settings": _settings(), "commands": _commands()}.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(lines) + "\n"))
    return files


def _settings() -> Iterator[str]:
    from hpe_tasks.config.help import describe_setting
    from hpe_tasks.config.keys import config_keys
    from hpe_tasks.config.presets import PRESETS
    from hpe_tasks.config.recipes import RECIPES
    from hpe_tasks.config.rungs import RUNGS

    yield from ("# Settings", "")
    yield "What `--set`, a file, `CONF` and the form in Airflow take. The default is that of a run without a preset."
    section = ""
    for key in config_keys():
        group = key.partition(".")[0]
        if group != section:
            section = group
            yield from ("", f"## {group}", "", "| setting | meaning |", "|---|---|")
        yield f"| `{key}` | {_cell(describe_setting(key, choices=True))} |"
    yield from ("", "## Recipes", "", "As `recipe=NAME`; `recipe=auto` [tries those that are rungs](../recipes.md).")
    yield from ("", "| recipe | what it does | |", "|---|---|---|")
    rungs = {rung.name: rung.summary for rung in RUNGS}
    for name, recipe in RECIPES.items():
        searched = "" if recipe.search == "off" else f"climbs the ladder: recipe.search={recipe.search}"
        yield f"| `{name}` | {_cell(rungs.get(name) or searched or recipe.name)} | {'rung' if name in rungs else ''} |"
    yield from ("", "## Presets", "", "| preset | what it is | you give |", "|---|---|---|")
    for name, preset in PRESETS.items():
        needs = ", ".join(f"`{key}`" for key in preset.needs)
        yield f"| `{name}` | {_cell(preset.description)} | {needs or '–'} |"
    yield from ("", "`hpe presets --show NAME` prints one as a file to copy from.")


def _commands() -> Iterator[str]:
    import typer.main

    from hpe_tasks.cli.app import app

    yield from ("# Commands", "", "Exit status: 0 passed, 1 the gate failed or the checkpoint is below its floor,")
    yield "2 bad input, 3 anything else."

    def shown(command: Any, name: str) -> Iterator[str]:
        if parts := getattr(command, "commands", None):
            for part in sorted(parts):
                yield from shown(parts[part], f"{name} {part}")
            return
        context = command.make_context(name, [], resilient_parsing=True)
        yield from ("", f"## {name}", "", str(command.help or "").replace("\b", "").strip(), "")
        usage = command.collect_usage_pieces(context)
        yield from ("```", f"{name} {' '.join(usage)}", "```")
        rows = [o for p in command.params if (o := p.get_help_record(context)) is not None]
        if rows:
            yield from ("", "| option | meaning |", "|---|---|")
            yield from (f"| `{option.replace('|', ' or ')}` | {_cell(text)} |" for option, text in rows)

    yield from shown(typer.main.get_command(app), "hpe")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
