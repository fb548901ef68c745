"""Whether there is a reason to quantize again, and which: what a model is made of, and how its requests look.

`looking` evaluates the triggers for one channel; `claims` sees to it that one reason starts one run.
"""
