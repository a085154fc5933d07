# A report nested as deep as its first reader allows does not fell the next one.
# judge: stdin call
import os
def report(depth):
    return b'{"status": "ok", "value": ' + b"[" * depth + b"]" * depth + b"}"
os.write(3, report(960))
os._exit(0)
