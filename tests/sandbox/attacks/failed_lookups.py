# Names that are not there are looked up no longer than the CPU limit allows.
# run: stdin
# limits: cpu_seconds=1.0
# expect: timeout
# observe: error has used 1 s of CPU
import os
number = 0
while True:
    number += 1
    try:
        os.stat(f"/usr/lib/{number:0200}")
    except OSError:
        pass
