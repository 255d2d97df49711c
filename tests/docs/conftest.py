"""The files that pages take for granted are no tests of ours."""

collect_ignore = ["files"]
