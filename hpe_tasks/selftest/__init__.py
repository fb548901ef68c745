"""The self-test: plants faults on a healthy run, and tries whether the guard of each refuses it.

Every guard is the pipeline's own, reached as a run reaches it; nothing of it is repeated here. A further fault is an
entry of the list in `hpe_tasks.selftest.faults`, and a function that plants it.
"""
