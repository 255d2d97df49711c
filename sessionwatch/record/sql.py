"""What the text of a statement says: whether it writes, and what to call it. No value is ever kept."""

from __future__ import annotations

import re
from functools import cache

_compiled = cache(re.compile)  # by its first use: many programs have no statement as text

# A backslash is taken for an escape, and what is never closed for a literal to the end: rather too
# much of a statement is passed over than a value kept.
_ORACLE = r"\bn?q'(?:\[.*?\]'|\{.*?\}'|\(.*?\)'|<.*?>'|(?P<mark>\S).*?(?P=mark)')"
_LITERAL = rf"(?i:{_ORACLE})|'(?:[^'\\]|''|\\.)*(?:'|\Z)|(?P<tag>\$\w*\$).*?(?:(?P=tag)|\Z)"
_COMMENT = r"--[^\n]*|/\*.*?(?:\*/|\Z)"
_QUOTED = r'"(?:[^"\\]|""|\\.)*(?:"|\Z)|`(?:[^`]|``)*(?:`|\Z)'  # a name; in MySQL perhaps a string
_PASSED_OVER = rf"(?s)(?P<literal>{_LITERAL})|(?P<comment>{_COMMENT})|(?P<quoted>{_QUOTED})"
_STAND_IN = r'"\ue000(\d+)"'  # for what is quoted: no keyword is looked for inside of it
_GROUP = r"(?i)\((?!\s*(?:SELECT|WITH|INSERT|UPDATE|DELETE|MERGE)\b)[^()]*\)"

_PART = r'(?:"(?:[^"]|"")+"|`[^`]+`|\[[^\]]+\]|[^\W\d][\w$]*)'
_NAME = rf"\s*(?P<name>{_PART}(?:\s*\.\s*{_PART})*)"
_INSERT = r"INSERT(?:\s+(?:OR\s+\w+|LOW_PRIORITY|HIGH_PRIORITY|DELAYED|IGNORE))*(?:\s+INTO)?\b"
_UPDATE = r"UPDATE(?:\s+(?:OR\s+\w+|LOW_PRIORITY|IGNORE|ONLY))*\b"
_DELETE = r"DELETE(?:\s+(?:LOW_PRIORITY|QUICK|IGNORE))*(?:\s+FROM(?:\s+ONLY)?)?\b"
_DELETE_FROM = r"DELETE(?:\s+\w+)*?\s+FROM(?:\s+ONLY)?\b"
_REPLACE = r"REPLACE(?:\s+(?:LOW_PRIORITY|DELAYED))?(?:\s+INTO)?\b"
_OTHERS = r"(?:MERGE|UPSERT)(?:\s+INTO)?\b|TRUNCATE(?:\s+TABLE)?(?:\s+ONLY)?\b|COPY\b"
_FIRST = rf"(?i)[\s(]*(?:{_INSERT}|{_REPLACE}|{_UPDATE}|{_DELETE}|{_OTHERS}){_NAME}"
_WITH = r"(?i)[\s(]*WITH\b"
_SET = rf"(?=\s*{_PART}(?:\s*\.\s*{_PART})*(?:\s+(?:AS\s+)?\w+)?\s+SET\b)"  # not FOR UPDATE
_INSIDE = (
    rf"(?i)\b(?:INSERT(?:\s+\w+)*?\s+INTO\b|REPLACE\s+INTO\b|{_DELETE_FROM}|MERGE\s+INTO\b|{_UPDATE}{_SET}){_NAME}"
)
_COPY_IN = r"(?i)\bFROM\b"
_END = r"(?i)\s*(?:COMMIT|ROLLBACK|ABORT|END)(?:\s+(?:WORK|TRANSACTION))?\s*;?\s*"
_TEMPORARY = rf"(?i)\s*CREATE\s+(?:(?:GLOBAL|LOCAL)\s+)?TEMP(?:ORARY)?\s+TABLE(?:\s+IF\s+NOT\s+EXISTS)?{_NAME}"
_DEFINITION = r"(?i)\s*(?:CREATE|ALTER|DROP|RENAME|TRUNCATE)\s+(?!TEMPORARY\b)"
_KIND = r"(?:TABLE|INDEX|VIEW|SCHEMA|SEQUENCE|TYPE|FUNCTION|PROCEDURE|TRIGGER|EXTENSION|DOMAIN|ROLE|POLICY|RULE)"
_DEFINED = (
    r"(?i)\s*(?P<verb>CREATE|ALTER|DROP)(?:\s+(?:OR\s+REPLACE|UNIQUE|MATERIALIZED|UNLOGGED|CONSTRAINT|RECURSIVE))*"
    rf"\s+(?P<kind>{_KIND})\b(?!\s+(?:IF|CONCURRENTLY)\b)(?:\s+ONLY\b)?{_NAME}"
)
_NO_WRITE = r"(?i)[\s(]*(?:MOVE|FETCH|SHOW|EXPLAIN|SET|COPY|DECLARE|SELECT\b.*\bINTO\s+(?:@|OUTFILE\b|DUMPFILE\b|TEMP))"
_KEYWORD = r"[\s(]*([A-Za-z]+)"
_TABLE = rf"(?i)(?:\A[\s(]*COPY|\b(?:(?<!DISTINCT\s)FROM|INTO|(?<!FOR\s)(?<!KEY\s)UPDATE|JOIN|TABLE))\b{_NAME}"
_VERBS = {"INSERT": "inserted", "UPDATE": "updated", "DELETE": "deleted", "TRUNCATE": "deleted", "COPY": "inserted"}
_DEFINING = {"CREATE": "created", "ALTER": "altered", "DROP": "dropped"}
DEFINED = frozenset(_DEFINING.values())  # the verbs of what is no row


