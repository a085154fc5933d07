# So does the result channel.
# run: stdin
# expect: output_limit
import os
while True:
    os.write(3, b"x" * 10**5)
