"""Everything on one machine: real Postgres and Redis, the API and the workers as child processes.

errors      the one error
accounts    who runs the servers, folders that account reaches, temporary homes
binaries    the server programs inside the installed wheels
launch      a program of its own: becomes a server that dies with us
processes   child processes with log, orderly stop and leftovers of killed runs
server      what the two servers share
postgres    EmbeddedPostgres
redis       EmbeddedRedis
signals     Ctrl-C and kill end a stack in order
stack       Stack: all of it, in the right order, up and down
"""
