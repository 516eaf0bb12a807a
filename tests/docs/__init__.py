"""What documents are made from, and what they are checked against."""

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def generated():
    """The pages that are written from the source (dict[str, str]: name → text)."""
    from . import api, commands, configuration

    return {
        "api.md": api.page(),
        "command-reference.md": commands.page(),
        "configuration.md": configuration.page(),
    }
