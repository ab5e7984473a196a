"""What a worker tells of its troubles."""

from __future__ import annotations

from flowbinding_worker.trouble import Trouble


def test_a_note_is_told_while_there_is_no_trouble() -> None:
    trouble = Trouble()
    assert (trouble.reason, trouble.message, trouble.version) == ("", "", 0)
    trouble.note("EchoInstead", "no lfx")
    assert (trouble.reason, trouble.message, trouble.version) == ("EchoInstead", "no lfx", 1)
    trouble.report("output", "OutputUnavailable", "away")
    trouble.report("output", "OutputUnavailable", "away")
    assert (trouble.reason, trouble.message, trouble.version) == ("OutputUnavailable", "away", 2)
    trouble.clear("output")
    assert (trouble.reason, trouble.message, trouble.version) == ("EchoInstead", "no lfx", 3)
