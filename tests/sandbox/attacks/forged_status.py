# The statuses that mean the judge's own failure cannot be claimed, so nothing is dropped unscored.
# judge: stdin call script
import os
for status in (b"error", b"skipped", b"unconfined", b"ended"):
    os.write(3, b'{"status": "' + status + b'", "error": "the sandbox failed"}')
os._exit(1)
