"""Takes secrets out of whatever the worker says: logs, conditions, headers of dead letters."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Iterator

SHOWN = "***"
MIN_LENGTH = 4
"""Shorter ones are no secrets, and would tear holes into every text."""


class Redactor:
    """Knows every secret that this process has read, in the forms in which it may come back."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._forms: list[str] = []

    def learn(self, secret: str) -> None:
        """Never say this again. Cheap when it is known."""
        if secret in self._known or len(secret) < MIN_LENGTH:
            return
        self._known.add(secret)
        self._prepare()

    def forget(self, secret: str) -> None:
        """It is of no use any more: what comes and goes must not pile up here."""
        if secret in self._known:
            self._known.remove(secret)
            self._prepare()

    def _prepare(self) -> None:
        forms = {form for text in self._known for form in _forms(text)}
        # The longest first: one secret may be part of another.
        self._forms = sorted(forms, key=len, reverse=True)

    def learn_url(self, url: str) -> None:
        """A URL may hold a password, which travels as HTTP's basic authentication."""
        try:
            parts = urllib.parse.urlsplit(url)
        except ValueError:
            # Nothing can be called there, so that it travels nowhere.
            return
        if parts.password:
            user, password = map(urllib.parse.unquote, (parts.username or "", parts.password))
            self.learn(password)
            self.learn(parts.password)
            self.learn(base64.b64encode(f"{user}:{password}".encode()).decode())

    def __call__(self, text: str) -> str:
        """The text without secrets."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, SHOWN)
        return text


def _forms(text: str) -> Iterator[str]:
    """A secret as it is, and as it appears in JSON."""
    yield text
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield (escaped := json.dumps(text)[1:-1])
    # PHP escapes the one, .NET the other, and base64 has both.
    yield escaped.replace("/", "\\/")
    yield escaped.replace("+", "\\u002B")


redact = Redactor()
"""What this process knows: as logging, one for all of it."""
