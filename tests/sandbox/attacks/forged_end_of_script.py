# Neither a huge nor a torn frame ends the script well.
# judge: script
import os
def f(x):
    os.write(5, (2**31).to_bytes(4, "big") + b"x" * 100)
    os._exit(0)
