"""Where programs run: `base` says what a runner does for a source's tools, `local` is this worker; ways to servers, drill servers."""
