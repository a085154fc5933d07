# Nor one that hides it in the message.
# judge: stdin call
import os
os.write(3, b'{"status": "runtime_error", "error": ' + b"[" * 970 + b"]" * 970 + b"}")
os._exit(1)
