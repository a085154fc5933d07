# Without leave to start processes not even one starts.
# run: stdin
# expect: runtime_error
# observe: stderr has Operation not permitted
import os
while True:
    os.fork()
