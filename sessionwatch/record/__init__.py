"""Who opened, used and closed which session: records, counters, events, the watchdog. Knows no SQLAlchemy."""
