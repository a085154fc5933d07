# So do errors.
# run: stdin
# expect: output_limit
import os
while True:
    os.write(2, b"x" * 10**5)
