"""What must come of each attack: the reasons that are counted, and what the offender is told."""

from __future__ import annotations

from typing import Final, NamedTuple


class Outcome(NamedTuple):
    """*reasons* as `Arena.reasons` names them, all of which must appear; *told* as the beginning of
    a text that the attacker must have read, if it reads at all."""

    reasons: tuple[str, ...]
    told: str = ""


OUTCOMES: Final[dict[str, Outcome]] = {
    "keepalive_flood": Outcome(("closed keepalive-flood", "limit keepalives_per_second")),
    "announcement_churn": Outcome(
        ("closed announcement-flood", "limit announcements_per_second"),
        "connection: more than 4 announcements per second",
    ),
    "push_flood": Outcome(("closed push-flood", "limit pushes_per_second")),
    "lying_lengths": Outcome(
        ("closed protocol-error", "closed truncated-frame"), "connection: frame length 1"
    ),
    "slowloris": Outcome(
        (
            "closed setup-timeout",
            "limit setup_timeout",
            "closed slow-frame",
            "limit frame_timeout",
        ),
        "connection: no SETUP within 1 s",
    ),
    "connection_storm": Outcome(("closed setup-timeout", "limit setup_timeout")),
    "huge_metadata": Outcome(
        ("limit metadata_entries", "limit metadata_bytes", "calls invalid"), "stream: INVALID: "
    ),
    "empty_metadata_fragments": Outcome(
        ("limit metadata_bytes", "calls invalid"), "stream: INVALID: metadata of 1 bytes in 17"
    ),
    "empty_fragments": Outcome(("limit payload_bytes", "calls canceled")),
    "endless_fragments": Outcome(("limit payload_bytes", "calls canceled")),
    # The protocol wants these ignored; so they are, as long as they are not too many.
    "interleaved_fragments": Outcome(("frames REQUEST_RESPONSE", "closed stray-flood")),
    "unknown_streams": Outcome(("frames CANCEL", "frames PAYLOAD", "closed stray-flood")),
    "wrong_stream_ids": Outcome(("frames REQUEST_RESPONSE", "closed rapid-reset")),
    "open_and_cancel": Outcome(("closed rapid-reset", "limit resets_per_second")),
    "lease_ignored": Outcome(("calls overloaded",), "stream: OVERLOADED(retry_after_ms="),
    "resume_stores": Outcome(("closed resume-timeout", "limit resume_timeout")),
    # Credit is the defence: what nobody reads is not produced, and nothing has to be ended.
    "trickle_without_reading": Outcome(()),
}
