# A session's forged report ends it or lies to its own user, and reaches nobody else.
# run: session
# expect: ok crashed
import os
os.write(3, b'{"status": "ok", "value": [[[1]], 7], "error": [1, {"a": 2}]}\0' * 3)
