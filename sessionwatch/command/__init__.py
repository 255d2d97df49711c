"""The ``sessionwatch`` command."""
