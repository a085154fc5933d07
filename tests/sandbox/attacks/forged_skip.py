# One such status alone neither.
# judge: stdin call script
import os
os.write(3, b'{"status": "skipped", "value": null}')
os._exit(0)
