"""What the stages cost on this machine: `coinspace bench` and `coinspace profile`.

`runs` connects each stage to an input, `wire` feeds a stage over a socket, `commands` measures
stages, `profile` samples one. No process of the platform imports these tools.
"""
