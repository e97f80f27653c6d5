"""The kinds of source, each a folder; `registry` lists them, `base` says what each does."""
