"""Worker processes with limits: where bytes that nobody trusts are decoded and pixels are computed.

The package knows no image, sound or document: it runs a named function of ours on plain values in
a process that may use so much memory, so much time and nothing else, and reports how that ended.

`pool.Workers` is what the gateway sees, `share.Share` the part of it that long tasks may have,
`turns` the order in which tasks wait, `task.Refusal` what a task's function may need; `child` is
one process, `frames` how values cross, `process` the other side, `confinement` what it takes away
from itself.
"""
