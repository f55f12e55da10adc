"""Conformance: raw frames to an RSocket peer, and a verdict on each requirement of the protocol.

In the order of the imports: `catalogue` (what is required), `verdicts`, `seen_frame`, `wire` and
`raw_peer` (the other side of the subject), `application` and `subjects` (what is tested),
`registry`, `bench` and `cases` (how it is tried), `runner`, `report`. As a program: the command
`rsocket-mesh conformance URL`, or `python -m rsocket_mesh.testing.conformance` for what is ours.

    subject = ForeignServer("tcp://127.0.0.1:7000", {"echo": ""})
    await subject.open()
    report = await run(subject)
    Path("conformance.xml").write_bytes(to_junit(report))
"""

from rsocket_mesh.testing.conformance.catalogue import REQUIREMENTS, SECTIONS, Requirement
from rsocket_mesh.testing.conformance.report import to_document, to_junit, to_markdown
from rsocket_mesh.testing.conformance.runner import (
    CASE_TIMEOUT,
    Outcome,
    Report,
    run,
    try_requirement,
)
from rsocket_mesh.testing.conformance.subjects import (
    BrokerSubject,
    ClientSubject,
    ForeignServer,
    ServerSubject,
    Subject,
)
from rsocket_mesh.testing.conformance.verdicts import Verdict

__all__ = [
    "CASE_TIMEOUT",
    "REQUIREMENTS",
    "SECTIONS",
    "BrokerSubject",
    "ClientSubject",
    "ForeignServer",
    "Outcome",
    "Report",
    "Requirement",
    "ServerSubject",
    "Subject",
    "Verdict",
    "run",
    "to_document",
    "to_junit",
    "to_markdown",
    "try_requirement",
]
