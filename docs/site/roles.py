"""Docstrings on the site: Sphinx's roles and literal blocks as Markdown."""

import re

import griffe


class Roles(griffe.Extension):
    """Rewrites the docstrings of all objects."""

    def on_object(self, *, obj, **kwargs):
        """Rewrite one docstring."""
        if obj.docstring:
            text = re.sub(r":\w+:`[~.]*([^`]+)`", r"`\1`", obj.docstring.value)
            text = re.sub(r"(?m)(?:^| )::$", "", text)
            text = re.sub(r"(?m)::$", ":", text)
            obj.docstring.value = text.replace("``", "`")
