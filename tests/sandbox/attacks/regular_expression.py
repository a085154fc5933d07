# So does a regular expression that never ends, which holds the interpreter's lock.
# run: stdin
# limits: wall_seconds=1.0
# expect: timeout
import re
re.match("(a|a)*b", "a" * 64)
