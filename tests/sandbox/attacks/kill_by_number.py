# No process outside the program can be signalled, the supervisor included.
# run: stdin
# expect: ok
# observe: stdout is []
import json, os, sys
reached = []
for pid in [1, os.getppid(), *range(2, 200), json.load(sys.stdin)["pid"]]:
    for number in (1, 2, 9, 15, 19):
        if pid != os.getpid():
            try:
                os.kill(pid, number)
                reached.append(pid)
            except OSError:
                pass
print(reached)
