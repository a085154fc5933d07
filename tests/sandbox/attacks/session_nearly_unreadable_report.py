# One nested as deep as its first reader allows fells no later one.
# run: session
# expect: ok crashed
import os
os.write(3, b'{"status": "ok", "error": "", "value": ' + b"[" * 960 + b"]" * 960 + b"}\0")
