"""The Lambda function behind an HTTP address of this machine, with a page to drop pictures on: `hpe serve`.

The function is the one that ships: a request becomes the event that a function URL would make of it, and the answer
becomes a response the same way, so what works here works there.
"""
