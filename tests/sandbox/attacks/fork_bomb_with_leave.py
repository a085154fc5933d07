# A fork bomb stops at the limit and dies whole with its case.
# run: stdin
# limits: processes=8 wall_seconds=1.5
# expect: timeout
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
