"""Commands of `convert` with files of their own; the others are in cli.py."""
