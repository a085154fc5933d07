# Frames of the inner protocol, on every descriptor, make the script fail.
# judge: script
import json, os
for data in ({"status": "ok"}, {"status": "ended"}, {"status": "unconfined"}, ["value", [True, []]], ["value"]):
    frame = json.dumps(data).encode()
    for number in range(3, 64):
        try:
            os.write(number, len(frame).to_bytes(4, "big") + frame)
        except OSError:
            pass
os._exit(0)
