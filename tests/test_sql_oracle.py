"""A parser's word on which statements write, for the forms that the databases have: sqlglot, in the tests only."""

from __future__ import annotations

import itertools

import pytest
import sqlglot
from sqlglot import exp

from sessionwatch.record.sql import text_write

WRITES = (exp.Insert, exp.Update, exp.Delete, exp.Merge)
FRONTS = ["", "  \n", "-- nightly; DELETE FROM x\n", "/* it's */ ", "/*+ parallel */ "]
STATEMENTS = {
    "mysql": [
        "INSERT INTO t (a) VALUES (1)",
        "INSERT t VALUES (3)",
        "INSERT IGNORE t (a) SELECT a FROM u",
        "INSERT INTO t SET a = 1",
        "REPLACE INTO t VALUES (1)",
        "REPLACE t VALUES (1)",
        "DELETE FROM t WHERE a = 'INSERT INTO x'",
        "DELETE t FROM t JOIN u ON t.a = u.a",
        "UPDATE t SET a = 1 ORDER BY b LIMIT 3",
        "UPDATE t JOIN u ON t.a = u.a SET t.b = 2",
        "SELECT * FROM t FOR UPDATE",
        "SELECT REPLACE(a, 'x', 'y') FROM t",
        "SELECT INSERT(a, 1, 2, 'x') FROM t",
        "SELECT `insert` FROM `update`",
        "WITH a AS (SELECT 1) SELECT * FROM a",
    ],
    "postgres": [
        "INSERT INTO t DEFAULT VALUES",
        "INSERT INTO s.t AS x (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2 RETURNING a",
        "WITH a AS (SELECT 1 AS b) INSERT INTO t SELECT b FROM a",
        "WITH a AS (SELECT 1 AS b) UPDATE t SET b = a.b FROM a",
        "WITH a AS (SELECT 1 AS b) DELETE FROM t USING a WHERE t.b = a.b",
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
        "UPDATE t AS x SET a = 1 FROM u WHERE x.b = u.b",
        "DELETE FROM t USING u WHERE t.a = u.a",
        "SELECT * FROM t WHERE a = $$DELETE FROM x$$",
        'SELECT "insert" FROM "delete" FOR NO KEY UPDATE',
        "SELECT a FROM t WHERE b = 'it''s; UPDATE t SET a = 1'",
        "WITH a AS (SELECT 1 AS merge) SELECT merge FROM a",
        "WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a WHERE n < 3) SELECT * FROM a",
    ],
    "sqlite": [
        "INSERT OR REPLACE INTO t VALUES (1)",
        "REPLACE INTO t VALUES (1)",
        "UPDATE t SET a = 1 WHERE b IN (SELECT b FROM u)",
        "DELETE FROM t",
        "SELECT replace(a, 'x', 'y') FROM t",
        "SELECT [update] FROM [insert]",
    ],
}
CASES = [
    (dialect, f"{front}{statement}")
    for dialect, statements in STATEMENTS.items()
    for front, statement in itertools.product(FRONTS, statements)
]


@pytest.mark.parametrize(("dialect", "statement"), CASES)
def test_a_parser_agrees_on_what_writes(dialect: str, statement: str) -> None:
    """Whatever stands in front, a statement is taken for a write where a parser takes it for one."""
    parsed = sqlglot.parse_one(statement, read=dialect)
    writes = isinstance(parsed, WRITES) or (isinstance(parsed, exp.Command) and parsed.name.upper() == "REPLACE")
    assert (text_write(statement) is not None) == writes


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("DELETE t FROM t JOIN u ON t.a = u.a", "t"),
        ("INSERT t VALUES (3)", "t"),
        ("INSERT IGNORE `t` VALUES (3)", "t"),
        ("REPLACE t VALUES (1)", "t"),
        ("MERGE t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", "t"),
        ("UPSERT INTO t VALUES (1)", "t"),
        ("TRUNCATE ONLY t", "t"),
    ],
)
def test_names_the_table(statement: str, table: str) -> None:
    """The table that is written to, not the one that is read."""
    found = text_write(statement)
    assert found is not None
    assert found[0] == table
