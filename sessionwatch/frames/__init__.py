"""The user's frame: where something happened, and where a thread or a task is. Knows no SQLAlchemy."""
