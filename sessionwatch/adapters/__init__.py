"""The former address of the middleware in `sessionwatch.units`, kept for programs that import it."""
