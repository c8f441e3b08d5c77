"""Random faults on the whole service, and a check of what came of it: `python -m tests.soak`.

stack     Postgres, Redis, API and two workers on a made-up device, as processes
faults    what happens to them
clients   who submits, cancels and looks meanwhile, and writes down what was answered
history   what must hold of rows and answers in the end: I1 to I5
"""
