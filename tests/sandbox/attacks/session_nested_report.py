# A session's report nested beyond any reader's depth is the program's failure.
# run: session
# expect: crashed
import os
os.write(3, b'{"status": "ok", "value": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\0")
