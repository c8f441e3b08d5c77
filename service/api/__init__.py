"""The REST API: one file per group of routes, and the edges every route shares.

body        reads a JSON body strictly
problems    turns errors into application/problem+json
request_ids gives every request an id
protocol    HTTP on httptools, with a bound on heads
auth        Bearer keys
context     what handlers are given: settings, engine, caller, checked queries
objects     the JSON that routes answer with, here and in *_objects (see plain)
described   pieces of the description: problems with examples, headers
openapi     the description at /openapi.json; `python -m service.api` prints it
streams     hands the events of jobs to those who watch them
polls       looks polled jobs up, those of one moment together
search, jobs, events, results, workers, health, metrics    the routes
"""
