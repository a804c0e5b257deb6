"""The tests of backgroundr. `forms` comes first: it says of which form of it."""

from . import forms  # noqa: F401
