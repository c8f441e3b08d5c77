"""Becomes another program that dies with its parent; run as a file, never imported.

    python launch.py PARENT_PID DEATH_SIGNAL UID GID PROGRAM [ARGUMENT ...]

UID or GID -1 keeps the caller's account. This is a program of its own, not subprocess's
`preexec_fn`, because code between fork and exec is unsafe in a process that has threads
(progress bars draw from one). It uses the standard library alone and starts in about 20 ms.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, death_signal, uid, gid = (int(text) for text in sys.argv[1:5])
    if gid >= 0:
        os.setgroups([])
        os.setgid(gid)
    if uid >= 0:
        os.setuid(uid)
    if sys.platform == "linux":
        # After setuid: the kernel clears this setting whenever the account changes.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # the parent died before the kernel was told to watch it
            sys.exit(1)
    os.execv(sys.argv[5], sys.argv[5:])


if __name__ == "__main__":
    main()
