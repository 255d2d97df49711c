"""What the text of a statement says: whether it writes, and what to call it."""

from __future__ import annotations

import random
import re

import pytest

from sessionwatch.record.sql import ends_transaction, summary, text_write

WRITES = [
    ("INSERT INTO orders (id) VALUES (1)", ("orders", "inserted")),
    ("insert into orders values (1)", ("orders", "inserted")),
    ("  \n\tINSERT\n INTO\n orders DEFAULT VALUES", ("orders", "inserted")),
    ("INSERT OR REPLACE INTO orders VALUES (1)", ("orders", "inserted")),
    ("INSERT OR IGNORE INTO orders VALUES (1)", ("orders", "inserted")),
    ("INSERT IGNORE INTO orders VALUES (1)", ("orders", "inserted")),
    ("INSERT LOW_PRIORITY IGNORE INTO orders VALUES (1)", ("orders", "inserted")),
    ("INSERT INTO orders(id) VALUES (1)", ("orders", "inserted")),
    ("REPLACE INTO orders VALUES (1)", ("orders", "written")),
    ("UPDATE orders SET status = 'x'", ("orders", "updated")),
    ("UPDATE ONLY orders SET status = 'x'", ("orders", "updated")),
    ("UPDATE OR IGNORE orders SET status = 'x'", ("orders", "updated")),
    ("DELETE FROM orders", ("orders", "deleted")),
    ("DELETE FROM ONLY orders WHERE id = 1", ("orders", "deleted")),
    ("DELETE QUICK FROM orders", ("orders", "deleted")),
    ("MERGE INTO orders USING new ON TRUE WHEN MATCHED THEN DELETE", ("orders", "written")),
    ("TRUNCATE orders", ("orders", "deleted")),
    ("TRUNCATE TABLE orders CASCADE", ("orders", "deleted")),
    ("COPY orders FROM STDIN", ("orders", "inserted")),
    ("COPY orders (id, status) FROM '/tmp/x'", ("orders", "inserted")),
    ('INSERT INTO "orders" VALUES (1)', ("orders", "inserted")),
    ('INSERT INTO"orders"VALUES (1)', ("orders", "inserted")),
    ('INSERT INTO "my orders" VALUES (1)', ("my orders", "inserted")),
    ('UPDATE "shop"."order" SET x = 1', ("shop.order", "updated")),
    ("UPDATE shop.orders SET x = 1", ("shop.orders", "updated")),
    ("UPDATE `shop`.`orders` SET x = 1", ("shop.orders", "updated")),
    ("DELETE FROM [dbo].[orders]", ("dbo.orders", "deleted")),
    ("/* nightly */ INSERT INTO orders VALUES (1)", ("orders", "inserted")),
    ("-- it's nightly\nINSERT INTO orders VALUES (1)", ("orders", "inserted")),
    ("UPDATE /* all */ orders SET x = 1", ("orders", "updated")),
    ("WITH new AS (SELECT 1) INSERT INTO orders SELECT * FROM new", ("orders", "inserted")),
    ("WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone", ("orders", "deleted")),
    ("WITH a AS (SELECT 1) UPDATE orders SET x = 1", ("orders", "updated")),
    ("WITH a AS (SELECT 1) UPDATE ONLY orders SET x = 1", ("orders", "updated")),
    ("WITH a AS (SELECT 1) UPDATE orders AS o SET x = 1", ("orders", "updated")),
    ("WITH a AS (SELECT 1) MERGE INTO orders USING a ON TRUE WHEN MATCHED THEN DELETE", ("orders", "written")),
    ("WITH a AS (SELECT 'it''s; DELETE FROM x') INSERT INTO orders SELECT 1", ("orders", "inserted")),
]

READS = [
    "SELECT 1",
    "SELECT * FROM orders",
    "SELECT * FROM orders FOR UPDATE",
    "SELECT * FROM orders FOR NO KEY UPDATE OF orders SKIP LOCKED",
    "WITH a AS (SELECT * FROM orders FOR UPDATE) SELECT * FROM a",
    "WITH a AS (SELECT * FROM orders FOR UPDATE OF orders) SELECT * FROM a",
    "SELECT 'INSERT INTO orders VALUES (1)'",
    "SELECT '-- ' , 'UPDATE orders SET x = 1'",
    "SELECT $$DELETE FROM orders$$",
    "WITH a AS (SELECT 'INSERT INTO orders VALUES (1)') SELECT * FROM a",
    "WITH a AS (SELECT $q$DELETE FROM orders$q$) SELECT * FROM a",
    "WITH a AS (SELECT 1 /* INSERT INTO orders */) SELECT * FROM a",
    "SELECT 1 -- INSERT INTO orders",
    "/* INSERT INTO orders VALUES (1) */ SELECT 1",
    "-- INSERT INTO orders\nSELECT 1",
    "SELECT replace(name, 'a', 'b') FROM orders",
    "COPY orders TO STDOUT",
    "COPY (SELECT * FROM orders) TO STDOUT",
    "CREATE TABLE orders (id INT)",
    "SELECT inserted, updated FROM orders",
    "SET TRANSACTION READ ONLY",
    "SAVEPOINT a",
    "",
    "   ",
    "'INSERT INTO orders",
]

