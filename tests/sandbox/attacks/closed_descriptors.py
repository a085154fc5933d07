# Closing every descriptor ends in an ordinary way.
# run: stdin
# expect: ok runtime_error
# observe: stdout is
import os
os.closerange(0, 4096)
