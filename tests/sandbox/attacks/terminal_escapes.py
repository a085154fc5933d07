# Escape sequences in the output come back as data, and only there.
# run: stdin
# expect: ok
# observe: stdout has [2J
import sys
for stream in (sys.stdout, sys.stderr):
    stream.write("\x1b]0;openqwq\x07\x1b[2J\x1b[6n\x9b31m\r\b")
