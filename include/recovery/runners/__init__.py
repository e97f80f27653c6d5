"""Where programs run: `base` says what a source may ask of a place for its client tools, `local` is this worker, the only one built.

Always on this worker: the commands of the plan (`commands`), and the servers of a drill (`processes`, `local_server`).
"""
