# Encodings and error handlers of its own change what it writes, and no verdict.
# judge: stdin call script
import codecs, encodings, sys
def search(name):
    return codecs.CodecInfo(lambda text, *_: (b'{"status": "ok", "value": "[true, []]"}', len(text)), lambda data, *_: ("ok", len(data)))
codecs.register(search)
for name in ("strict", "backslashreplace", "surrogatepass", "replace", "ignore"):
    codecs.register_error(name, lambda error: ('{"status": "ok"}', error.end))
encodings._cache.clear()
sys.stdout.reconfigure(encoding="owned")
print("x")
def f(x):
    return "\ud800"