SUMMARIES = [
    ("SELECT * FROM orders WHERE id = 7", "SELECT orders"),
    ("select id from orders", "SELECT orders"),
    ("SELECT a.id FROM shop.orders AS a JOIN items ON 1 = 1", "SELECT shop.orders"),
    ("INSERT INTO orders (id, status) VALUES (1, 'new')", "INSERT orders"),
    ("UPDATE orders SET status = 'new'", "UPDATE orders"),
    ("DELETE FROM orders WHERE name = 'Ada'", "DELETE orders"),
    ("/* by Ada */ SELECT * FROM orders", "SELECT orders"),
    ("(SELECT 1 FROM a) UNION (SELECT 2 FROM b)", "SELECT a"),
    ("SELECT x FROM (SELECT y FROM orders) AS z", "SELECT orders"),
    ("SELECT substring(name FROM 2 FOR 3) FROM orders", "SELECT orders"),
    ('SELECT trim("Ada" FROM "Ada Ada") FROM orders', "SELECT orders"),
    ("SELECT extract(year FROM f(created)) FROM orders", "SELECT orders"),
    ("SELECT 1 IS DISTINCT FROM 2", "SELECT"),
    ("SELECT 1 FOR UPDATE SKIP LOCKED", "SELECT"),
    ("VALUES (1, 2)", "VALUES"),
    ("VALUES(42)", "VALUES"),
    ("SELECT'Ada'", "SELECT"),
    ("CREATE TABLE orders (id INT)", "CREATE orders"),
    ("TRUNCATE TABLE orders", "TRUNCATE orders"),
    ("BEGIN", "BEGIN"),
    ("'Ada'", ""),
    ("", None),
    (None, None),
]

ENDS = ["COMMIT", "commit;", " ROLLBACK ", "END TRANSACTION", "ABORT WORK", "/* done */ COMMIT"]
NO_ENDS = ["ROLLBACK TO SAVEPOINT a", "COMMIT PREPARED 'x'", "RELEASE SAVEPOINT a", "SELECT 'COMMIT'", "SELECT 1", ""]


@pytest.mark.parametrize(("statement", "expected"), WRITES)
def test_a_write_is_seen(statement: str, expected: tuple[str, str]) -> None:
    """A writing statement gives its table, without quotes, and what was done to it."""
    assert text_write(statement) == expected


@pytest.mark.parametrize("statement", READS)
def test_ignores_what_does_not_write(statement: str) -> None:
    """Reads, locks, DDL, and the words of a write inside of literals and comments are no writes."""
    assert text_write(statement) is None


@pytest.mark.parametrize(("statement", "expected"), SUMMARIES)
def test_a_summary(statement: str | None, expected: str | None) -> None:
    """The operation and the first table."""
    assert summary(statement) == expected


@pytest.mark.parametrize("statement", ENDS)
def test_the_end_of_a_transaction_is_seen(statement: str) -> None:
    """COMMIT and ROLLBACK as text, in their spellings."""
    assert ends_transaction(statement)


@pytest.mark.parametrize("statement", NO_ENDS)
def test_ignores_what_ends_no_transaction(statement: str) -> None:
    """Savepoints, prepared transactions and literals leave the transaction open."""
    assert not ends_transaction(statement)


SECRETS = [
    "secret",
    "secret FROM secret",
    "it''s secret",
    "a\\'secret",
    "1 INTO secret",
    "-- secret",
    "secret */",
    "UPDATE secret",
]
TEMPLATES = [
    "SELECT * FROM orders WHERE name = {}",
    "SELECT {} FROM orders",
    "SELECT {}",
    "INSERT INTO orders VALUES ({}, {})",
    "UPDATE orders SET name = {} WHERE name = {}",
    "DELETE FROM orders WHERE name IN ({}, {})",
    "WITH a AS (SELECT {} AS x) INSERT INTO orders SELECT {} FROM a",
    "SELECT substring({} FROM {}) FROM orders JOIN items ON {} = {}",
    "SELECT position({} IN {}), trim(both FROM {}), extract(year FROM {})",
    "SELECT f({}, g({} , h({})))",
    "CALL f({})",
    "VALUES ({})",
    "VALUES({})",
    "SELECT{}",
    "{}",
    "/* secret */ SELECT {} -- secret",
]


def _quoted(value: str, generator: random.Random) -> str:
    """One of the ways to write a literal."""
    number = str(generator.randrange(10_000_000, 99_999_999))
    return generator.choice([f"'{value}'", f"E'{value}'", f"N'{value}'", f"$${value}$$", f"$t${value}$t$", number])


def test_no_literal_survives_in_a_summary() -> None:
    """Whatever literals a statement carries and wherever it carries them, the summary has none of them."""
    generator = random.Random(20261121)
    for _ in range(4000):
        template = generator.choice(TEMPLATES)
        literals = [_quoted(generator.choice(SECRETS), generator) for _ in range(template.count("{}"))]
        statement = template.format(*literals)
        for text in (statement, statement.lower(), statement.replace(" ", "\n")):
            told = summary(text)
            assert told is not None
            assert "secret" not in told.lower(), text
            assert not re.search(r"\d", told), text


def test_no_literal_survives_in_a_cut_off_statement() -> None:
    """A statement that ends in the middle of a literal or comment keeps none of it."""
    whole = "SELECT * FROM orders WHERE a = 'secret FROM secret' AND b = $$INTO secret$$ /* FROM secret */"
    for length in range(1, len(whole) + 1):
        told = summary(whole[:length])
        assert told is not None
        assert "secret" not in told


def test_takes_linear_time_on_hostile_input() -> None:
    """Deep brackets, endless quotes and endless names come to an end, and to the answer of short ones."""
    repeated = ["'" * 20_001, '"' * 20_001, "SELECT " + "(a" * 3000, "(" * 5000 + ")" * 5000]
    assert [summary(text) for text in repeated] == ["", "", "SELECT", ""]
    assert [text_write(text) for text in repeated] == [None] * 4
    name = "a." * 20_000 + "a"
    assert (summary(f"INSERT INTO {name}"), text_write(f"INSERT INTO {name}")) == (f"INSERT {name}", (name, "inserted"))
