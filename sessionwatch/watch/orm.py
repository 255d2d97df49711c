"""Imports SQLAlchemy's ORM and does nothing else, for those who import our own modules and then install.

`sessionwatch run` installs as soon as the ORM is there, and puts that off where it finds our modules incomplete until
they are complete. Where a finder in front of its own imports them, as pytest's does for the package of a plugin that
is installed, it is not told of that. So they come after SQLAlchemy.
"""

import sqlalchemy.orm  # noqa: F401
