"""The one error of the testbed: what went wrong, and what its reader can do about it."""

from __future__ import annotations


class TestbedError(Exception):
    """A failure that is told to the user in a sentence, without a traceback."""

    # pytest collects classes whose name begins with Test.
    __test__ = False

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 1) -> None:
        """Keep the hint apart from the message, so that the command line can set it off."""
        super().__init__(f"{message}\n{hint}" if hint else message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