def text_write(statement: str) -> tuple[str, str] | None:
    """The table and the verb of a statement given as text, if its keywords say that it writes.

    Volatile functions and ``DO`` blocks can't be seen. String literals and comments are not looked into.
    """
    bare, quoted = _bare(statement)
    match = _compiled(_FIRST).match(bare)
    if match is None and _compiled(_WITH).match(bare):
        match = _compiled(_INSIDE).search(bare)
    if match is None:
        return None
    keyword = _keyword(match[0])
    if keyword == "COPY" and not _compiled(_COPY_IN).search(bare, match.end()):
        return None
    return _plain(match["name"], quoted), _VERBS.get(keyword, "written")


def temporary_table(statement: str) -> str | None:
    """The name of the temporary table that a statement given as text makes."""
    bare, quoted = _bare(statement)
    match = _compiled(_TEMPORARY).match(bare)
    return _plain(match["name"], quoted) if match is not None else None


def definition(statement: str) -> tuple[str, str, str] | None:
    """What a statement defines, alters or drops: its name, the verb, and what it is (a table, an index and the like).

    None for what need not do anything (``IF EXISTS``), and for what is no part of a transaction.
    """
    bare, quoted = _bare(statement)
    match = _compiled(_DEFINED).match(bare)
    if match is None:
        return None
    return _plain(match["name"], quoted), _DEFINING[match["verb"].upper()], match["kind"].lower()


def only_reads(statement: str) -> bool:
    """Whether rows that a driver counts were certainly not written, as of ``SELECT … INTO @variable``."""
    return re.match(_NO_WRITE, _bare(statement)[0], re.DOTALL) is not None


def named_table(statement: str) -> str:
    """What to call the rows of a statement that is not understood."""
    bare, quoted = _bare(statement)
    match = _compiled(rf"(?i)\s*CALL\b{_NAME}").match(bare)
    return _plain(match["name"], quoted) if match else (summary(statement) or "").partition(" ")[2] or "a table"


def ends_transaction(statement: str) -> bool:
    """Whether a statement given as text is a COMMIT or ROLLBACK of the whole transaction."""
    return _compiled(_END).fullmatch(_bare(statement)[0]) is not None


def commits_implicitly(statement: str) -> bool:
    """Whether MySQL, MariaDB and Oracle commit the transaction before and after such a statement."""
    return _compiled(_DEFINITION).match(_bare(statement)[0]) is not None


def summary(statement: str | None) -> str | None:
    """Operation and table of a statement, without a value: ``SELECT orders``."""
    if not statement:
        return None
    bare, quoted = _bare(statement)
    keyword = _keyword(bare)
    shorter = _compiled(_GROUP).sub(" ", bare)
    while shorter != bare:  # arguments: trim(x FROM y) names no table
        bare, shorter = shorter, _compiled(_GROUP).sub(" ", shorter)
    match = _compiled(_TABLE).search(bare)
    return f"{keyword} {_plain(match['name'], quoted) if match else ''}".strip()


def _bare(statement: str) -> tuple[str, list[str]]:
    """The statement with empty literals, without comments, and with stand-ins for what is quoted; what they stand for.

    In MySQL a string may be what looks like a quoted name: it is one only where a table is expected.
    """
    quoted: list[str] = []

    def kept(match: re.Match[str]) -> str:
        if match["quoted"] is None:
            return "''" if match["literal"] else " "
        quoted.append(match[0])
        return f'"\ue000{len(quoted) - 1}"'

    return _compiled(_PASSED_OVER).sub(kept, statement), quoted


def _keyword(text: str) -> str:
    match = _compiled(_KEYWORD).match(text)
    return match[1].upper() if match is not None else ""


def _plain(name: str, quoted: list[str]) -> str:
    name = _compiled(_STAND_IN).sub(lambda match: quoted[int(match[1])], name)
    return re.sub(r'["`\[\]]|\s*(\.)\s*', r"\1", name)
