"""The kinds of source, each a folder; `registry` finds them, `base` says what each does."""
