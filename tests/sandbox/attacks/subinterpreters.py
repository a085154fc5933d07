# An interpreter inside the interpreter is confined with it.
# run: stdin
# expect: ok
# observe: stdout is 0
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    try:
        import _interpreters as interpreters
    except ImportError:
        interpreters = None
text = "import os, socket\nfor attempt in (socket.socket, os.fork, lambda: open('/etc/passwd'), lambda: os.listdir('/')):\n    try: attempt()\n    except (OSError, RuntimeError): continue\n    os.write(1, b'escaped')"
if interpreters:
    identifier = interpreters.create()
    interpreters.run_string(identifier, text)
print(0)
