"""SQLAlchemy -> events. The only package that knows SQLAlchemy; `table` says what it touches."""
