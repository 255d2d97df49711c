"""The order service of ``faulty``, repaired. ``diff -ru faulty repaired`` shows how."""
