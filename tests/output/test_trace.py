"""The format ``trace``: Chrome trace events."""

from __future__ import annotations

import json
from typing import Any

from sessionwatch.output.trace import trace
from tests.output.sample import hostile, shop

Event = dict[str, Any]


def events(text: str) -> list[Event]:
    made: list[Event] = json.loads(text)["traceEvents"]
    return made


def test_slices_nest() -> None:
    """On each track slices lie inside of each other or apart, as the format wants."""
    tracks: dict[int, list[tuple[float, float]]] = {}
    for event in events(trace(*shop())):
        if event["ph"] == "X":
            tracks.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    for slices in tracks.values():
        for one in slices:
            for other in slices:
                assert (
                    other[0] >= one[1]
                    or other[1] <= one[0]
                    or one[0] <= other[0] <= other[1] <= one[1]
                    or (other[0] <= one[0] <= one[1] <= other[1])
                )


def test_tracks_are_named() -> None:
    """Each track that has an event has a name: a unit, a thread or a task."""
    made = events(trace(*shop()))
    named = {event["tid"] for event in made if event["name"] == "thread_name"}
    assert {event["tid"] for event in made if event["ph"] != "M"} <= named


def test_sessions_transactions_and_connections() -> None:
    """Each session is a slice, with its transactions and the connection that it held."""
    made = [event["cat"] for event in events(trace(*shop())) if event["ph"] == "X"]
    assert (made.count("session"), made.count("transaction"), made.count("connection")) == (7, 7, 7)


def test_arrow_from_the_close_to_the_touch() -> None:
    """A finding after a session's end has an arrow, from the last moment of the session to itself."""
    made = events(trace(*shop()))
    start = next(event for event in made if event["ph"] == "s")
    end = next(event for event in made if event["ph"] == "f")
    assert (start["id"], start["ts"]) == (end["id"], 160_000 - 1)
    assert end["ts"] == 220_000


def test_every_finding_is_there() -> None:
    """Each finding of the recording is an event, with its message and place."""
    told = [event.get("args", {}) for event in events(trace(*shop()))]
    found = {one["fingerprint"] for one in told if "fingerprint" in one}
    assert found == {f"{number:016x}" for number in range(1, 6)}


def test_findings_alone() -> None:
    """Without a recording, the findings are there at the time at which they were met."""
    made = [event for event in events(trace(shop()[0])) if event["ph"] == "i"]
    assert [event["name"] for event in made] == [one["rule"] for one in shop()[0]]


def test_hostile_names_are_data() -> None:
    """Names with control characters make valid JSON of printable characters."""
    text = trace(*hostile())
    assert text.isascii()
    assert json.loads(text)
