# Output that is not UTF-8, or holds NUL, comes back as text with marks.
# run: stdin
# expect: ok
# observe: stdout has �
import os
os.write(1, bytes(range(256)) * 100)
os.write(2, bytes(range(256)) * 100)
