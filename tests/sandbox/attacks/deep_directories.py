# Directories deeper than any path can name are gone with the case.
# run: stdin
# cases: 3
# expect: ok
# observe: stdout is ['.stdin']
import os
print(os.listdir("/tmp"))
for _ in range(3000):
    try:
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    except OSError:
        break
