# A program that floods before the script has begun leaves nothing for the next run to trip over.
# judge: script
import os
while True:
    os.write(1, b"x" * 2**16)
