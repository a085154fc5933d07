# Or one that is only large, but hashed again and again.
# judge: call
import json, os
def f(x):
    rows = [["int", "f" * 400_000], ["tuple", *[[0]] * 500]]
    rows += [["set", *[[1]] * 100_000]]
    os.write(3, json.dumps({"status": "ok", "value": [[2], rows]}).encode())
    os._exit(0)
