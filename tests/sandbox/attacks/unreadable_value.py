# A value written by hand that breaks every rule of the table is the program's failure.
# judge: call
import json, os
VALUES = [[[0], [["object", "int"]]], [[5], []], [[0], [["tuple", [0]]]], {"a": 1}, "xx", [[[0]], [["x"]]]]
def f(x):
    os.write(3, json.dumps({"status": "ok", "value": VALUES[x]}).encode())
    os._exit(0)
