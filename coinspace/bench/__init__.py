"""What the stages cost on this machine: `coinspace bench` and `coinspace profile`.

`runs` puts each stage behind an input, `wire` feeds one over a socket, `commands` measures them,
`profile` samples one. Tools on top of the stages: no process of the platform imports them.
"""
