"""What an audit found, as plain data: anti-patterns, counts per file and function, and where sessions come from."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

SCHEMA = 1


@dataclass(slots=True)
class Entry:
    """One anti-pattern at one line. ``seen``: a run has met it too; None where no run was asked."""

    pattern: str
    rule: str
    path: str
    line: int
    function: str
    confidence: str  # certain, likely
    message: str
    allowed: str | None = None
    seen: bool | None = None

    @property
    def counts(self) -> bool:
        """Whether it is work left: no comment allows it."""
        return self.allowed is None

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What stays the same when lines move."""
        return self.pattern, self.path, self.function, self.message


@dataclass(slots=True)
class Source:
    """Where sessions come from: a sessionmaker, an engine, a registry, a function or dependency that provides them."""

    kind: str  # sessionmaker, engine, registry, provider, dependency
    name: str
    path: str
    line: int
    asynchronous: bool


@dataclass(slots=True)
class FunctionCount:
    """What one function does with sessions."""

    function: str
    line: int
    is_async: bool
    openings: int = 0
    operations: dict[str, int] = field(default_factory=dict)
    sync_in_async: int = 0


@dataclass(slots=True)
class FileCount:
    """What one file does with sessions."""

    path: str
    lines: int
    sync_openings: int = 0
    async_openings: int = 0
    sync_operations: dict[str, int] = field(default_factory=dict)
    async_operations: dict[str, int] = field(default_factory=dict)
    sync_in_async: int = 0  # operations of sync sessions inside ``async def``
    functions: list[FunctionCount] = field(default_factory=list)

    @property
    def openings(self) -> int:
        return self.sync_openings + self.async_openings

    @property
    def operations(self) -> int:
        return sum(self.sync_operations.values()) + sum(self.async_operations.values())

    @property
    def legacy_queries(self) -> int:
        """Uses of ``session.query()``."""
        return self.sync_operations.get("query", 0) + self.async_operations.get("query", 0)


@dataclass(slots=True)
class Unparsed:
    """A file that could not be read or parsed."""

    path: str
    error: str


@dataclass(slots=True)
class Audit:
    """All of it. ``files`` holds those that use sessions, most work left first."""

    root: str
    scanned: int = 0
    lines: int = 0
    entries: list[Entry] = field(default_factory=list)
    files: list[FileCount] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    unparsed: list[Unparsed] = field(default_factory=list)

    @property
    def failing(self) -> list[Entry]:
        """The certain ones that no comment allows."""
        return [each for each in self.entries if each.counts and each.confidence == "certain"]

    def work(self, path: str) -> list[Entry]:
        """What is left to do in a file."""
        return [each for each in self.entries if each.path == path and each.counts]

    def sort(self) -> None:
        """Most work left first; entries in the order of their files, then of their lines."""
        left = Counter(each.path for each in self.entries if each.counts)
        self.files.sort(key=lambda each: (-left[each.path], -each.legacy_queries, -each.operations, each.path))
        rank = {each.path: number for number, each in enumerate(self.files)}
        self.entries.sort(key=lambda each: (rank.get(each.path, len(rank)), each.path, each.line, each.pattern))
        self.sources.sort(key=lambda each: (each.path, each.line))

    def totals(self) -> dict[str, int]:
        """The figures of the whole tree."""
        counted = [each for each in self.entries if each.counts]
        return {
            "files": self.scanned,
            "files_with_sessions": len(self.files),
            "lines": self.lines,
            "openings": sum(each.openings for each in self.files),
            "operations": sum(each.operations for each in self.files),
            "sync_operations": sum(sum(each.sync_operations.values()) for each in self.files),
            "async_operations": sum(sum(each.async_operations.values()) for each in self.files),
            "sync_in_async": sum(each.sync_in_async for each in self.files),
            "legacy_queries": sum(each.legacy_queries for each in self.files),
            "anti_patterns": len(counted),
            "certain": sum(each.confidence == "certain" for each in counted),
            "likely": sum(each.confidence == "likely" for each in counted),
            "allowed": len(self.entries) - len(counted),
            "unparsed": len(self.unparsed),
        }

    def by_pattern(self) -> dict[str, Counter[str]]:
        """How many certain and likely ones of each anti-pattern are left."""
        found: dict[str, Counter[str]] = {}
        for each in self.entries:
            if each.counts:
                found.setdefault(each.pattern, Counter())[each.confidence] += 1
        return dict(sorted(found.items(), key=lambda item: -sum(item[1].values())))


def file_as_json(audit: Audit, count: FileCount) -> dict[str, object]:
    """A file's counts, with what is left to do in it."""
    work = audit.work(count.path)
    return {
        "path": count.path,
        "lines": count.lines,
        "work": len(work),
        "certain": sum(each.confidence == "certain" for each in work),
        "likely": sum(each.confidence == "likely" for each in work),
        "openings": {"sync": count.sync_openings, "async": count.async_openings},
        "operations": {"sync": count.sync_operations, "async": count.async_operations},
        "sync_in_async": count.sync_in_async,
        "legacy_queries": count.legacy_queries,
        "functions": [asdict(each) for each in count.functions],
    }
