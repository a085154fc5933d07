# Nor one that hides the depth in a row of the table.
# judge: stdin call
import os
os.write(3, b'{"status": "ok", "value": [[0], [["str", ' + b"[" * 950 + b"]" * 950 + b"]]]}")
os._exit(0)
