"""Where a source's client tools run: one module a place, all with the same names.

- ``find_tool(name, folders)``: the path of a tool there, or an error that says where it was looked for;
- ``tool(argv, env=..., output=..., feed=..., on_line=...)``: a tool that runs for the length of a block, with its pipes;
- ``run(argv, env=...)``: a tool that runs to its end, and what it printed.

A runner sees the staging folder under the path that the worker sees it under: dumps are written there. Secrets reach a
tool by environment or by a 0600 file in staging, never by argv. Only :mod:`recovery.runners.local` is built.
"""
