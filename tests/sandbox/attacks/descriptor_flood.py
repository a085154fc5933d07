# Open files stop at the limit.
# run: stdin
# expect: runtime_error
# observe: stderr has Too many open files
import os
while True:
    os.dup(0)
